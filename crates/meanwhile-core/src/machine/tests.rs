//! Properties over random lives of a job, and the diagram: every transition that can be reached, and no other.

mod input;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::job::Policy;
use crate::store::NewJob;
use crate::testing::suite::{json, new_job};

const LEASE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(100);
const BIRTH: Moment = Moment { wall: Timestamp(1_700_000_000_000_000), steady: Timestamp(5_000_000) };

/// A job, and the log that its operations left.
struct Life {
    job: Job,
    log: Vec<Entry>,
    now: Moment,
}

impl Life {
    fn new(rerun: bool, started: bool) -> Life {
        let mut new: NewJob = new_job("me", None);
        new.policy = Policy { rerun, timeout: None, ttl: TTL };
        new.lease = LEASE;
        new.started_at = started.then_some(BIRTH.wall);
        let (job, log) = new.written(BIRTH);
        Life { job, log, now: BIRTH }
    }

    /// Lets time go by, then does the operation; a refusal is returned with the job still there to look at.
    fn step(&mut self, op: &Op, seconds: u64) -> Result<(), Refused> {
        let by = Duration::from_secs(seconds);
        self.now = Moment { wall: self.now.wall.after(by), steady: self.now.steady.after(by) };
        let entries = apply(&mut self.job, op, self.now)?;
        self.log.extend(entries);
        Ok(())
    }

    fn starts(&self) -> usize {
        self.log.iter().filter(|(_, kind)| matches!(kind, EventKind::Started { .. })).count()
    }
}

/// An operation whose attempt is still to be chosen: the current one, or one that is not.
#[derive(Clone)]
struct Draft {
    name: &'static str,
    make: fn(u64) -> Op,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn claim_by(peer: &str) -> Op {
    Op::Claim { peer: peer.to_owned(), lease: LEASE }
}

fn finish_with(attempt: u64, outcome: Outcome) -> Op {
    Op::Finish { attempt, outcome }
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, message: "no".to_owned(), error: None }
}

/// Everything that can be done to a job, by name.
const DRAFTS: [Draft; 24] = [
    Draft { name: "claim", make: |_| claim_by("one") },
    Draft { name: "claim", make: |_| claim_by("two") },
    Draft { name: "progress", make: |attempt| Op::Progress { attempt, progress: Progress::default() } },
    Draft { name: "finish", make: |attempt| finish_with(attempt, Outcome::Completed(json("{}"))) },
    Draft {
        name: "finish",
        make: |attempt| {
            let info = AnswerInfo { bytes: 100_000, artifact: Some("abc".to_owned()) };
            finish_with(attempt, Outcome::CompletedIn(info))
        },
    },
    Draft {
        name: "finish",
        make: |attempt| finish_with(attempt, Outcome::Failed(failure(FailureKind::Error))),
    },
    Draft { name: "finish", make: |attempt| finish_with(attempt, Outcome::Cancelled("stopped".to_owned())) },
    Draft { name: "ask", make: |attempt| Op::Ask { attempt, questions: vec![json("1")] } },
    Draft { name: "ask", make: |attempt| Op::Ask { attempt, questions: vec![json("1"), json("2")] } },
    Draft {
        name: "answer",
        make: |_| Op::Answer { by: Actor::User, answers: vec![("q1".to_owned(), json("1"))] },
    },
    Draft {
        name: "answer",
        make: |_| {
            let answers = (0..=100).map(|number| (format!("q{number}"), json("1"))).collect();
            Op::Answer { by: Actor::Agent, answers }
        },
    },
    Draft {
        name: "withdraw",
        make: |attempt| Op::Withdraw {
            attempt,
            by: Actor::Tool,
            keys: vec!["q3".to_owned(), "q1".to_owned(), "q2".to_owned()],
        },
    },
    Draft { name: "attach", make: |attempt| Op::Attach { attempt, task: "task 7".to_owned() } },
    Draft { name: "lose", make: |attempt| Op::Lose { attempt, reason: "it crashed".to_owned() } },
    Draft { name: "release", make: |attempt| Op::Release { attempt, reason: "it is stopped".to_owned() } },
    Draft { name: "abandon", make: |_| Op::Abandon },
    Draft { name: "cancel", make: |_| Op::Cancel { by: Actor::User } },
    Draft { name: "pause", make: |_| Op::Pause { by: Actor::Agent } },
    Draft { name: "resume", make: |_| Op::Resume { by: Actor::Agent } },
    Draft { name: "join", make: |_| Op::Join },
    Draft { name: "announce", make: |_| Op::Announce },
    Draft { name: "collect", make: |_| Op::Collect { by: Actor::Agent } },
    Draft { name: "note", make: |_| Op::Note { by: Actor::System, message: "noted".to_owned() } },
    Draft { name: "expire", make: |_| Op::Expire },
];

