//! The embedded store of Meanwhile: one SQLite file, opened by as many processes as there are.
//!
//! | module | question it answers |
//! |---|---|
//! | `schema` | how is the file made and opened, and what is in it? (`schema.sql`, `letters.sql`, documented for whoever queries it) |
//! | `rows` | how does a row become a job, and back? |
//! | `writer` | how do many writes share one flush to the disk? |
//! | `log` | what keeps a flush cheap? |
//! | `commands` | what does a write do? |
//! | `sessions` | what is written and read of sessions and their letters? |
//! | `reader` | who reads? |
//! | `queries` | what is read, and by which index? |
//! | `watch` | how is it noticed that another process has written? |
//! | `fault` | what is said when the disk is full, the file locked, or the folder not ours? |
//!
//! Invariants: nothing touches the disk before the first use; nothing blocks the async runtime; nothing is told before it
//! is committed; no rule about jobs lives here, they are all in [`meanwhile_core::machine`].

mod commands;
mod fault;
mod log;
mod queries;
mod reader;
mod rows;
mod schema;
mod sessions;
mod watch;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use meanwhile_core::changes::Changes;
use meanwhile_core::event::Event;
use meanwhile_core::job::{Input, Peer};
use meanwhile_core::store::{Created, KeptSession, Letter, NewJob, Query};
use meanwhile_core::{Clock, Durations, Handle, Job, Json, Op, Snapshot, Store, StoreError, Timestamp};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use fault::gone;
use reader::Lane;
use writer::{Call, Command, Committed, Told, Tx};

/// How many writes may wait before callers wait for room.
const WAITING_MAX: usize = 1024;

/// What the threads of one store share.
struct Shared {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    changes: Arc<Changes>,
    commits: AtomicU64,
    /// Whether the file is there with its tables, so that it can be read.
    is_ready: AtomicBool,
    /// How often the writer has opened the file. It may be another file each time, so readers open it anew too.
    opened: AtomicU64,
    /// Held by the thread that closes its connection.
    closing: Mutex<()>,
}

impl Shared {
    /// Closes a connection when its thread ends. One at a time: the last one moves the log into the file, and of two that
    /// go at once each believes that the other stays.
    fn close<T>(&self, connection: T) {
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(connection);
    }
}

/// Jobs in one SQLite file.
///
/// A write is answered when it is on the disk, except for progress, renewals, lessons, sessions and letters, which are flushed with the
/// next write that is. Dropping the store ends its threads as soon as they have done what was asked of them until then.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("jobs.db");
/// use std::sync::Arc;
/// use meanwhile_core::{Store, SystemClock, store::Query};
/// use meanwhile_sqlite::SqliteStore;
///
/// let store = SqliteStore::new(path, Arc::new(SystemClock)); // touches nothing yet
/// let jobs = store.list(&Query { limit: 10, ..Query::default() }).await?;
/// assert!(jobs.is_empty());
/// # Ok::<(), meanwhile_core::StoreError>(()) }).unwrap();
/// ```
pub struct SqliteStore {
    shared: Arc<Shared>,
    writer: OnceLock<mpsc::Sender<Command>>,
    /// Reads of one job. They take microseconds, and somebody waits.
    single: Lane,
    /// Reads of many, which hold up nobody but each other.
    many: Lane,
}

impl SqliteStore {
    /// A store at `path` that goes by `clock`. The file is made or opened, and the threads started, at the first use.
    #[must_use]
    pub fn new(path: PathBuf, clock: Arc<dyn Clock>) -> SqliteStore {
        let shared = Shared {
            path,
            clock,
            changes: Arc::default(),
            commits: 0.into(),
            is_ready: false.into(),
            opened: 0.into(),
            closing: Mutex::default(),
        };
        SqliteStore {
            shared: Arc::new(shared),
            writer: OnceLock::new(),
            single: Lane::default(),
            many: Lane::default(),
        }
    }

    /// Opens the file now; makes it, and its folder, if they are not there.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if a newer Meanwhile wrote it, [`StoreError::Failed`] if it cannot be opened. The next use
    /// tries again.
    pub async fn open(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Open(reply)).await?;
        answer.await.map_err(|_| gone(self.path()))?
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// How many transactions this process has committed: fewer than writes, where they came together.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    async fn tell(&self, command: Command) -> Result<(), StoreError> {
        let writer = self.writer.get_or_init(|| start_writer(self.shared.clone()));
        writer.send(command).await.map_err(|_| gone(self.path()))
    }

    async fn write<T, W>(&self, is_lazy: bool, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<Result<T, StoreError>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let runtime = here().map(|here| here.id());
        self.tell(Command::Write(Box::new(Call { is_lazy, work, found: None, runtime, reply }))).await?;
        answer.await.map_err(|_| gone(self.path()))?
    }

    async fn read<T, Q>(&self, lane: &Lane, query: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        if !self.shared.is_ready.load(Ordering::Acquire) {
            self.open().await?;
        }
        lane.read(&self.shared, query).await
    }
}

/// The runtime of whoever asks, if it has one.
fn here() -> Option<runtime::Handle> {
    runtime::Handle::try_current().ok()
}

fn start_writer(shared: Arc<Shared>) -> mpsc::Sender<Command> {
    let (sender, inbox) = mpsc::channel(WAITING_MAX);
    let own = sender.downgrade();
    let (committed, answered) = mpsc::unbounded_channel();
    let runtime = here().map(|here| {
        here.spawn(answer(answered));
        here.id()
    });
    let run = move || writer::run(shared, inbox, own, Told { runtime, committed });
    if let Err(error) = std::thread::Builder::new().name("meanwhile-write".to_owned()).spawn(run) {
        tracing::error!(%error, "the job store's writer did not start");
    }
    sender
}

