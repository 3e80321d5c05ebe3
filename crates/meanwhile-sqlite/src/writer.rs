//! The one thread of this process that writes: it takes whatever is waiting, commits it in one transaction, and only then
//! tells anyone. One flush to the disk thus serves everybody who came while the last one was under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meanwhile_core::{Handle, Moment, StoreError};
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Id;
use tokio::sync::{mpsc, oneshot};

use crate::Shared;
use crate::fault::Fault;
use crate::log::Log;
use crate::queries::{changed_after, last_change, next_mark, quiet};
use crate::schema::{is_busy, open_writer};
use crate::sessions::last_mark;
use crate::watch::Watch;

/// The most calls that share one transaction, so that the first of them does not wait for ever.
const BATCH_MAX: usize = 256;

/// From so many changes on all who wait look for themselves.
const NEWS_MAX: usize = 1000;

/// What the writer is asked to do.
pub(crate) enum Command {
    /// Have the file open.
    Open(oneshot::Sender<Result<(), StoreError>>),
    /// See whether another connection has written.
    Look,
    /// Change something.
    Write(Box<dyn Write>),
}

/// The open transaction, as a write sees it.
pub(crate) struct Tx<'a> {
    pub(crate) sql: &'a Connection,
    pub(crate) now: Moment,
    /// Told after the commit.
    pub(crate) news: News,
    marks: Marks,
}

/// What a transaction leaves for other connections to see that it was there, as far as it does.
#[derive(Default)]
struct Marks {
    change: Option<i64>,
    quiet: Option<String>,
    session: Option<String>,
}

impl Tx<'_> {
    /// A number greater than that of every change before. It goes by the clock, so that it does so also where the last job that
    /// had one is forgotten.
    pub(crate) fn next_change(&mut self) -> rusqlite::Result<i64> {
        let last = match self.marks.change {
            Some(last) => last,
            None => last_change(self.sql)?,
        };
        let next = self.now.wall.0.max(last + 1);
        self.marks.change = Some(next);
        Ok(next)
    }

    /// Says to the other processes that this commit concerns nobody.
    pub(crate) fn mark_quiet(&mut self) -> rusqlite::Result<()> {
        self.marks.quiet = Some(next_mark(self.sql, "quiet", self.now)?);
        Ok(())
    }

    /// Says to the other processes that a session has been ended, or that there is a letter.
    pub(crate) fn mark_session(&mut self) -> rusqlite::Result<()> {
        self.news.is_of_sessions = true;
        self.marks.session = Some(next_mark(self.sql, "ended", self.now)?);
        self.mark_quiet()
    }
}

/// A write that waits for its turn.
pub(crate) trait Write: Send {
    /// Whether it may be lost with the machine's power.
    fn is_lazy(&self) -> bool;
    /// Does it. May be called again, after the first time was rolled back.
    ///
    /// An error is the database's and ends the transaction; a call that is merely refused has written nothing.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// Tells the caller: what `run` found, or `error`.
    fn answer(self: Box<Self>, error: Option<StoreError>);
    /// Where its caller waits.
    fn runtime(&self) -> Option<Id>;
}

/// Writes that are committed and not answered: they are as this goes, wherever that is.
pub(crate) struct Committed(Vec<Box<dyn Write>>);

impl Drop for Committed {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|write| write.answer(None));
    }
}

/// The way to a task that answers those who wait on its own runtime. Another one may stand still while they wait.
pub(crate) struct Told {
    pub(crate) runtime: Option<Id>,
    pub(crate) committed: mpsc::UnboundedSender<Committed>,
}

