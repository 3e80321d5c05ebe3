//! How many starts share a flush when many come at once. It is counted, not timed, so no disk and no other work changes it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use meanwhile_core::store::NewJob;
use meanwhile_core::{Call, Handle, Policy, Store, SystemClock};
use meanwhile_sqlite::SqliteStore;
use serde_json::value::RawValue;

use crate::setup::Bench;
use crate::table::{Row, Table, Target};

/// Starts that are unanswered at any time, and how many each of them is followed by.
const IN_FLIGHT: usize = 64;
const EACH: usize = 20;

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (starts, flushes) = runtime.block_on(start_many(bench))?;
    let shared = starts as f64 / flushes as f64;
    table.add(Row {
        what: format!("{IN_FLIGHT} starts in flight on the store alone, flushes made"),
        baseline: format!("{starts} starts"),
        measured: format!("{flushes} flushes"),
        result: format!("{shared:.1} a flush"),
        target: Target::at_least(10.0, shared, "10 a flush"),
    });
    Ok(())
}

/// How many jobs were written, and in how many commits, each of which is flushed once.
async fn start_many(bench: &Bench) -> anyhow::Result<(usize, u64)> {
    let store = Arc::new(SqliteStore::new(bench.folder().join("shared.db"), Arc::new(SystemClock)));
    store.open().await?;
    let before = store.commits();
    let lines: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(start_in_turn(store.clone()))).collect();
    let mut starts = 0;
    for line in lines {
        starts += line.await.context("a start failed")??;
    }
    Ok((starts, store.commits() - before))
}

async fn start_in_turn(store: Arc<SqliteStore>) -> anyhow::Result<usize> {
    for _ in 0..EACH {
        store.create(new_job()?).await?;
    }
    Ok(EACH)
}

fn new_job() -> anyhow::Result<NewJob> {
    let call = Call {
        scope: "bench".to_owned(),
        server: "bench".to_owned(),
        tool: "slow".to_owned(),
        request: RawValue::from_string(r#"{"name":"slow","arguments":{"n":1}}"#.to_owned())?,
        join_key: None,
        retry_key: None,
        conversation: None,
    };
    Ok(NewJob {
        handle: Handle::random(),
        call,
        policy: Policy { rerun: false, timeout: None, ttl: Duration::from_secs(3600) },
        peer: "bench".to_owned(),
        lease: Duration::from_secs(60),
        started_at: None,
        joins: false,
        lost: Vec::new(),
        upstream_task: None,
    })
}
