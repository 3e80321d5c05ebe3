//! Ten thousand jobs that run, each with a poll that waits for it, and what that holds in memory.

use std::time::Duration;

use anyhow::Context;
use meanwhile_core::Handle;
use meanwhile_core::engine::{Until, wait};
use tokio::task::JoinSet;

use crate::stage::{ENDLESS, SCOPE, Stage};
use crate::table::{Row, Table, Target};

/// Longer than the run.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Until every poll has looked once, and waits.
const SETTLING: Duration = Duration::from_secs(3);
const MOST: f64 = 8192.0;

pub(crate) async fn gather(stage: &Stage, count: usize, table: &mut Table) -> anyhow::Result<()> {
    // The threads and the caches of the store are there.
    stage.start("the first").await?;
    let before = resident()?;
    let handles = start_all(stage, count).await?;
    tokio::time::sleep(SETTLING).await;
    let running = resident()?;
    for handle in handles {
        let store = stage.store.clone();
        tokio::spawn(
            async move { wait(&*store, Some(SCOPE), &[handle], Until::Any, FOR_EVER).await.map(drop) },
        );
    }
    tokio::time::sleep(SETTLING).await;
    let waiting = resident()?;
    add(table, "memory of a waiting poll", "its job runs", (running, waiting), count);
    add(table, "memory of a running job and its waiting poll", "neither", (before, waiting), count);
    Ok(())
}

async fn start_all(stage: &Stage, count: usize) -> anyhow::Result<Vec<Handle>> {
    let mut handles = Vec::with_capacity(count);
    for first in (0..count).step_by(500) {
        let mut starts = JoinSet::new();
        for number in first..(first + 500).min(count) {
            let stage = stage.clone();
            starts.spawn(async move { stage.start(&format!("{ENDLESS} {number}")).await });
        }
        for handle in starts.join_all().await {
            handles.push(handle?);
        }
    }
    Ok(handles)
}

fn add(table: &mut Table, what: &str, baseline: &str, (before, after): (f64, f64), count: usize) {
    let each = (after - before) / count as f64;
    table.add(Row {
        what: format!("{what}, of {count}"),
        baseline: format!("{:.1} MiB, {baseline}", before / 1048576.0),
        measured: format!("{:.1} MiB", after / 1048576.0),
        result: format!("{each:.0} B"),
        target: if what.contains("a waiting poll") { Target::at_most(MOST, each, "8 KiB") } else { None },
    });
}

/// What this process holds in memory, in bytes. Linux tells it.
fn resident() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("only Linux tells of memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0)
}
