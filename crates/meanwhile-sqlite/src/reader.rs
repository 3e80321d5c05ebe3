//! The threads that read, so that no read ever waits for a write, nor the async runtime for the disk.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use meanwhile_core::StoreError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::Shared;
use crate::fault::{failed, gone};
use crate::schema::{is_busy, open_reader};

/// How many reads may wait in a lane before callers wait for room.
const WAITING_MAX: usize = 256;

/// A read, given the connection or why there is none. It says whether the connection is to be kept.
type Read = Box<dyn FnOnce(Result<&Connection, StoreError>) -> bool + Send>;

/// One thread with one connection, started at the first read.
#[derive(Default)]
pub(crate) struct Lane(OnceLock<mpsc::Sender<Read>>);

impl Lane {
    /// Runs `query` on this lane's thread.
    pub(crate) async fn read<T, Q>(&self, shared: &Arc<Shared>, query: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let place = shared.clone();
        let read: Read = Box::new(move |sql| {
            let found = sql.map(query);
            let is_fit = matches!(&found, Ok(Ok(_))) || matches!(&found, Ok(Err(error)) if is_busy(error));
            let _ = reply.send(found.and_then(|found| found.map_err(|error| failed(&place.path, &error))));
            is_fit
        });
        let sender = self.0.get_or_init(|| start(shared.clone()));
        sender.send(read).await.map_err(|_| gone(&shared.path))?;
        answer.await.map_err(|_| gone(&shared.path))?
    }
}

fn start(shared: Arc<Shared>) -> mpsc::Sender<Read> {
    let (sender, inbox) = mpsc::channel(WAITING_MAX);
    let run = move || run(&shared, inbox);
    if let Err(error) = std::thread::Builder::new().name("meanwhile-read".to_owned()).spawn(run) {
        tracing::error!(%error, "the job store's reader did not start");
    }
    sender
}

fn run(shared: &Shared, mut inbox: mpsc::Receiver<Read>) {
    let mut kept: Option<(u64, Connection)> = None;
    while let Some(read) = inbox.blocking_recv() {
        let opened = shared.opened.load(Ordering::Acquire);
        let current = kept.take().filter(|(when, _)| *when == opened);
        let sql = match current.map_or_else(|| open_reader(&shared.path), |(_, sql)| Ok(sql)) {
            Ok(sql) => sql,
            Err(error) => {
                // The file may have been taken away: the next use opens it anew.
                shared.is_ready.store(false, Ordering::Release);
                read(Err(error));
                continue;
            }
        };
        if read(Ok(&sql)) {
            kept = Some((opened, sql));
        }
    }
    shared.close(kept);
}