/// A write whose answer is a `T`.
pub(crate) struct Call<T, W> {
    pub(crate) is_lazy: bool,
    pub(crate) work: W,
    pub(crate) found: Option<Result<T, StoreError>>,
    pub(crate) runtime: Option<Id>,
    pub(crate) reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Write for Call<T, W>
where
    T: Send,
    W: FnMut(&mut Tx<'_>) -> rusqlite::Result<Result<T, StoreError>> + Send,
{
    fn is_lazy(&self) -> bool {
        self.is_lazy
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.found = Some((self.work)(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>, error: Option<StoreError>) {
        let found = match error {
            Some(error) => Some(Err(error)),
            None => self.found,
        };
        if let Some(found) = found {
            // Whoever asked may have gone; what was committed stays.
            let _ = self.reply.send(found);
        }
    }

    fn runtime(&self) -> Option<Id> {
        self.runtime
    }
}

/// Serves commands until nobody is left who could send one.
pub(crate) fn run(
    shared: Arc<Shared>,
    mut inbox: mpsc::Receiver<Command>,
    own: mpsc::WeakSender<Command>,
    told: Told,
) {
    let mut writer = Writer { file: None, shared, own, told };
    while let Some(first) = inbox.blocking_recv() {
        let mut batch = Batch::default();
        batch.add(first);
        while batch.writes.len() < BATCH_MAX
            && let Ok(next) = inbox.try_recv()
        {
            batch.add(next);
        }
        writer.serve(batch);
    }
    writer.shared.close(writer.file);
}

#[derive(Default)]
struct Batch {
    opens: Vec<oneshot::Sender<Result<(), StoreError>>>,
    writes: Vec<Box<dyn Write>>,
    looks: bool,
}

impl Batch {
    fn add(&mut self, command: Command) {
        match command {
            Command::Open(reply) => self.opens.push(reply),
            Command::Look => self.looks = true,
            Command::Write(write) => self.writes.push(write),
        }
    }
}

struct Writer {
    /// Open from the first use on, and opened again after an error that may have hurt it.
    file: Option<File>,
    shared: Arc<Shared>,
    own: mpsc::WeakSender<Command>,
    told: Told,
}

impl Writer {
    fn serve(&mut self, batch: Batch) {
        for reply in batch.opens {
            let _ = reply.send(self.file().map(drop));
        }
        let has_written = !batch.writes.is_empty();
        self.write(batch.writes);
        if let Some(file) = self.file.as_mut().filter(|_| has_written) {
            file.log.keep(&file.sql);
        }
        if batch.looks || has_written {
            self.look();
        }
    }

    fn file(&mut self) -> Result<&mut File, StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = File::open(&self.shared, self.own.clone())?;
                self.shared.opened.fetch_add(1, Ordering::Release);
                file
            }
        };
        self.shared.is_ready.store(true, Ordering::Release);
        Ok(self.file.insert(file))
    }

    /// Commits the writes together and answers them. If one of them breaks, each gets a transaction of its own, so that
    /// only the one that breaks fails.
    fn write(&mut self, mut writes: Vec<Box<dyn Write>>) {
        if writes.is_empty() {
            return;
        }
        match self.commit(&mut writes) {
            Ok(()) => self.answer(writes),
            Err(Fault::Sql(error)) if writes.len() > 1 && !is_busy(&error) => {
                writes.into_iter().for_each(|write| self.write(vec![write]));
            }
            Err(fault) => {
                let error = fault.at(&self.shared.path);
                tracing::warn!(%error, "nothing was written");
                writes.into_iter().for_each(|write| write.answer(Some(error.clone())));
            }
        }
    }

    /// Those who asked together are woken together: each waking of another thread costs more than the answer.
    fn answer(&self, mut writes: Vec<Box<dyn Write>>) {
        let there = self.told.runtime;
        let others: Vec<_> =
            writes.extract_if(.., |write| there.is_none() || write.runtime() != there).collect();
        drop(Committed(others));
        if writes.len() > 1 {
            // Refused, because that runtime has ended, they are answered here.
            drop(self.told.committed.send(Committed(writes)));
        } else {
            drop(Committed(writes));
        }
    }

    fn commit(&mut self, writes: &mut [Box<dyn Write>]) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let file = self.file()?;
        match file.transaction(writes, &shared) {
            Ok(ours) => {
                shared.commits.fetch_add(1, Ordering::Relaxed);
                let others = file.take_news();
                self.tell(ours);
                self.tell(others);
                Ok(())
            }
            Err(error) => {
                let news = file.take_news();
                if !file.is_fit_after(&error) {
                    self.close();
                }
                self.tell(news);
                Err(error.into())
            }
        }
    }

