//! A poll that waits: how long after its job is done is it answered?
//!
//! The server answers with the time at which it does. Between that and the client's clock the gateway has committed the
//! result to the disk and woken the poll. The baseline is the same call to the bare server; what the disk has to do with it
//! is told by one flush after a pause as long, for a disk that rests is slower than one at work.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::client::{Client, Tool};
use crate::disk::Disk;
use crate::figures::{Samples, added, micros};
use crate::server::wall_clock;
use crate::setup::Bench;
use crate::table::{Row, Table, Target};

/// Jobs, each waited for alone.
const JOBS: usize = 400;
const WARM_UP: usize = 5;

/// How long a job takes, and how long the disk rests before it is flushed.
const PAUSE: Duration = Duration::from_millis(20);

/// Long enough that the poll waits before the end comes.
const STAMP: Tool = Tool { name: "stamp", arguments: |n| format!("{{\"ms\":20,\"n\":{n}}}") };

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let mut bare = Client::ready(bench.bare(bench.std_server())?)?;
    let mut wrapped = Client::ready(bench.wrapped(bench.std_server(), &["--mode", "handle"])?)?;
    for _ in 0..WARM_UP {
        polled(&mut wrapped)?;
    }
    let mut disk = Disk::new(bench.folder())?;
    let [mut without, mut with, mut flushes] = <[Samples; 3]>::default();
    for _ in 0..JOBS {
        without.add_time(called(&mut bare)?);
        with.add_time(polled(&mut wrapped)?);
        std::thread::sleep(PAUSE);
        flushes.extend(&disk.append(1)?);
    }
    poll_rows(&without, &with, table);
    flush_rows(&flushes, &with, table);
    Ok(())
}

fn poll_rows(without: &Samples, with: &Samples, table: &mut Table) {
    let mut row = |share: &str, without: f64, with: f64, limit: Option<f64>| {
        table.add(Row {
            what: format!("job done → waiting poll answered, {share} of {JOBS}"),
            baseline: micros(without),
            measured: micros(with),
            result: added(with - without),
            target: limit.and_then(|limit| Target::at_most(limit, with, &micros(limit))),
        });
    };
    row("p50", without.median(), with.median(), None);
    row("p99", without.p99(), with.p99(), Some(2000.0));
}

fn flush_rows(flushes: &Samples, with: &Samples, table: &mut Table) {
    let mut row = |share: &str, flush: f64, poll: f64| {
        table.add(Row {
            what: format!("the same in flushes after such a pause, {share}"),
            baseline: micros(flush),
            measured: micros(poll),
            result: format!("{:.2} flushes", poll / flush),
            target: None,
        });
    };
    row("p50", flushes.median(), with.median());
    row("p99", flushes.p99(), with.p99());
}

fn called(client: &mut Client) -> anyhow::Result<Duration> {
    let (_, answer) = client.call(STAMP)?;
    since_stamp(&answer)
}

fn polled(client: &mut Client) -> anyhow::Result<Duration> {
    let (_, started) = client.call(STAMP)?;
    let handle = started["structuredContent"]["handle"].as_str().context("no handle")?;
    let params =
        format!("{{\"name\":\"poll_result\",\"arguments\":{{\"handle\":\"{handle}\",\"wait_ms\":10000}}}}");
    let (_, answer) = client.request("tools/call", &params)?;
    since_stamp(&answer)
}

/// How long ago the server answered.
fn since_stamp(answer: &Value) -> anyhow::Result<Duration> {
    let now = wall_clock();
    let stamp = answer["content"][0]["text"].as_str().and_then(|text| text.parse().ok());
    Ok(now.saturating_sub(Duration::from_nanos(stamp.context("no stamp")?)))
}
