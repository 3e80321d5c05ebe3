//! What the gateway costs, measured on the real binary over pipes: `cargo bench -p meanwhile-cli --bench gateway`.
//!
//! Every figure stands beside a baseline of the same run, taken in turns with it (A-B-A-B), so that a busy machine slows
//! both. A target that is missed is shown and fails nothing. `benches/README.md` says what each row means.
//!
//! | module | question it answers |
//! |---|---|
//! | [`calls`] | what does a fast call cost, one by one and with 64 in flight? |
//! | [`handles`] | how soon is a handle there, in flushes of this disk? |
//! | [`shared`] | how many starts share a flush? |
//! | [`polls`] | how soon does a waiting poll learn that its job is done? |
//! | [`process`] | how long does the start take, and how much memory is held? |
//! | [`server`] | the baseline: the fastest MCP server there can be |
//! | [`client`], [`setup`], [`family`], [`cores`], [`disk`], [`figures`], [`table`] | with what is it measured and shown? |

mod calls;
mod client;
mod cores;
mod disk;
mod family;
mod figures;
mod handles;
mod polls;
mod process;
mod server;
mod setup;
mod shared;
mod table;

use std::time::{Duration, Instant};

use setup::Bench;
use table::Table;

/// Far longer than it takes on a slow machine: a process that hangs must not keep the run for ever.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == server::ARGUMENT) {
        return Ok(server::serve()?);
    }
    if !args.iter().any(|arg| arg == "--bench") {
        eprintln!("nothing is measured in a test run; use: cargo bench -p meanwhile-cli --bench gateway");
        return Ok(());
    }
    give_up_after(PATIENCE);
    let began = Instant::now();
    let bench = Bench::new()?;
    let mut table = Table::default();
    bench.note_what_is_missing(&mut table);
    note_load(&mut table, "before");
    let wanted: Vec<&str> =
        args.iter().skip(1).map(String::as_str).filter(|arg| !arg.starts_with("--")).collect();
    measure(&bench, &mut table, &wanted)?;
    note_load(&mut table, "after");
    table.print(began.elapsed())?;
    Ok(())
}

/// One part of a run.
type Part = fn(&Bench, &mut Table) -> anyhow::Result<()>;

/// By the names under which they can be asked for alone.
const PARTS: [(&str, Part); 7] = [
    ("calls", calls::sequential),
    ("in-flight", calls::in_flight),
    ("handles", handles::measure),
    ("shared", shared::measure),
    ("polls", polls::measure),
    ("start-up", process::start_up),
    ("memory", process::memory),
];

/// Measures the parts that are wanted, or all.
fn measure(bench: &Bench, table: &mut Table, wanted: &[&str]) -> anyhow::Result<()> {
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.contains(&name) {
            part(bench, table)?;
        }
    }
    Ok(())
}

/// How busy the machine is: figures of a run beside other work are not to be trusted. Linux tells it.
fn note_load(table: &mut Table, when: &str) {
    if let Ok(load) = std::fs::read_to_string("/proc/loadavg") {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let minute = load.split_whitespace().next().unwrap_or("?");
        table.note(format!("load of the last minute {when}: {minute}, on {cores} cores"));
    }
}

/// Ends this process; the children see the end of their input, and end too.
fn give_up_after(patience: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(patience);
        eprintln!("gateway: no end after {patience:?}; something hangs");
        std::process::exit(1);
    });
}
