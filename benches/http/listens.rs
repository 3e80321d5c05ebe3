//! Many listeners: what the gateway holds while they wait to be told of changes.

use crate::client::{Client, Era};
use crate::setup::{Bench, PATH, Server};
use crate::table::{Row, Table, Target};

const LISTENERS: usize = 1000;
/// What the whole process may hold then, in MiB.
const LIMIT: f64 = 60.0;

/// In front of one server, and at the endpoint that all servers share.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let Some(server) = bench.rmcp() else { return Ok(()) };
    for path in [PATH, "/mcp"] {
        listen(bench, server, path, table)?;
    }
    Ok(())
}

fn listen(bench: &Bench, server: &Server, path: &str, table: &mut Table) -> anyhow::Result<()> {
    let served = bench.served(server)?;
    Client::ready(&served.address, PATH, Era::Modern)?.call(server.tool)?;
    let Some(before) = served.resident() else { return Ok(()) };
    let open: Vec<Client> =
        (0..LISTENERS).map(|_| Client::listen(&served.address, path)).collect::<anyhow::Result<_>>()?;
    let Some(after) = served.resident() else { return Ok(()) };
    drop(open);
    let mebibytes = |kibibytes: f64| format!("{:.1} MiB", kibibytes / 1024.0);
    table.add(Row {
        what: format!("memory with {LISTENERS} listeners at {path}"),
        baseline: mebibytes(before),
        measured: mebibytes(after),
        result: format!("{:.1} KiB each", (after - before) / LISTENERS as f64),
        target: Target::at_most(LIMIT * 1024.0, after, &mebibytes(LIMIT * 1024.0)),
    });
    Ok(())
}
