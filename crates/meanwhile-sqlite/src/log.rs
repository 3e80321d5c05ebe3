//! The log (`…-wal`): what keeps a flush of it cheap, and off the way of whoever waits.
//!
//! A flush of a file that has grown must flush its new length too, and takes about twice as long as one that writes over what
//! is there. So the log is made long once, and used from its beginning again each time it has been moved into the file. Both
//! are done when those who waited have been answered.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::Connection;
use rusqlite::wal::CheckpointMode;

#[cfg(unix)]
use crate::schema::PAGE;

/// A log of so many pages is moved into the file.
const PAGES_MAX: i32 = 4000;
/// So long it is made at once, in bytes: as it is before it is moved, with the 24 bytes that stand before each page.
#[cfg(unix)]
const LENGTH: u64 = PAGES_MAX as u64 * (PAGE as u64 + 24);
/// How much of it is written at a time, in bytes.
#[cfg(unix)]
const CHUNK: usize = 256 * 1024;

/// The log of one connection that writes.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// How many pages it held after the last commit.
    pages: Arc<AtomicI32>,
    is_long: bool,
}

impl Log {
    /// Takes over the log of `sql`, a connection to `file`.
    pub(crate) fn take_over(file: &Path, sql: &mut Connection) -> rusqlite::Result<Log> {
        let mut path = file.as_os_str().to_owned();
        path.push("-wal");
        let pages = Arc::new(AtomicI32::new(0));
        let held = pages.clone();
        // Takes the place of SQLite's own habit of moving the log before a commit returns.
        sql.wal_hook(Some(move |_: &mut _, pages| {
            held.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Log { path: path.into(), pages, is_long: false })
    }

    /// Does what is due, when nobody waits for the last commit any more.
    pub(crate) fn keep(&mut self, sql: &Connection) {
        if !std::mem::replace(&mut self.is_long, true)
            && let Err(error) = self.lengthen(sql)
        {
            tracing::debug!(%error, "the log of the job store stays short");
        }
        if self.pages.load(Ordering::Relaxed) < PAGES_MAX {
            return;
        }
        // Whoever reads just now is not waited for: then it is tried again after the next commit.
        if let Err(error) = sql.wal_checkpoint_v2::<&str>(None, CheckpointMode::PASSIVE) {
            tracing::debug!(%error, "the log of the job store is not moved yet");
        }
    }

    /// Nobody writes to the log while this connection may, so what lies behind its end is nobody's. To SQLite, zeros there are
    /// as the remains of an older log: no page of theirs carries the mark of this one.
    fn lengthen(&self, sql: &Connection) -> Result<(), Box<dyn std::error::Error>> {
        sql.execute_batch("BEGIN IMMEDIATE")?;
        let done = lengthen(&self.path);
        sql.execute_batch("ROLLBACK")?;
        Ok(done?)
    }
}

/// SQLite locks the file and `-shm`, never the log: so this descriptor may be closed without loosening a lock.
#[cfg(unix)]
fn lengthen(path: &Path) -> io::Result<()> {
    let log = std::fs::OpenOptions::new().write(true).open(path)?;
    let length = log.metadata()?.len();
    if length >= LENGTH {
        return Ok(());
    }
    let done = write_zeros(&log, length).and_then(|()| log.sync_data());
    if done.is_err() {
        // A disk that is full needs the room for better things.
        log.set_len(length)?;
    }
    done
}

/// Elsewhere the log grows as it is written.
#[cfg(not(unix))]
fn lengthen(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn write_zeros(log: &std::fs::File, from: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK];
    let mut at = from;
    while at < LENGTH {
        let now = CHUNK.min(usize::try_from(LENGTH - at).unwrap_or(CHUNK));
        std::os::unix::fs::FileExt::write_all_at(log, &zeros[..now], at)?;
        at += now as u64;
    }
    Ok(())
}
