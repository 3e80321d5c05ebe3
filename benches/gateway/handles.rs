//! Jobs that start as jobs: their handle is on the disk before it is told, so its cost is counted in flushes.

use crate::client::{Client, Tool};
use crate::cores::Placement;
use crate::disk::Disk;
use crate::figures::{Rounds, Samples, micros, per_second};
use crate::setup::Bench;
use crate::table::{Row, Table, Target};

const ROUNDS: usize = 5;
/// A round takes flushes and starts in turns of a few: what a disk does changes from one moment to the next, and only what was
/// measured in the same moment can be compared.
const TURNS: usize = 30;
/// Flushes of one turn, and starts one by one.
const EACH: usize = 5;
/// Turns with many starts in flight, and the starts of each.
const PIPELINED_TURNS: usize = 5;
const PIPELINED: usize = 192;
const IN_FLIGHT: usize = 64;
/// Starts before anything is measured: the first makes the store.
const WARM_UP: usize = 20;

/// A call that never ends, and is no repeat.
const SLOW: Tool = Tool { name: "slow", arguments: |n| format!("{{\"n\":{n}}}") };

/// Whether a start finds a slot free, or waits in the queue.
#[derive(Clone, Copy)]
enum Slots {
    Free,
    Taken,
}

/// What one kind of start cost, round by round.
#[derive(Default)]
struct Starts {
    flushes: Rounds,
    times: Rounds,
    ratios: Samples,
    rates: Samples,
    /// How many starts were made in the time of one flush.
    shares: Samples,
}

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let mut disk = Disk::new(bench.folder())?;
    let mut overwrites = Rounds::default();
    let kinds = [(Slots::Free, "runs at once"), (Slots::Taken, "is queued")];
    for placement in Placement::all() {
        let mut starts = <[Starts; 2]>::default();
        placement.run(|| {
            for _ in 0..ROUNDS {
                for (starts, (slots, _)) in starts.iter_mut().zip(kinds) {
                    starts.round(bench, &mut disk, slots)?;
                    if placement == Placement::Free {
                        starts.round_in_flight(bench, &mut disk, slots)?;
                    }
                }
                overwrites.add(&disk.overwrite(TURNS * EACH)?);
            }
            Ok(())
        })?;
        for (starts, (_, name)) in starts.iter_mut().zip(kinds) {
            starts.rows(&format!("job {name}, {}", placement.name()), table);
            if placement == Placement::Free {
                starts.rows_in_flight(name, table);
            }
        }
        if placement == Placement::Free {
            disk_row(&starts[0], &overwrites, table);
        }
    }
    Ok(())
}

impl Starts {
    fn round(&mut self, bench: &Bench, disk: &mut Disk, slots: Slots) -> anyhow::Result<()> {
        let mut client = gateway(bench, slots)?;
        let (mut flushes, mut times) = (Samples::default(), Samples::default());
        for _ in 0..TURNS {
            flushes.extend(&disk.append(EACH)?);
            for _ in 0..EACH {
                times.add_time(client.call(SLOW)?.0);
            }
        }
        self.ratios.add(times.median() / flushes.median());
        self.times.add(&times);
        self.flushes.add(&flushes);
        Ok(())
    }

    fn round_in_flight(&mut self, bench: &Bench, disk: &mut Disk, slots: Slots) -> anyhow::Result<()> {
        let mut client = gateway(bench, slots)?;
        let (mut flushes, mut rates) = (Samples::default(), Samples::default());
        for _ in 0..PIPELINED_TURNS {
            flushes.extend(&disk.append(2 * EACH)?);
            let took = client.pipeline(SLOW, PIPELINED, IN_FLIGHT)?;
            rates.add(PIPELINED as f64 / took.as_secs_f64());
        }
        self.shares.add(rates.median() * flushes.median() / 1e6);
        self.rates.add(rates.median());
        Ok(())
    }

    fn rows(&self, name: &str, table: &mut Table) {
        table.add(Row {
            what: format!("time to handle, {name}, p50"),
            baseline: micros(self.flushes.p50()),
            measured: micros(self.times.p50()),
            result: format!("{:.2} flushes", self.ratios.median()),
            target: Target::at_most(1.5, self.ratios.median(), "1.5 flushes"),
        });
        table.add(Row {
            what: format!("time to handle, {name}, p99"),
            baseline: micros(self.flushes.p99()),
            measured: micros(self.times.p99()),
            result: format!("{:.2} flushes", self.times.p99() / self.flushes.p99()),
            target: None,
        });
    }

    fn rows_in_flight(&mut self, name: &str, table: &mut Table) {
        let (one_by_one, together) = (1e6 / self.times.p50(), self.rates.median());
        table.add(Row {
            what: format!("{IN_FLIGHT} starts in flight against one by one, job {name}"),
            baseline: per_second(one_by_one),
            measured: per_second(together),
            result: format!("{:.1} ×", together / one_by_one),
            target: None,
        });
        table.add(Row {
            what: format!("{IN_FLIGHT} starts in flight, job {name}"),
            baseline: per_second(1e6 / self.flushes.p50()),
            measured: per_second(self.rates.median()),
            result: format!("{:.1} a flush", self.shares.median()),
            target: Target::at_least(10.0, self.shares.median(), "10 a flush"),
        });
    }
}

/// A gateway that has its store, in which the next job finds the slots so.
fn gateway(bench: &Bench, slots: Slots) -> anyhow::Result<Client> {
    let max_running = match slots {
        Slots::Free => "60000",
        Slots::Taken => "1",
    };
    let options = ["--mode", "handle", "--max-running", max_running];
    let mut client = Client::ready(bench.wrapped(bench.std_server(), &options)?)?;
    client.pipeline(SLOW, WARM_UP, 1)?;
    Ok(client)
}

/// What the disk does: the baseline, and what it would be if the log never grew.
fn disk_row(starts: &Starts, overwrites: &Rounds, table: &mut Table) {
    table.add(Row {
        what: "one flush of 4 KiB: appended, written over, p50".to_owned(),
        baseline: micros(starts.flushes.p50()),
        measured: micros(overwrites.p50()),
        result: format!("{:.2} flushes", overwrites.p50() / starts.flushes.p50()),
        target: None,
    });
}
