//! Calls one by one: what the gateway adds between a client and a server.

use crate::client::{Client, Era};
use crate::cores::Placement;
use crate::figures::{Rounds, Samples, added, micros};
use crate::setup::{Bench, PATH, Server};
use crate::table::{Row, Table, Target};

/// Many short rounds rather than few long ones, so that both sides see every mood of the scheduler.
const ROUNDS: usize = 31;
/// Calls of one round.
const CALLS: usize = 100;
/// Calls before anything is measured.
const WARM_UP: usize = 500;
/// What a call may take more, in microseconds.
const LIMIT: f64 = 300.0;

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    for server in bench.servers() {
        for era in server.eras {
            for placement in Placement::all() {
                let (bare, served) = placement.run(|| in_turns(bench, server, *era))?;
                let era = if *era == Era::Legacy { "legacy" } else { "modern" };
                let what = format!("call, {} server, {era}, {}", server.name, placement.name());
                add(table, format!("{what}, p50"), bare.p50(), served.p50(), Some(LIMIT));
                add(table, format!("{what}, p99"), bare.p99(), served.p99(), None);
                table.note(format!(
                    "{what}: p50 of a round from {} bare, {} through the gateway",
                    bare.range_of_p50(),
                    served.range_of_p50()
                ));
            }
        }
    }
    Ok(())
}

fn add(table: &mut Table, what: String, bare: f64, served: f64, limit: Option<f64>) {
    let more = served - bare;
    table.add(Row {
        what,
        baseline: micros(bare),
        measured: micros(served),
        result: added(more),
        target: limit.and_then(|limit| Target::at_most(limit, more, &added(limit))),
    });
}

fn in_turns(bench: &Bench, server: &Server, era: Era) -> anyhow::Result<(Rounds, Rounds)> {
    let (bare, served) = (bench.bare(server)?, bench.served(server)?);
    let mut bare_client = Client::ready(&bare.address, "/mcp", era)?;
    let mut client = Client::ready(&served.address, PATH, era)?;
    for _ in 0..WARM_UP {
        bare_client.call(server.tool)?;
        client.call(server.tool)?;
    }
    let (mut without, mut with) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        without.add(&one_by_one(&mut bare_client, server)?);
        with.add(&one_by_one(&mut client, server)?);
    }
    Ok((without, with))
}

fn one_by_one(client: &mut Client, server: &Server) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..CALLS {
        samples.add_time(client.call(server.tool)?);
    }
    Ok(samples)
}
