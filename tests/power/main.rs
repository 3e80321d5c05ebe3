//! Power loss: what the store asks of the disk is recorded and replayed up to every sync and every answer, with any of what
//! was not synced lost or torn. Whatever the client had been told by then must be there.
//!
//! ```sh
//! cargo test -p meanwhile-cli --test power -- --ignored --nocapture   # needs strace
//! MEANWHILE_POWER_SEED=7 cargo test …                                 # the same losses, of what may be another recording
//! ```
//! The real binary runs under `strace`, which stops a thread before and after each call: the order of the trace is the
//! order in which things happened. `-shm` is left out, for SQLite makes it anew after a crash. The recording is too short for
//! a checkpoint, which the store makes after 4000 pages of log.
#![cfg(target_os = "linux")]

mod check;
#[expect(dead_code, reason = "the client of the end-to-end tests, who need more of it")]
#[path = "../e2e/client.rs"]
mod client;
#[expect(dead_code, reason = "the dice of the torture, who throws them in more ways")]
#[path = "../torture/dice.rs"]
mod dice;
mod disk;
#[path = "../e2e/inbox.rs"]
mod inbox;
mod session;
mod trace;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use check::Promised;
use dice::Dice;
use disk::{Disk, Fate, Image};
use trace::Trace;

/// How many losses are thrown for each moment, besides the loss of everything unsynced and of nothing.
const THROWS: u64 = 6;
/// How many violations are shown.
const SHOWN: usize = 20;

/// A moment at which the power fails, and the loss that is thrown for it.
#[derive(Clone, Copy)]
struct Crash {
    moment: usize,
    loss: Loss,
}

#[derive(Debug, Clone, Copy)]
enum Loss {
    Everything,
    Nothing,
    Thrown(u64),
}

#[test]
#[ignore = "needs strace; .ci/run runs it"]
fn what_the_client_was_told_is_there_after_power_is_lost_at_any_sync_or_answer() {
    let seed = std::env::var("MEANWHILE_POWER_SEED")
        .map_or_else(|_| RandomState::new().build_hasher().finish(), |text| text.parse().expect("a number"));
    let home = client::Home::new();
    let said = session::record(&home);
    let trace = Trace::read(&session::traces(&home), &home.state_dir());
    assert!(trace.renames() >= 2, "the recording has no artifact that is replaced by itself");
    let promised = check::when_told(said, &trace);
    let disk = Disk::new(&trace);
    let crashes = crashes(&trace, &promised);
    println!(
        "power: {} changes, {} syncs, {} promises, {} crashes with MEANWHILE_POWER_SEED={seed}",
        disk.changes(),
        trace.syncs().count(),
        promised.len(),
        crashes.len(),
    );

    let violations = try_all(&disk, &promised, &crashes, seed);
    assert!(
        violations.is_empty(),
        "seed {seed}, {} of {} crashes break a promise:\n{}",
        violations.len(),
        crashes.len(),
        violations.iter().take(SHOWN).map(|violation| format!("- {violation}\n")).collect::<String>()
    );

    // The proof of the proof: on a disk whose syncs do nothing, the same crashes do break promises.
    let lying = Disk::new(&trace.without_syncs());
    let broken = try_all(&lying, &promised, &crashes[crashes.len() - 3..], seed);
    assert!(!broken.is_empty(), "nothing is lost on a disk that syncs nothing: the test proves nothing");
}

/// At each answer, before and after each sync.
fn crashes(trace: &Trace, promised: &[Promised]) -> Vec<Crash> {
    let syncs = trace.syncs().flat_map(|sync| [sync.began, sync.ended]);
    let mut moments: Vec<usize> = syncs.chain(promised.iter().map(|promised| promised.told)).collect();
    moments.retain(|moment| *moment != usize::MAX);
    moments.sort_unstable();
    moments.dedup();
    let losses = || (0..THROWS).map(Loss::Thrown).chain([Loss::Nothing, Loss::Everything]);
    moments.iter().flat_map(|&moment| losses().map(move |loss| Crash { moment, loss })).collect()
}

/// Loses power in every one of these ways, and returns what is wrong then.
fn try_all(disk: &Disk, promised: &[Promised], crashes: &[Crash], seed: u64) -> Vec<String> {
    let (next, violations) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(crash) = crashes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let due = promised.iter().filter(|promised| promised.told <= crash.moment);
            if let Err(why) = check::keeps(&left_after(disk, *crash, seed), due) {
                let mut violations = violations.lock().unwrap_or_else(PoisonError::into_inner);
                violations.push(format!("line {}, {:?} lost: {why}", crash.moment / 2 + 1, crash.loss));
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get() * 2);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    violations.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn left_after(disk: &Disk, crash: Crash, seed: u64) -> Image<'_> {
    match crash.loss {
        Loss::Everything => disk.after(crash.moment, || Fate::Lost),
        Loss::Nothing => disk.after(crash.moment, || Fate::Kept),
        Loss::Thrown(throw) => {
            let mut dice = Dice::new(seed, crash.moment as u64 * THROWS + throw);
            let kept = [10, 50, 90][dice.between(0, 2) as usize];
            disk.after(crash.moment, || match (dice.chance(kept), dice.chance(30)) {
                (false, _) => Fate::Lost,
                (true, false) => Fate::Kept,
                (true, true) => Fate::Torn(dice.between(1, u64::MAX - 1)),
            })
        }
    }
}
