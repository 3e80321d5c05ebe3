//! Fast calls: what the gateway adds to each, and what is left of the throughput.

use crate::client::Client;
use crate::cores::Placement;
use crate::figures::{Rounds, Samples, added, micros, per_second};
use crate::setup::{Bench, ECHO, Server};
use crate::table::{Row, Table, Target};

/// Many short rounds rather than few long ones, so that both sides see every mood of the scheduler.
const ROUNDS: usize = 41;
/// Calls of one round, one by one.
const CALLS: usize = 250;
/// Calls of one round, with many in flight.
const PIPELINED: usize = 2000;
const IN_FLIGHT: usize = 64;
/// Calls before anything is measured.
const WARM_UP: usize = 500;

/// One call after another.
pub(crate) fn sequential(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    for server in bench.servers() {
        for placement in Placement::all() {
            let what = format!("fast call, {} server, {}", server.name, placement.name());
            let (without, with) = placement.run(|| in_turns(bench, server))?;
            let mut row = |share: &str, without: f64, with: f64, limit: f64| {
                table.add(Row {
                    what: format!("{what}, {share}"),
                    baseline: micros(without),
                    measured: micros(with),
                    result: added(with - without),
                    target: Target::at_most(limit, with - without, &added(limit)),
                });
            };
            row("p50", without.p50(), with.p50(), 100.0);
            row("p99", without.p99(), with.p99(), 400.0);
            table.note(format!(
                "{what}: p50 of a round from {} bare, {} wrapped",
                without.range_of_p50(),
                with.range_of_p50()
            ));
        }
    }
    Ok(())
}

fn in_turns(bench: &Bench, server: &Server) -> anyhow::Result<(Rounds, Rounds)> {
    let (mut bare, mut wrapped) = both(bench, server)?;
    let (mut without, mut with) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        without.add(&one_by_one(&mut bare)?);
        with.add(&one_by_one(&mut wrapped)?);
    }
    Ok((without, with))
}

/// Many calls at once.
pub(crate) fn in_flight(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    for server in bench.servers() {
        for placement in Placement::all() {
            let [without, with, kept] = placement.run(|| rates_in_turns(bench, server))?;
            let what = format!("{IN_FLIGHT} calls in flight, {} server, {}", server.name, placement.name());
            table.note(format!("{what}: a round kept {} %", kept.range()));
            table.add(Row {
                what,
                baseline: per_second(without.median()),
                measured: per_second(with.median()),
                result: format!("{:.0} %", kept.median()),
                target: Target::at_least(70.0, kept.median(), "70 %"),
            });
        }
    }
    Ok(())
}

/// The rates without and with the gateway, and the second in per cent of the first, round by round.
fn rates_in_turns(bench: &Bench, server: &Server) -> anyhow::Result<[Samples; 3]> {
    let (mut bare, mut wrapped) = both(bench, server)?;
    let [mut without, mut with, mut kept] = <[Samples; 3]>::default();
    for _ in 0..ROUNDS {
        let (fast, slow) = (rate(&mut bare)?, rate(&mut wrapped)?);
        without.add(fast);
        with.add(slow);
        kept.add(100.0 * slow / fast);
    }
    Ok([without, with, kept])
}

/// The bare server and the wrapped one, both warm.
fn both(bench: &Bench, server: &Server) -> anyhow::Result<(Client, Client)> {
    let mut bare = Client::ready(bench.bare(server)?)?;
    let mut wrapped = Client::ready(bench.wrapped(server, &[])?)?;
    for client in [&mut bare, &mut wrapped] {
        client.pipeline(ECHO, WARM_UP, 1)?;
    }
    Ok((bare, wrapped))
}

fn one_by_one(client: &mut Client) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..CALLS {
        samples.add_time(client.call(ECHO)?.0);
    }
    Ok(samples)
}

/// Calls per second.
fn rate(client: &mut Client) -> anyhow::Result<f64> {
    let took = client.pipeline(ECHO, PIPELINED, IN_FLIGHT)?;
    Ok(PIPELINED as f64 / took.as_secs_f64())
}
