//! The two stores in turns: the same work on the empty one, and then on the full one, round after round.

use std::time::{Duration, Instant};

use anyhow::ensure;
use meanwhile_core::engine::sweep;
use meanwhile_core::job::{AnswerInfo, Lease};
use meanwhile_core::store::{NewJob, Query};
use meanwhile_core::{Handle, Op, Outcome, Store};

use crate::figures::{Rounds, Samples, micros};
use crate::stage::{ENDLESS, GATED, SCOPE, Stage, call, policy};
use crate::table::{Row, Table, Target};

const ROUNDS: usize = 12;
const STARTS: usize = 60;
const POLLS: usize = 300;
const WAKES: usize = 30;
const LOOKS: usize = 40;
/// A wake-up by another process sets off what should not be measured with the next one.
const FOREIGN_WAKES: usize = 4;
const FOREIGN_PAUSE: Duration = Duration::from_millis(400);
/// Far longer than any wake-up takes.
const LONG: Duration = Duration::from_secs(60);
/// Until a poll that was begun waits.
const SETTLING: Duration = Duration::from_millis(5);
const MOST: f64 = 1.5;

/// What is measured, in this order.
#[derive(Debug, Clone, Copy)]
enum What {
    Start,
    PendingPoll,
    NewAnswer,
    OldAnswer,
    WakeUp,
    List,
    Sweep,
    ForeignWakeUp,
}

const ALL: [What; 8] = [
    What::Start,
    What::PendingPoll,
    What::NewAnswer,
    What::OldAnswer,
    What::WakeUp,
    What::List,
    What::Sweep,
    What::ForeignWakeUp,
];

impl What {
    fn words(self) -> &'static str {
        match self {
            What::Start => "start, until the handle is there",
            What::PendingPoll => "poll of a job that runs",
            What::NewAnswer => "poll of a new answer",
            What::OldAnswer => "poll of an answer among the million",
            What::WakeUp => "poll that waits, from the end to the answer",
            What::List => "list of a scope, 20 jobs",
            What::Sweep => "sweep with nothing to do",
            What::ForeignWakeUp => "as the poll that waits, ended by another process",
        }
    }

    /// Starts and polls are what was promised.
    fn is_promised(self) -> bool {
        !matches!(self, What::List | What::Sweep)
    }
}

/// One store, and what is known of it.
struct Side<'a> {
    stage: &'a Stage,
    running: Handle,
    /// `None`: none are old here, and new ones are the baseline.
    old: Option<&'a [Handle]>,
    new: Vec<Handle>,
    turn: usize,
    rounds: [Rounds; ALL.len()],
}

pub(crate) async fn measure(
    empty: &Stage,
    full: &Stage,
    old: &[Handle],
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut empty = Side::new(empty, None).await?;
    let mut full = Side::new(full, Some(old)).await?;
    for round in 0..=ROUNDS {
        for (index, what) in ALL.into_iter().enumerate() {
            for side in [&mut empty, &mut full] {
                let samples = side.samples(what).await?;
                // The first round warms up.
                if round > 0 {
                    side.rounds[index].add(&samples);
                }
            }
        }
    }
    for (index, what) in ALL.into_iter().enumerate() {
        add(table, what, &empty.rounds[index], &full.rounds[index]);
    }
    Ok(())
}

fn add(table: &mut Table, what: What, empty: &Rounds, full: &Rounds) {
    let ratio = full.p50() / empty.p50();
    let slow = full.p99() / empty.p99();
    let shown = |rounds: &Rounds| format!("{}, p99 {}", micros(rounds.p50()), micros(rounds.p99()));
    table.add(Row {
        what: what.words().to_owned(),
        baseline: shown(empty),
        measured: shown(full),
        result: format!("{ratio:.2} ×, p99 {slow:.2} ×"),
        target: if what.is_promised() { Target::at_most(MOST, ratio, "1.5 ×") } else { None },
    });
}