/// One step of a random life. Ops on the current attempt are the rule, stale and future ones the exception; time mostly
/// creeps, and now and then outlives a lease or a result; the wall clock sometimes jumps.
#[derive(Debug, Clone)]
struct Move {
    draft: Draft,
    off_by: i64,
    seconds: u64,
    jump: i64,
}

fn a_move() -> impl Strategy<Value = Move> {
    let draft = any::<Index>().prop_map(|index| index.get(&DRAFTS).clone());
    let off_by = prop_oneof![8 => Just(0), 1 => Just(-1), 1 => Just(1)];
    let seconds = prop_oneof![6 => 0..10u64, 2 => 29..32u64, 1 => 100..200u64];
    let jump = prop_oneof![9 => Just(0), 1 => -200..0i64, 1 => -86_400..86_400i64];
    (draft, off_by, seconds, jump).prop_map(|(draft, off_by, seconds, jump)| Move {
        draft,
        off_by,
        seconds,
        jump,
    })
}

fn a_life() -> impl Strategy<Value = (bool, bool, Vec<Move>)> {
    (any::<bool>(), any::<bool>(), prop::collection::vec(a_move(), 0..40))
}

/// Plays a life and shows `check` the job before and after every step, with what the machine said.
fn play(
    (rerun, started, moves): (bool, bool, Vec<Move>),
    mut check: impl FnMut(&Life, &Job, &Op, &Result<(), Refused>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut life = Life::new(rerun, started);
    for Move { draft, off_by, seconds, jump } in moves {
        life.now.wall.0 += jump * 1_000_000;
        let op = (draft.make)(life.job.attempt.saturating_add_signed(off_by));
        let before = life.job.clone();
        let said = life.step(&op, seconds);
        check(&life, &before, &op, &said)?;
    }
    Ok(())
}

fn written_attempt(op: &Op) -> Option<u64> {
    match op {
        Op::Progress { attempt, .. }
        | Op::Finish { attempt, .. }
        | Op::Withdraw { attempt, .. }
        | Op::Attach { attempt, .. }
        | Op::Lose { attempt, .. } => Some(*attempt),
        _ => None,
    }
}

fn is_at_work(job: &Job) -> bool {
    matches!(job.status, Status::Working | Status::InputRequired)
}

proptest! {
    #[test]
    fn a_terminal_status_never_changes(life in a_life()) {
        play(life, |life, before, _, _| {
            prop_assert!(!before.status.is_terminal() || life.job.status == before.status);
            prop_assert!(!before.status.is_terminal() || life.job.finished_at == before.finished_at);
            Ok(())
        })?;
    }

    #[test]
    fn an_attempt_only_ever_grows_and_only_by_a_claim(life in a_life()) {
        play(life, |life, before, op, said| {
            let claimed = matches!(op, Op::Claim { .. }) && said.is_ok();
            prop_assert_eq!(life.job.attempt, before.attempt + u64::from(claimed));
            Ok(())
        })?;
    }

    #[test]
    fn a_refused_operation_leaves_the_job_as_it_was(life in a_life()) {
        play(life, |life, before, _, said| {
            let (is, was) = (format!("{:?}", life.job), format!("{:?}", before));
            prop_assert!(said.is_ok() || is == was, "{} was {}", is, was);
            Ok(())
        })?;
    }

    #[test]
    fn the_count_of_events_is_the_length_of_the_log(life in a_life()) {
        play(life, |life, _, _, _| {
            prop_assert_eq!(life.job.events as usize, life.log.len());
            Ok(())
        })?;
    }

    #[test]
    fn somebody_answers_for_a_job_exactly_until_it_has_ended(life in a_life()) {
        play(life, |life, _, _, _| {
            prop_assert_eq!(life.job.lease.is_some(), !life.job.status.is_terminal());
            Ok(())
        })?;
    }

    #[test]
    fn the_time_to_live_counts_from_the_end(life in a_life()) {
        play(life, |life, _, _, _| {
            prop_assert_eq!(life.job.finished_at.is_some(), life.job.status.is_terminal());
            prop_assert_eq!(life.job.expires_at, life.job.finished_at.map(|end| end.after(TTL)));
            Ok(())
        })?;
    }

    #[test]
    fn only_the_current_attempt_writes_and_only_while_it_works(life in a_life()) {
        play(life, |_, before, op, said| {
            let Some(attempt) = written_attempt(op) else { return Ok(()) };
            let may = attempt == before.attempt && is_at_work(before);
            prop_assert_eq!(said.is_ok(), may);
            let stale = matches!(said, Err(Refused::Stale { .. }));
            prop_assert_eq!(stale, attempt != before.attempt);
            Ok(())
        })?;
    }

    #[test]
    fn what_is_not_safe_to_repeat_never_starts_twice(life in a_life()) {
        play(life, |life, _, _, _| {
            prop_assert_eq!(life.starts() as u64, life.job.attempt);
            let is_attached = life.log.iter().any(|(_, kind)| *kind == EventKind::Attached);
            prop_assert!(life.job.policy.rerun || is_attached || life.job.attempt <= 1);
            Ok(())
        })?;
    }

    #[test]
    fn there_is_an_answer_exactly_when_completed_and_not_expired(life in a_life()) {
        play(life, |life, _, _, _| {
            let job = &life.job;
            let due = job.status == Status::Completed && job.expired_at.is_none();
            prop_assert_eq!(job.answer.is_some(), due);
            Ok(())
        })?;
    }

    #[test]
    fn there_is_a_failure_exactly_when_failed(life in a_life()) {
        play(life, |life, _, _, _| {
            prop_assert_eq!(life.job.failure.is_some(), life.job.status == Status::Failed);
            Ok(())
        })?;
    }

    #[test]
    fn a_cancel_is_immediate_unless_the_job_works(life in a_life()) {
        play(life, |life, before, op, said| {
            if !matches!(op, Op::Cancel { .. }) {
                return Ok(());
            }
            let expected = match before.status {
                Status::Queued | Status::Paused => Some(Status::Cancelled),
                Status::Working | Status::InputRequired => Some(before.status),
                _ => None,
            };
            prop_assert_eq!(said.is_ok().then_some(life.job.status), expected);
            prop_assert!(said.is_err() || life.job.cancel_requested_at.is_some());
            Ok(())
        })?;
    }

    #[test]
    fn what_is_to_be_cancelled_never_runs_again(life in a_life()) {
        play(life, |life, before, _, _| {
            let asked = before.cancel_requested_at.is_some();
            prop_assert!(!asked || life.job.attempt == before.attempt);
            prop_assert!(!asked || !matches!(life.job.status, Status::Queued | Status::Paused));
            Ok(())
        })?;
    }

    #[test]
    fn a_live_lease_protects_the_job_from_other_peers(life in a_life()) {
        play(life, |life, before, op, said| {
            let Some(lease) = before.lease.as_ref().filter(|lease| !lease.is_over(life.now)) else { return Ok(()) };
            match op {
                Op::Abandon => prop_assert!(said.is_err()),
                Op::Claim { peer, .. } if *peer != lease.peer => prop_assert!(said.is_err()),
                _ => {}
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_result_is_announced_once_and_only_while_it_is_outstanding(life in a_life()) {
        play(life, |life, before, op, said| {
            if matches!(op, Op::Announce) {
                prop_assert_eq!(said.is_ok(), before.announced_at.is_some() || before.is_outstanding());
                let is_first = said.is_ok() && before.announced_at.is_none();
                prop_assert_eq!(life.job.events, before.events + u32::from(is_first));
                prop_assert!(said.is_err() || life.job.announced_at.is_some());
            } else {
                prop_assert_eq!(life.job.announced_at, before.announced_at);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_job_is_joined_until_its_result_expires(life in a_life()) {
        play(life, |life, before, op, said| {
            if matches!(op, Op::Join) {
                prop_assert_eq!(said.is_ok(), before.expired_at.is_none());
                prop_assert_eq!(life.job.status, before.status);
            }
            Ok(())
        })?;
    }

    #[test]
    fn nothing_expires_before_its_time(life in a_life()) {
        play(life, |life, before, _, _| {
            if before.expired_at.is_none() && life.job.expired_at.is_some() {
                prop_assert!(before.expires_at.is_some_and(|at| at <= life.now.wall));
            }
            prop_assert!(before.expired_at.is_none() || life.job.expired_at == before.expired_at);
            Ok(())
        })?;
    }

    #[test]
    fn a_job_whose_peer_is_gone_can_always_be_settled(life in a_life()) {
        let mut last = None;
        play(life, |life, _, _, _| { last = Some((life.job.clone(), life.now)); Ok(()) })?;
        let Some((mut job, now)) = last else { return Ok(()) };
        let steady = job.lease.as_ref().map_or(now.steady, |lease| lease.until.max(now.steady));
        let later = Moment { steady, ..now };
        let settled = apply(&mut job, &Op::Abandon, later);
        prop_assert!(job.status.is_terminal(), "{:?}", settled);
    }
}

#[test]
fn a_lease_goes_by_the_steady_clock_alone() {
    for day in [-86_400_000_000, 86_400_000_000] {
        let mut life = Life::new(false, true);
        life.now.wall.0 += day;
        assert!(life.step(&Op::Abandon, 29).is_err(), "a live lease protects");
        assert!(life.step(&Op::Abandon, 1).is_ok(), "a dead one does not");
    }
}

#[test]
fn no_lease_outlasts_the_bound() {
    let lease = Lease::new("one".to_owned(), Duration::MAX, BIRTH);
    assert_eq!(lease.until, BIRTH.steady.after(Lease::MAX));
}

#[test]
fn a_cancelled_job_that_is_abandoned_ends_as_it_does_when_it_is_lost() {
    let mut life = Life::new(true, true);
    life.step(&Op::Cancel { by: Actor::User }, 0).unwrap();
    life.step(&Op::Abandon, 30).unwrap();
    assert_eq!(life.job.status, Status::Cancelled, "{:?}", life.job.message);
}

#[test]
fn a_job_that_has_started_is_never_said_not_to_have() {
    for op in [Op::Cancel { by: Actor::User }, Op::Abandon] {
        let mut life = Life::new(true, true);
        life.step(&Op::Lose { attempt: 1, reason: "it crashed".to_owned() }, 0).unwrap();
        life.step(&op, 30).unwrap();
        let message = life.job.message.unwrap();
        assert!(!message.contains("never started") && !message.ends_with("before it started"), "{message}");
    }
}

#[test]
fn what_is_let_go_is_free_for_another_peer_at_once_and_cannot_be_renewed() {
    for started in [true, false] {
        let mut life = Life::new(true, started);
        life.step(&Op::Release { attempt: u64::from(started), reason: "it is stopped".to_owned() }, 1)
            .unwrap();
        let lease = life.job.lease.clone().unwrap();
        assert!(lease.is_over(life.now) && lease.peer.is_empty(), "no renewal in any peer's name reaches it");
        life.step(&claim_by("two"), 0).unwrap();
        assert_eq!(life.job.attempt, u64::from(started) + 1);
    }
}

#[test]
fn what_is_safe_to_repeat_is_not_called_unsafe_when_its_peer_is_gone() {
    let mut life = Life::new(true, true);
    life.step(&Op::Abandon, 30).unwrap();
    let message = life.job.message.unwrap();
    assert!(!message.contains("not known to be safe"), "{message}");
}

/// `from op to…`: the diagram of the module's page, with what keeps the status written out.
const DIAGRAM: &str = "
    queued    claim    working
    queued    pause    paused
    queued    cancel   cancelled
    queued    release  queued
    queued    abandon  failed
    queued    join     queued
    queued    note     queued
    paused    resume   queued
    paused    cancel   cancelled
    paused    abandon  failed
    paused    join     paused
    paused    note     paused
    working   ask      input_required
    working   withdraw working
    working   attach   working
    input_required ask      input_required
    input_required answer   input_required working
    input_required withdraw input_required working
    input_required attach   input_required
    input_required claim    working
    input_required progress input_required
    input_required finish   completed failed cancelled
    input_required lose     queued failed cancelled
    input_required release  queued failed cancelled
    input_required abandon  failed cancelled
    input_required cancel   input_required
    input_required join     input_required
    input_required note     input_required
    working   claim    working
    working   progress working
    working   finish   completed failed cancelled
    working   lose     queued failed cancelled
    working   release  queued failed cancelled
    working   abandon  failed cancelled
    working   cancel   working
    working   join     working
    working   note     working
    completed collect  completed
    completed expire   completed
    completed join     completed
    completed announce completed
    completed note     completed
    failed    collect  failed
    failed    expire   failed
    failed    join     failed
    failed    announce failed
    failed    note     failed
    cancelled collect  cancelled
    cancelled expire   cancelled
    cancelled join     cancelled
    cancelled announce cancelled
    cancelled note     cancelled
";

type Transition = (String, String, String);

fn drawn() -> BTreeSet<Transition> {
    let rows = DIAGRAM.lines().map(str::split_whitespace);
    rows.flat_map(|mut row| {
        let from = row.next().map(|from| (from, row.next().expect("an operation")));
        row.map(move |to| from.map(|(from, op)| (from.to_owned(), op.to_owned(), to.to_owned())))
    })
    .flatten()
    .collect()
}

/// What tells two jobs apart for the machine, once times are reduced to whether they are over.
fn essence(life: &Life) -> String {
    let job = &life.job;
    let marks = [job.cancel_requested_at, job.announced_at, job.collected_at, job.expired_at];
    let marks = marks.map(|at| at.is_some());
    let lease = job.lease.as_ref().map(|lease| (lease.peer.clone(), lease.is_over(life.now)));
    let due = job.expires_at.map(|at| at <= life.now.wall);
    let asked = (&job.open, job.questions, job.upstream_task.is_some());
    format!("{:?} {} {} {marks:?} {lease:?} {due:?} {asked:?}", job.status, job.policy.rerun, job.attempt)
}

/// Every life up to three attempts and four questions, by breadth-first search over what the machine can tell apart.
fn reached() -> BTreeSet<Transition> {
    let mut reached = BTreeSet::new();
    let mut known = HashSet::new();
    let births = [(true, true), (true, false), (false, true), (false, false)];
    let mut ahead: VecDeque<Life> = births.map(|(rerun, started)| Life::new(rerun, started)).into();
    while let Some(life) = ahead.pop_front() {
        for (draft, seconds) in DRAFTS.iter().flat_map(|draft| [0, 30, 100].map(|seconds| (draft, seconds))) {
            let mut next = Life { job: life.job.clone(), log: vec![], now: life.now };
            if next.step(&(draft.make)(life.job.attempt), seconds).is_err() {
                continue;
            }
            let names = [life.job.status.name(), draft.name, next.job.status.name()].map(str::to_owned);
            reached.insert(names.into());
            if next.job.attempt <= 3 && next.job.questions <= 4 && known.insert(essence(&next)) {
                ahead.push_back(next);
            }
        }
    }
    reached
}

#[test]
fn the_diagram_shows_every_transition_that_can_be_reached_and_no_other() {
    let (drawn, reached) = (drawn(), reached());
    let unreachable: Vec<_> = drawn.difference(&reached).collect();
    let not_drawn: Vec<_> = reached.difference(&drawn).collect();
    assert!(
        unreachable.is_empty() && not_drawn.is_empty(),
        "unreachable {unreachable:?}, not drawn {not_drawn:?}"
    );
}
