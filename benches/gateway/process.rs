//! The process itself: how long it takes until a client has its tools, and how much memory it holds.

use std::time::{Duration, Instant};

use crate::client::{Client, Tool};
use crate::figures::{Samples, added, micros};
use crate::setup::{Bench, ECHO};
use crate::table::{Row, Table, Target};

/// Starts of each.
const STARTS: usize = 25;
/// Fast calls before the memory is looked at.
const CALLS: usize = 500;
/// Jobs before it is looked at again.
const JOBS: usize = 200;
/// What an idle process has time for before it is looked at.
const REST: Duration = Duration::from_millis(500);

/// A call that ends soon.
const SHORT: Tool = Tool { name: "stamp", arguments: |n| format!("{{\"ms\":1,\"n\":{n}}}") };

/// From the start of a process to its first answer to `tools/list`.
pub(crate) fn start_up(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    for server in bench.servers() {
        let (mut without, mut with) = (Samples::default(), Samples::default());
        for _ in 0..STARTS {
            let (bare, wrapped) = (bench.bare(server)?, bench.wrapped(server, &[])?);
            for (command, samples) in [(bare, &mut without), (wrapped, &mut with)] {
                let began = Instant::now();
                let client = Client::ready(command)?;
                samples.add_time(began.elapsed());
                drop(client);
            }
        }
        let more = with.median() - without.median();
        table.add(Row {
            what: format!("start to first tools/list, {} server, p50", server.name),
            baseline: micros(without.median()),
            measured: micros(with.median()),
            result: added(more),
            target: Target::at_most(20_000.0, more, "+20.0 ms"),
        });
    }
    Ok(())
}

/// The memory of a gateway that rests, before its first job and after some.
pub(crate) fn memory(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let mut bare = Client::ready(bench.bare(bench.std_server())?)?;
    let mut inline = Client::ready(bench.wrapped(bench.std_server(), &[])?)?;
    let mut jobs = Client::ready(bench.wrapped(bench.std_server(), &["--mode", "handle"])?)?;
    bare.pipeline(ECHO, CALLS, 1)?;
    inline.pipeline(ECHO, CALLS, 1)?;
    jobs.pipeline(SHORT, JOBS, 8)?;
    std::thread::sleep(REST);
    let Some(bare) = held(bare.pid()) else { return Ok(()) };
    let mut row = |what: String, pid: u32, limit: Option<f64>| {
        let Some(found) = held(pid) else { return };
        table.add(Row {
            what,
            baseline: mebibytes(bare.resident),
            measured: mebibytes(found.resident),
            result: format!("own {}", mebibytes(found.anonymous)),
            target: limit.and_then(|limit| Target::at_most(limit * 1024.0, found.resident, "12.0 MiB")),
        });
    };
    // Without a keeper the process that was started does the work.
    let worker = |client: &Client| client.keeper().unwrap_or(client.pid());
    row(format!("memory at rest, gateway, after {CALLS} fast calls"), worker(&inline), Some(12.0));
    if inline.keeper().is_some() {
        row("memory at rest, its shim".to_owned(), inline.pid(), None);
    }
    row(format!("memory at rest, gateway, after {JOBS} jobs"), worker(&jobs), None);
    Ok(())
}

/// What a process holds, in KiB.
struct Held {
    resident: f64,
    /// Without the pages of its files, which processes share.
    anonymous: f64,
}

fn mebibytes(kibibytes: f64) -> String {
    format!("{:.1} MiB", kibibytes / 1024.0)
}

/// Where the system tells it, which is Linux.
fn held(pid: u32) -> Option<Held> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some(Held { resident: field("VmRSS:")?, anonymous: field("RssAnon:")? })
}
