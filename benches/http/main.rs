//! What the HTTP face costs, measured on the real binary: `cargo bench -p meanwhile-cli --bench http`.
//!
//! Each server is asked over its own streamable HTTP, and over that of `meanwhile serve`, which speaks stdio to it: in turns, so
//! that a busy machine slows both. A target that is missed is shown and fails nothing. `README.md` says what each row means.
//!
//! | module | question it answers |
//! |---|---|
//! | [`calls`] | what does a call cost more, one by one, in each era? |
//! | [`listens`] | how much memory do many open `subscriptions/listen` hold? |
//! | [`client`], [`setup`] | with what is it asked? |
//! | [`cores`], [`family`], [`figures`], [`table`] | as the gateway's benchmark: with what is it measured and shown? |

mod calls;
mod client;
#[path = "../gateway/cores.rs"]
mod cores;
#[expect(dead_code, reason = "the gateway's benchmark needs more of it")]
#[path = "../gateway/family.rs"]
mod family;
#[expect(dead_code, reason = "the gateway's benchmark needs more of it")]
#[path = "../gateway/figures.rs"]
mod figures;
mod listens;
mod setup;
#[expect(dead_code, reason = "the gateway's benchmark needs more of it")]
#[path = "../gateway/table.rs"]
mod table;

use std::time::Instant;

use setup::Bench;
use table::Table;

/// One part of a run.
type Part = fn(&Bench, &mut Table) -> anyhow::Result<()>;

/// By the names under which they can be asked for alone.
const PARTS: [(&str, Part); 2] = [("calls", calls::measure), ("listens", listens::measure)];

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if !args.iter().any(|arg| arg == "--bench") {
        eprintln!("nothing is measured in a test run; use: cargo bench -p meanwhile-cli --bench http");
        return Ok(());
    }
    let began = Instant::now();
    let bench = Bench::new()?;
    let mut table = Table::default();
    bench.note_what_is_missing(&mut table);
    note_load(&mut table, "before");
    let wanted: Vec<&str> =
        args.iter().skip(1).map(String::as_str).filter(|arg| !arg.starts_with("--")).collect();
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.contains(&name) {
            part(&bench, &mut table)?;
        }
    }
    note_load(&mut table, "after");
    table.print(began.elapsed())?;
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
