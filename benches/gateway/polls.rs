//! A poll that waits: how long after its job is done is it answered?
//!
//! The server answers with the time at which it does. Between that and the client's clock the gateway has committed the
//! result to the disk and woken the poll. The baseline is the same call to the bare server.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::client::{Client, Tool};
use crate::figures::{Samples, added, micros};
use crate::server::wall_clock;
use crate::setup::Bench;
use crate::table::{Row, Table, Target};

const ROUNDS: usize = 8;
/// Jobs of one round, each waited for alone.
const JOBS: usize = 50;
const WARM_UP: usize = 5;

/// Long enough that the poll waits before the end comes.
const STAMP: Tool = Tool { name: "stamp", arguments: |n| format!("{{\"ms\":20,\"n\":{n}}}") };

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let mut bare = Client::ready(bench.bare(bench.std_server())?)?;
    let mut wrapped = Client::ready(bench.wrapped(bench.std_server(), &["--mode", "handle"])?)?;
    for _ in 0..WARM_UP {
        polled(&mut wrapped)?;
    }
    let (mut without, mut with) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        for _ in 0..JOBS {
            without.add_time(called(&mut bare)?);
            with.add_time(polled(&mut wrapped)?);
        }
    }
    let mut row = |share: &str, without: f64, with: f64, limit: Option<f64>| {
        table.add(Row {
            what: format!("job done → waiting poll answered, {share} of {}", ROUNDS * JOBS),
            baseline: micros(without),
            measured: micros(with),
            result: added(with - without),
            target: limit.and_then(|limit| Target::at_most(limit, with, &micros(limit))),
        });
    };
    row("p50", without.median(), with.median(), None);
    row("p99", without.p99(), with.p99(), Some(2000.0));
    Ok(())
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
