//! What went wrong, in words that say what to do about it.

use std::path::Path;

use meanwhile_core::StoreError;
use rusqlite::ErrorCode;

/// An error of SQLite, or one that is already in the store's words.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl Fault {
    /// The error of the store at `path`.
    pub(crate) fn at(self, path: &Path) -> StoreError {
        match self {
            Fault::Sql(error) => failed(path, &error),
            Fault::Store(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        Fault::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Store(error)
    }
}

/// What SQLite said, as an error of the store at `path`.
pub(crate) fn failed(path: &Path, error: &rusqlite::Error) -> StoreError {
    let mend = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full: free some space and try again",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program has kept it locked for five seconds: end that program's transaction and try again"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "it may not be written: make the file and its folder writable, or set MEANWHILE_STATE_DIR to another folder"
        }
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened: make the file and its folder readable and writable, or set MEANWHILE_STATE_DIR to another folder"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "it is damaged, or not a job store: move it away, and a new one is made"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "the disk failed, or a file may not grow any more: look at the system's log and at `ulimit -f`, and try again"
        }
        Some(ErrorCode::TooBig) => "the request or the answer is too large for it",
        _ => "the database refused",
    };
    StoreError::Failed { place: path.display().to_string(), reason: format!("{mend} ({error})") }
}

/// The store's own threads are gone, which only a bug can do.
pub(crate) fn gone(path: &Path) -> StoreError {
    let reason = "its thread has ended: restart this program, and report it as a bug".to_owned();
    StoreError::Failed { place: path.display().to_string(), reason }
}