impl Side<'_> {
    async fn new<'a>(stage: &'a Stage, old: Option<&'a [Handle]>) -> anyhow::Result<Side<'a>> {
        let running = stage.start(ENDLESS).await?;
        Ok(Side { stage, running, old, new: Vec::new(), turn: 0, rounds: Default::default() })
    }

    async fn samples(&mut self, what: What) -> anyhow::Result<Samples> {
        let mut samples = Samples::default();
        match what {
            What::Start => {
                self.new.clear();
                for _ in 0..STARTS {
                    let began = Instant::now();
                    let handle = self.stage.start("quick").await?;
                    samples.add_time(began.elapsed());
                    ensure!(self.stage.poll(handle, LONG).await?, "it has an answer");
                    self.new.push(handle);
                }
            }
            What::PendingPoll => {
                for _ in 0..POLLS {
                    samples.add_time(self.poll(self.running, false).await?);
                }
            }
            What::NewAnswer | What::OldAnswer => {
                for _ in 0..POLLS {
                    let handle = self.next_answered(matches!(what, What::OldAnswer));
                    samples.add_time(self.poll(handle, true).await?);
                }
            }
            What::WakeUp => {
                for _ in 0..WAKES {
                    samples.add_time(self.wake_up().await?);
                }
            }
            What::List => {
                for _ in 0..LOOKS {
                    samples.add_time(self.list().await?);
                }
            }
            What::Sweep => {
                for _ in 0..LOOKS {
                    let began = Instant::now();
                    sweep(&*self.stage.store, &self.stage.artifacts).await?;
                    samples.add_time(began.elapsed());
                }
            }
            What::ForeignWakeUp => {
                for _ in 0..FOREIGN_WAKES {
                    samples.add_time(self.foreign_wake_up().await?);
                    tokio::time::sleep(FOREIGN_PAUSE).await;
                }
            }
        }
        Ok(samples)
    }

    fn next_answered(&mut self, is_old: bool) -> Handle {
        self.turn += 1;
        let from = self.old.filter(|_| is_old).unwrap_or(&self.new);
        from[self.turn % from.len()]
    }

    async fn poll(&self, handle: Handle, has_answer: bool) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let answered = self.stage.poll(handle, Duration::ZERO).await?;
        let took = began.elapsed();
        ensure!(answered == has_answer, "{handle} has an answer: {answered}");
        Ok(took)
    }

    async fn wake_up(&self) -> anyhow::Result<Duration> {
        let handle = self.stage.start(GATED).await?;
        let waiting = self.wait_for(handle).await;
        let began = Instant::now();
        self.stage.open_gate();
        ensure!(waiting.await??, "it has an answer");
        Ok(began.elapsed())
    }

    /// The job belongs to another connection, as it would to another process.
    async fn foreign_wake_up(&self) -> anyhow::Result<Duration> {
        let neighbour = &self.stage.neighbour;
        let handle = Handle::random();
        let new = NewJob {
            handle,
            call: call("foreign"),
            policy: policy(),
            peer: "neighbour".to_owned(),
            lease: Lease::MAX,
            started_at: Some(neighbour.now()),
            lost: vec![],
            upstream_task: None,
            joins: true,
        };
        neighbour.create(new).await?;
        tokio::time::sleep(FOREIGN_PAUSE).await;
        let waiting = self.wait_for(handle).await;
        // No answer: what it costs to read one is measured elsewhere.
        let outcome = Outcome::CompletedIn(AnswerInfo { bytes: 0, artifact: None });
        let began = Instant::now();
        neighbour.apply(handle, Op::Finish { attempt: 1, outcome }).await?;
        waiting.await??;
        Ok(began.elapsed())
    }

    /// A poll that waits.
    async fn wait_for(&self, handle: Handle) -> tokio::task::JoinHandle<anyhow::Result<bool>> {
        let stage = self.stage.clone();
        let waiting = tokio::spawn(async move { stage.poll(handle, LONG).await });
        tokio::time::sleep(SETTLING).await;
        waiting
    }

    async fn list(&self) -> anyhow::Result<Duration> {
        let scope = Some(SCOPE.to_owned());
        let query = Query { scope, limit: 20, uncollected_first: true, ..Query::default() };
        let began = Instant::now();
        let jobs = self.stage.store.list(&query).await?;
        let took = began.elapsed();
        ensure!(jobs.len() == 20, "only {} jobs are listed", jobs.len());
        Ok(took)
    }
}
