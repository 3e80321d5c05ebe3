//! Opening the file: its folder, its modes, its settings and its layout.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Duration;

use meanwhile_core::artifact::make_private_folder;
use meanwhile_core::job::Lease;
use meanwhile_core::{Clock, StoreError, Timestamp};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use crate::fault::{Fault, failed};

/// The steps from one layout to the next. The layout is the number of steps that were taken; a step that was released
/// is never changed again.
const STEPS: [&str; 2] = [include_str!("schema.sql"), include_str!("letters.sql")];

/// The size of a page of the file, in bytes. A commit writes whole pages, of which a start changes eight, each by a line or two.
pub(crate) const PAGE: u32 = 1024;

/// How many prepared statements a connection keeps: all that this crate has.
const STATEMENTS: usize = 64;

/// A busy store is asked again after 1, 2, … 10, 10, … ms, this many times: about five seconds.
/// SQLite's own `busy_timeout` soon sleeps for 100 ms, and then a busy neighbour is always faster.
const PATIENCE: i32 = 505;

/// Held while the file is made. Closing any descriptor of a file drops all locks that this process has on it (POSIX), also
/// those of another connection that was quick to open it.
static MAKING: Mutex<()> = Mutex::new(());

/// Opens the file for the writer, and makes it, its folder and its tables where they are not there.
pub(crate) fn open_writer(path: &Path, clock: &dyn Clock) -> Result<Connection, StoreError> {
    make_file(path).map_err(|error| {
        let reason =
            format!("it cannot be made ({error}); set MEANWHILE_STATE_DIR to a folder that you can write to");
        StoreError::Failed { place: path.display().to_string(), reason }
    })?;
    prepare_writer(path, clock).map_err(|fault| fault.at(path))
}

fn prepare_writer(path: &Path, clock: &dyn Clock) -> Result<Connection, Fault> {
    let mut sql = connect(path)?;
    // Only a new file heeds it.
    sql.pragma_update(None, "page_size", PAGE)?;
    patiently(|| sql.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())))?;
    sql.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -8192;")?;
    migrate(&mut sql, path)?;
    notice_boot(&mut sql, clock)?;
    Ok(sql)
}

/// Opens the file for reading. It must be there, with its tables.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        // Not opened read-only: the connection that closes last moves the log into the file, and it may be this one.
        let sql = connect(path)?;
        sql.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048;")?;
        Ok(sql)
    };
    open().map_err(|error| failed(path, &error))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut sql = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    sql.busy_handler(Some(wait_for_turn))?;
    // Without it a statement is compiled anew for values that a partial index might fit.
    sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    sql.set_prepared_statement_cache_capacity(STATEMENTS);
    sql.execute_batch("PRAGMA trusted_schema = OFF")?;
    Ok(sql)
}

fn wait_for_turn(asked: i32) -> bool {
    sleep(Duration::from_millis(u64::try_from(asked).unwrap_or(0).min(9) + 1));
    asked < PATIENCE
}

/// Some steps, such as the change to WAL, report a busy file without asking the busy handler.
fn patiently<T>(mut attempt: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let mut asked = 0;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && wait_for_turn(asked) => asked += 1,
            result => return result,
        }
    }
}

/// Whether somebody else has the file at the moment.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn layout(sql: &Connection) -> rusqlite::Result<i64> {
    sql.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(sql: &mut Connection, path: &Path) -> Result<(), Fault> {
    let known = STEPS.len() as i64;
    if layout(sql)? == known {
        return Ok(());
    }
    let step = sql.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Read again: another process may have been faster.
    let found = layout(&step)?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known }.into());
    }
    for text in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        step.execute_batch(text)?;
    }
    step.pragma_update(None, "user_version", known)?;
    step.commit()?;
    Ok(())
}

/// After a restart of the machine the steady clock began anew, and the leases that went by it are void: whoever held them
/// is gone. Where boots have no names, a lease that lies further ahead than any can is known to be of another one.
fn notice_boot(sql: &mut Connection, clock: &dyn Clock) -> rusqlite::Result<()> {
    let boot = clock.boot();
    let far = clock.steady().after(Lease::MAX).0;
    if is_of_boot(sql, &boot, far)? {
        return Ok(());
    }
    let step = sql.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Read again: another process may have been faster, and its leases are good.
    if !is_of_boot(&step, &boot, far)? {
        step.execute("UPDATE job SET lease_until = ? WHERE lease_peer IS NOT NULL", [Timestamp::MIN.0])?;
        step.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('boot', ?)", [boot])?;
    }
    step.commit()
}

fn is_of_boot(sql: &Connection, boot: &str, far: i64) -> rusqlite::Result<bool> {
    let text = "SELECT EXISTS (SELECT 1 FROM meta WHERE name = 'boot' AND value = ?) \
                AND NOT EXISTS (SELECT 1 FROM job INDEXED BY job_peer WHERE lease_peer IS NOT NULL AND lease_until > ?)";
    sql.query_row(text, params![boot, far], |row| row.get(0))
}

/// How SQLite would go about a statement: for the tests of what uses which index.
#[cfg(test)]
pub(crate) fn plan_of(text: &str, values: Vec<rusqlite::types::Value>) -> String {
    let sql = Connection::open_in_memory().expect("memory");
    sql.execute_batch("PRAGMA foreign_keys = ON").expect("a setting");
    sql.execute_batch(&STEPS.concat()).expect("the schema");
    let mut plan = sql.prepare(&format!("EXPLAIN QUERY PLAN {text}")).expect("a statement");
    let steps = plan.query_map(rusqlite::params_from_iter(values), |row| row.get(3)).expect("a plan");
    let steps: Vec<String> = steps.map(|step| step.expect("a step")).collect();
    steps.join("; ")
}

fn make_file(path: &Path) -> std::io::Result<()> {
    let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_private_folder(folder)?;
    }
    // Only ever a new file: see MAKING. SQLite gives its log the mode of the file.
    match private_file().write(true).create_new(true).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(not(unix))]
fn private_file() -> OpenOptions {
    OpenOptions::new()
}
