//! What a store costs that is old and full: `cargo bench -p meanwhile-cli --bench scale`.
//!
//! Two stores on the same disk, each behind its own engine: one begins empty, the other holds a million jobs that have
//! ended, and ten thousand that run, each with a poll that waits for it. Both are asked the same in turns, so that a busy
//! machine slows both. A target that is missed is shown and fails nothing. `README.md` says what each row means.
//!
//! | module | question it answers |
//! |---|---|
//! | [`fill`] | how do a million jobs get into a store quickly? |
//! | [`stage`] | what is an agent's start, and what is its poll? |
//! | [`crowd`] | what do ten thousand waiting polls hold in memory? |
//! | [`rounds`] | what do the two stores cost, in turns? |
//! | [`figures`], [`table`] | with what is it shown? (shared with the bench of the gateway) |

mod crowd;
#[path = "../gateway/figures.rs"]
#[expect(dead_code, reason = "the other bench shows more kinds of figures")]
mod figures;
mod fill;
mod rounds;
mod stage;
#[path = "../gateway/table.rs"]
#[expect(dead_code, reason = "the other bench has targets of other kinds")]
mod table;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use stage::Stage;
use table::Table;

/// Jobs that have ended.
const FINISHED: usize = 1_000_000;
/// Polls that wait.
const WAITING: usize = 10_000;
/// Far longer than it takes on a slow machine: a run that hangs must not stay for ever.
const PATIENCE: Duration = Duration::from_secs(900);

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == fill::ARGUMENT) {
        return fill::fill(Path::new(args.get(at + 1).context("which file?")?));
    }
    if !args.iter().any(|arg| arg == "--bench") {
        eprintln!("nothing is measured in a test run; use: cargo bench -p meanwhile-cli --bench scale");
        return Ok(());
    }
    give_up_after(PATIENCE);
    let began = Instant::now();
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let mut table = Table::default();
    let full = folder.path().join("full.db");
    table.note(fill::in_a_process_of_its_own(&full)?);
    // As the wrapper has it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(folder.path(), &full, &mut table))?;
    // What still waits is not waited for.
    runtime.shutdown_background();
    table.print(began.elapsed())?;
    Ok(())
}

async fn measure(folder: &Path, full: &Path, table: &mut Table) -> anyhow::Result<()> {
    let old = fill::some_answered(full)?;
    let empty = Stage::open(&folder.join("empty.db"))?;
    let full = Stage::open(full)?;
    crowd::gather(&full, WAITING, table).await?;
    rounds::measure(&empty, &full, &old, table).await
}

fn give_up_after(patience: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(patience);
        eprintln!("scale: no end after {patience:?}; something hangs");
        std::process::exit(1);
    });
}