    fn look(&mut self) {
        let Some(file) = &mut self.file else { return };
        match file.changed_by_others() {
            Ok(news) => self.tell(news),
            Err(error) if is_busy(&error) => {}
            Err(_) => self.close(),
        }
    }

    fn tell(&self, news: News) {
        if news.is_of_sessions {
            self.shared.changes.publish_session();
        }
        if news.has_new {
            self.shared.changes.publish_new();
        }
        match news.jobs {
            Jobs::These(jobs) => jobs.into_iter().for_each(|handle| self.shared.changes.publish(handle)),
            Jobs::Unknown => self.shared.changes.publish_all(),
        }
    }

    fn close(&mut self) {
        self.file = None;
        self.shared.is_ready.store(false, Ordering::Release);
        // What the others write until it is open again goes unseen: let everybody look for themselves.
        self.shared.changes.publish_all();
    }
}

/// The open file.
struct File {
    sql: Connection,
    log: Log,
    is_lazy: bool,
    seen: Seen,
    /// What others had committed before our last transaction, and nobody was told yet.
    news: News,
    /// Whether a transaction of this connection holds the right to write, so that nobody else writes.
    is_writing: Arc<AtomicBool>,
    _watch: Watch,
}

/// How far the commits of other connections have been seen.
struct Seen {
    /// `data_version`.
    version: i64,
    change: i64,
    quiet: Option<String>,
    /// The last end of a session, or letter.
    session: Option<String>,
}

/// What was committed.
#[derive(Default)]
pub(crate) struct News {
    jobs: Jobs,
    /// Whether there are new jobs. Those of others are among the changed ones.
    pub(crate) has_new: bool,
    /// Whether sessions were ended, or have letters.
    pub(crate) is_of_sessions: bool,
}

impl News {
    /// This job has changed.
    pub(crate) fn add(&mut self, handle: Handle) {
        if let Jobs::These(jobs) = &mut self.jobs {
            jobs.push(handle);
        }
    }
}

/// Which jobs have changed.
enum Jobs {
    /// These, and perhaps nothing else.
    These(Vec<Handle>),
    /// Something, but it does not say what: a person with a shell has no numbers.
    Unknown,
}

impl Default for Jobs {
    fn default() -> Jobs {
        Jobs::These(Vec::new())
    }
}

impl File {
    fn open(shared: &Shared, own: mpsc::WeakSender<Command>) -> Result<File, StoreError> {
        let path = &shared.path;
        let mut sql = open_writer(path, &*shared.clock)?;
        let log = Log::take_over(path, &mut sql).map_err(|error| Fault::from(error).at(path))?;
        // Watched before the version is read, so that no commit falls between.
        let is_writing = Arc::<AtomicBool>::default();
        let watch = Watch::start(path, is_writing.clone(), move || match own.upgrade() {
            Some(own) => own.blocking_send(Command::Look).is_ok(),
            None => false,
        });
        let seen = Seen::now(&sql).map_err(|error| Fault::from(error).at(path))?;
        Ok(File { sql, log, is_lazy: false, seen, news: News::default(), is_writing, _watch: watch })
    }