/// Answers writes that were committed together. Should its runtime end, what is left is answered as it is dropped.
async fn answer(mut committed: mpsc::UnboundedReceiver<Committed>) {
    while let Some(together) = committed.recv().await {
        drop(together);
    }
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    async fn create(&self, new: NewJob) -> Result<Created, StoreError> {
        self.write(false, move |tx| commands::create(tx, &new)).await
    }

    async fn joinable(
        &self,
        scope: &str,
        join_key: Option<&str>,
        retry_key: Option<&str>,
    ) -> Result<Option<Job>, StoreError> {
        let scope = scope.to_owned();
        let (join_key, retry_key) = (join_key.map(str::to_owned), retry_key.map(str::to_owned));
        let look = move |sql: &_| queries::joinable(sql, &scope, join_key.as_deref(), retry_key.as_deref());
        Ok(self.read(&self.single, look).await?.map(|found| found.job))
    }

    async fn apply(&self, handle: Handle, op: Op) -> Result<Job, StoreError> {
        let is_lazy = op.may_be_lost();
        self.write(is_lazy, move |tx| commands::apply(tx, handle, &op)).await
    }

    async fn renew(&self, peer: &Peer, lease: Duration) -> Result<(), StoreError> {
        let peer = peer.clone();
        self.write(true, move |tx| commands::renew(tx, &peer, lease)).await
    }

    async fn job(&self, handle: Handle) -> Result<Option<Job>, StoreError> {
        let find = move |sql: &_| Ok(queries::find(sql, handle)?.map(|found| found.job));
        self.read(&self.single, find).await
    }

    async fn request(&self, handle: Handle) -> Result<Option<Json>, StoreError> {
        self.read(&self.single, move |sql| queries::request(sql, handle)).await
    }

    async fn answer(&self, handle: Handle) -> Result<Option<Json>, StoreError> {
        self.read(&self.single, move |sql| queries::answer(sql, handle)).await
    }

    async fn snapshot(&self, handle: Handle) -> Result<Option<Snapshot>, StoreError> {
        self.read(&self.single, move |sql| queries::snapshot(sql, handle)).await
    }

    async fn inputs(&self, handle: Handle) -> Result<Vec<Input>, StoreError> {
        self.read(&self.single, move |sql| queries::inputs(sql, handle)).await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>, StoreError> {
        let query = query.clone();
        self.read(&self.many, move |sql| queries::list(sql, &query)).await
    }

    async fn ahead(&self, handle: Handle) -> Result<u64, StoreError> {
        self.read(&self.single, move |sql| queries::ahead(sql, handle)).await
    }

    async fn events(&self, handle: Handle, after: u32, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.read(&self.many, move |sql| queries::events(sql, handle, after, limit)).await
    }

    async fn abandoned(&self, limit: usize) -> Result<Vec<Job>, StoreError> {
        let now = self.shared.clock.steady();
        self.read(&self.many, move |sql| queries::abandoned(sql, now, limit)).await
    }

    async fn next_queued(&self, peer: &Peer) -> Result<Option<Handle>, StoreError> {
        let peer = peer.clone();
        self.read(&self.single, move |sql| queries::next_queued(sql, &peer)).await
    }

    async fn expire(&self, limit: usize) -> Result<Vec<String>, StoreError> {
        self.write(false, move |tx| commands::expire(tx, limit)).await
    }

    async fn holds(&self, artifact: &str) -> Result<bool, StoreError> {
        let artifact = artifact.to_owned();
        self.read(&self.single, move |sql| queries::holds(sql, &artifact)).await
    }

    async fn durations(&self, server: &str, tool: &str) -> Result<Durations, StoreError> {
        let (server, tool) = (server.to_owned(), tool.to_owned());
        self.read(&self.single, move |sql| queries::durations(sql, &server, &tool)).await
    }

    async fn learn(&self, server: &str, tool: &str, durations: &Durations) -> Result<(), StoreError> {
        let (server, tool, durations) = (server.to_owned(), tool.to_owned(), durations.clone());
        self.write(true, move |tx| commands::learn(tx, &server, &tool, &durations)).await
    }

    async fn keep_session(&self, session: &KeptSession) -> Result<(), StoreError> {
        let session = session.clone();
        self.write(true, move |tx| sessions::keep(tx, &session)).await
    }

    async fn session(&self, key: &str) -> Result<Option<KeptSession>, StoreError> {
        let (key, now) = (key.to_owned(), self.shared.clock.now());
        self.read(&self.single, move |sql| sessions::find(sql, &key, now)).await
    }

    async fn end_session(&self, key: &str) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.write(false, move |tx| sessions::end(tx, &key)).await
    }

    async fn ended_sessions(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        let keys = keys.to_vec();
        self.read(&self.many, move |sql| sessions::ended(sql, &keys)).await
    }

    async fn leave_letter(&self, session: &str, message: &Json) -> Result<u64, StoreError> {
        let (session, message) = (session.to_owned(), message.clone());
        self.write(true, move |tx| sessions::leave(tx, &session, &message)).await
    }

    async fn letters(&self, keys: &[String], after: u64) -> Result<Vec<Letter>, StoreError> {
        let keys = keys.to_vec();
        self.read(&self.many, move |sql| sessions::letters(sql, &keys, after)).await
    }

    async fn forget_letter(&self, id: u64) -> Result<(), StoreError> {
        self.write(true, move |tx| sessions::forget(tx, id)).await
    }

    fn is_there(&self) -> bool {
        self.shared.is_ready.load(Ordering::Acquire) || self.shared.path.exists()
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn changes(&self) -> &Arc<Changes> {
        &self.shared.changes
    }
}

#[cfg(test)]
mod tests;
