//! A million jobs that have ended. A few are made by the store itself, one of each kind; all others are copies of them, so
//! that they are what the store would have written.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use meanwhile_core::executor::Attempt;
use meanwhile_core::job::{Failure, FailureKind};
use meanwhile_core::store::{Created, NewJob};
use meanwhile_core::{Actor, Handle, Op, Outcome, Store, SystemClock};
use meanwhile_sqlite::SqliteStore;
use rusqlite::{Connection, params};

use crate::FINISHED;
use crate::stage::{SCOPE, answer, call, policy};

/// With this and a path the bench does nothing but fill a file.
pub(crate) const ARGUMENT: &str = "--fill";

/// Half of the jobs are another project's.
const SCOPES: [&str; 2] = [SCOPE, "another"];
/// How many old jobs are asked for.
const OLD: usize = 2000;
/// How long the threads of a store may take to let the file go.
const LETTING_GO: Duration = Duration::from_secs(10);

/// What can have become of a job.
#[derive(Clone, Copy)]
enum Kind {
    Collected,
    Outstanding,
    Failed,
    Expired,
}

const KINDS: [Kind; 4] = [Kind::Collected, Kind::Outstanding, Kind::Failed, Kind::Expired];

/// Fills the file, in another process: what this one holds in memory is measured.
pub(crate) fn in_a_process_of_its_own(path: &Path) -> anyhow::Result<String> {
    eprintln!("filling a store with {FINISHED} finished jobs …");
    let began = Instant::now();
    let done = Command::new(std::env::current_exe()?).arg(ARGUMENT).arg(path).status()?;
    ensure!(done.success(), "the store was not filled");
    let (bytes, took) = (std::fs::metadata(path)?.len(), began.elapsed());
    Ok(format!(
        "{FINISHED} finished jobs are {:.0} MB, filled in {:.0} s",
        bytes as f64 / 1e6,
        took.as_secs_f64()
    ))
}

pub(crate) fn fill(path: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let patterns = runtime.block_on(patterns(path))?;
    drop(runtime);
    let mut sql = alone(path)?;
    let step = sql.transaction()?;
    copy(&step, patterns)?;
    step.commit()?;
    Ok(())
}

/// One job of each kind in each scope, made by the store; returns how many.
async fn patterns(path: &Path) -> anyhow::Result<usize> {
    let store = SqliteStore::new(path.to_owned(), Arc::new(SystemClock));
    for scope in SCOPES {
        for kind in KINDS {
            pattern(&store, scope, kind).await?;
        }
    }
    ensure!(store.expire(1000).await?.is_empty(), "no artifact was kept");
    Ok(SCOPES.len() * KINDS.len())
}

async fn pattern(store: &SqliteStore, scope: &str, kind: Kind) -> anyhow::Result<()> {
    let handle = Handle::random();
    let mut policy = policy();
    if matches!(kind, Kind::Expired) {
        policy.ttl = Duration::ZERO;
    }
    let mut call = call("pattern");
    scope.clone_into(&mut call.scope);
    let (peer, lease) = ("another".to_owned(), Duration::from_secs(60));
    let new = NewJob {
        handle,
        call,
        policy,
        peer,
        lease,
        started_at: Some(store.now()),
        lost: vec![],
        upstream_task: None,
        joins: false,
    };
    ensure!(matches!(store.create(new).await?, Created::New(_)), "each pattern is a job of its own");
    let outcome = match kind {
        Kind::Failed => {
            let message = "the server said no".to_owned();
            Outcome::Failed(Failure { kind: FailureKind::Error, message, error: None })
        }
        _ => match answer() {
            Attempt::Answered(answer) => Outcome::Completed(answer),
            _ => anyhow::bail!("the tool answers"),
        },
    };
    store.apply(handle, Op::Finish { attempt: 1, outcome }).await?;
    if !matches!(kind, Kind::Outstanding) {
        store.apply(handle, Op::Collect { by: Actor::Agent }).await?;
    }
    Ok(())
}

/// The file, for this connection alone, and without a journal: should this fail, nobody needs the file.
fn alone(path: &Path) -> anyhow::Result<Connection> {
    let sql = Connection::open(path)?;
    let deadline = Instant::now() + LETTING_GO;
    while let Err(error) = sql.query_row("PRAGMA journal_mode = OFF", [], |_| Ok(())) {
        ensure!(Instant::now() < deadline, "the store does not let go of its file: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    sql.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; PRAGMA cache_size = -1500000;")?;
    Ok(sql)
}

fn copy(sql: &Connection, patterns: usize) -> anyhow::Result<()> {
    let mut job = sql.prepare(&copying(sql, "job", "id", &[("id", "?1"), ("handle", "?3")])?)?;
    let mut payload = sql.prepare(&copying(sql, "payload", "job_id", &[("job_id", "?1")])?)?;
    let mut event = sql.prepare(&copying(sql, "event", "job_id", &[("job_id", "?1")])?)?;
    for id in patterns + 1..=FINISHED {
        let (id, pattern) = (i64::try_from(id)?, i64::try_from(id % patterns + 1)?);
        job.execute(params![id, pattern, Handle::random().to_string()])?;
        payload.execute([id, pattern])?;
        event.execute([id, pattern])?;
    }
    Ok(())
}

/// The statement that copies the rows of job `?2`, but for these columns.
fn copying(sql: &Connection, table: &str, key: &str, changed: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut columns = sql.prepare("SELECT name FROM pragma_table_info(?)")?;
    let columns: Vec<String> = columns.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let value = |name: &String| {
        let changed = changed.iter().find(|(changed, _)| changed == name);
        changed.map_or_else(|| name.clone(), |(_, value)| (*value).to_owned())
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    let (columns, values) = (columns.join(", "), values.join(", "));
    Ok(format!("INSERT INTO {table} ({columns}) SELECT {values} FROM {table} WHERE {key} = ?2"))
}

/// Some of the jobs in our scope that have an answer, from all over the file.
pub(crate) fn some_answered(path: &Path) -> anyhow::Result<Vec<Handle>> {
    let sql = Connection::open(path)?;
    let mut look = sql.prepare(
        "SELECT handle FROM job WHERE id = ? AND scope = ? AND answer_bytes IS NOT NULL AND expired_at IS NULL",
    )?;
    let mut old = Vec::new();
    // Prime to the number of patterns, so that all kinds are met.
    let step = FINISHED / OLD / 4 + 1;
    for id in (1..=FINISHED).step_by(step | 1) {
        let found = look.query_map(params![i64::try_from(id)?, SCOPE], |row| row.get::<_, String>(0))?;
        for handle in found {
            old.push(handle?.parse()?);
        }
    }
    ensure!(old.len() >= OLD / 2, "only {} old jobs were found", old.len());
    Ok(old)
}
