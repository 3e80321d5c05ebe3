//! The torture test: clients come and go, whatever runs is killed, frozen or denied its disk at random moments, and in the
//! end every promise must have been kept.
//!
//! ```sh
//! cargo test -p meanwhile-cli --test torture -- --nocapture      # 20 kills, and the figures
//! MEANWHILE_TORTURE_KILLS=500 cargo test -p meanwhile-cli --test torture -- --nocapture
//! MEANWHILE_TORTURE_SEED=7 cargo test …                          # the same decisions as that time
//! ```
//! The seed brings back what each client and the killer decide; how their processes interleave is the machine's affair.
#![cfg(target_os = "linux")]

mod audit;
mod client;
mod dice;
mod killer;
mod ledger;
mod place;
mod processes;
mod session;

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use client::Stage;
use dice::Dice;

/// How many clients there are at any time.
const CLIENTS: u64 = 4;
const KILLS: usize = 20;
/// How many violations and oddities are shown.
const SHOWN: usize = 20;

#[test]
fn every_handle_is_accounted_for_and_nothing_runs_twice_whatever_is_killed() {
    let seed =
        setting("MEANWHILE_TORTURE_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let kills = setting("MEANWHILE_TORTURE_KILLS").map_or(KILLS, |kills| kills as usize);
    println!("torture: {kills} kills with MEANWHILE_TORTURE_SEED={seed}");
    let began = Instant::now();
    let stage = Stage::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let after = runtime.block_on(torture(&stage, seed, kills));
    println!("{}", figures(&stage, began.elapsed(), &after));
    println!("{}", first_of(&stage.ledger().oddities));
    assert!(stage.place.remove(), "the folder cannot be removed");
    let violations = &stage.ledger().violations;
    assert!(violations.is_empty(), "seed {seed}, {} violations:\n{}", violations.len(), first_of(violations));
}

/// How long after the storm the last job had ended, and the last process was gone.
struct Aftermath {
    ended: Duration,
    gone: Duration,
}

async fn torture(stage: &Stage, seed: u64, kills: usize) -> Aftermath {
    let mut lanes = tokio::task::JoinSet::new();
    lanes.spawn(killer::storm(stage.clone(), Dice::new(seed, 0), kills));
    for lane in 1..=CLIENTS {
        lanes.spawn(client::come_and_go(stage.clone(), Dice::new(seed, lane)));
    }
    while let Some(ended) = lanes.join_next().await {
        ended.expect("no lane panics");
    }
    let after = Instant::now();
    let ended = audit::settle(stage).await;
    audit::all_gone(stage).await;
    let gone = after.elapsed();
    audit::balance(stage).await;
    audit::needless_losses(stage).await;
    Aftermath { ended, gone }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn figures(stage: &Stage, took: Duration, after: &Aftermath) -> String {
    let ledger = stage.ledger();
    let mut text = String::new();
    for (what, count) in &ledger.counts {
        let _ = writeln!(text, "{count:>8}  {what}");
    }
    let times = [
        (after.ended, "until the last job had ended after the storm"),
        (after.gone, "until the last process was gone"),
        (took, "in all"),
    ];
    for (time, what) in times {
        let _ = writeln!(text, "{:>8.1}  seconds {what}", time.as_secs_f64());
    }
    text
}

fn first_of(violations: &[String]) -> String {
    violations.iter().take(SHOWN).map(|violation| format!("- {violation}\n")).collect()
}