    fn transaction(&mut self, writes: &mut [Box<dyn Write>], shared: &Shared) -> rusqlite::Result<News> {
        self.set_lazy(writes.iter().all(|write| write.is_lazy()))?;
        self.execute("BEGIN IMMEDIATE")?;
        self.is_writing.store(true, Ordering::Release);
        let done = self.alone(writes, shared);
        if done.is_err() && !self.sql.is_autocommit() {
            // A failure shows in `is_fit_after`.
            let _ = self.execute("ROLLBACK");
        }
        self.is_writing.store(false, Ordering::Release);
        done
    }

    /// Does the writes and commits them. What the others have done is looked at while only we can write: then none of it is
    /// taken for ours, and none of ours for theirs.
    fn alone(&mut self, writes: &mut [Box<dyn Write>], shared: &Shared) -> rusqlite::Result<News> {
        self.news = self.changed_by_others()?;
        let (news, marks) = self.steps(writes, shared)?;
        self.execute("COMMIT")?;
        self.seen.add(marks);
        Ok(news)
    }

    fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    fn steps(&self, writes: &mut [Box<dyn Write>], shared: &Shared) -> rusqlite::Result<(News, Marks)> {
        let now = shared.clock.moment();
        let mut tx = Tx { sql: &self.sql, now, news: News::default(), marks: Marks::default() };
        for write in writes {
            tx.now = shared.clock.moment();
            write.run(&mut tx)?;
        }
        Ok((tx.news, tx.marks))
    }

    /// A lazy transaction is not flushed to the disk by itself, but with the next one that is.
    fn set_lazy(&mut self, is_lazy: bool) -> rusqlite::Result<()> {
        if self.is_lazy != is_lazy {
            self.execute(if is_lazy { "PRAGMA synchronous = NORMAL" } else { "PRAGMA synchronous = FULL" })?;
            self.is_lazy = is_lazy;
        }
        Ok(())
    }

    fn execute(&self, text: &str) -> rusqlite::Result<()> {
        self.sql.prepare_cached(text)?.execute([]).map(drop)
    }

    /// The version counts only the commits of *other* connections, in this process or another. It is asked of the
    /// writer's own connection, so our own commits wake nobody twice.
    fn changed_by_others(&mut self) -> rusqlite::Result<News> {
        if data_version(&self.sql)? == self.seen.version {
            return Ok(News::default());
        }
        // All as it is at one moment: of a commit in between one half would be seen now and the other would make no sense later.
        let look = self.sql.savepoint()?;
        let now = Seen::now(&look)?;
        let jobs = changed_after(&look, self.seen.change, NEWS_MAX)?;
        look.commit()?;
        // Nothing counts as seen before all of it could be read.
        let before = std::mem::replace(&mut self.seen, now);
        let is_known = match jobs.len() {
            NEWS_MAX => false,
            0 => before.quiet != self.seen.quiet,
            _ => true,
        };
        let jobs = if is_known { Jobs::These(jobs) } else { Jobs::Unknown };
        Ok(News { jobs, has_new: false, is_of_sessions: before.session != self.seen.session })
    }

    /// Whether the connection can go on after `error`, as opposed to being opened anew.
    fn is_fit_after(&self, error: &rusqlite::Error) -> bool {
        let is_harmless = match error.sqlite_error_code() {
            None => true,
            Some(code) => matches!(
                code,
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::DiskFull
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::TooBig
            ),
        };
        is_harmless && self.sql.is_autocommit()
    }
}

impl Seen {
    fn now(sql: &Connection) -> rusqlite::Result<Seen> {
        // The version first: what comes after it is then looked at once more.
        let version = data_version(sql)?;
        Ok(Seen { version, change: last_change(sql)?, quiet: quiet(sql)?, session: last_mark(sql)? })
    }

    /// What we have committed ourselves is not news, and must not hide what is.
    fn add(&mut self, ours: Marks) {
        self.change = ours.change.unwrap_or(self.change);
        self.quiet = ours.quiet.or(self.quiet.take());
        self.session = ours.session.or(self.session.take());
    }
}

fn data_version(sql: &Connection) -> rusqlite::Result<i64> {
    sql.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}
