//! What a running tool asks, and how it is told: wherever the answer is given, and also that there will be none.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::stage::*;
use crate::artifact::Artifacts;
use crate::engine::{Answered, Called, Engine, Settings, Slots, Until, Waited, answer, wait};
use crate::event::{Actor, EventKind};
use crate::executor::{Attempt, Executor, RunContext};
use crate::handle::Handle;
use crate::job::{Input, Job, Policy, Status};
use crate::machine::Refused;
use crate::store::Store;
use crate::testing::suite::json;
use crate::testing::{MemoryStore, TokioClock};
use crate::{Json, Op, Signal};
type Told = Option<Vec<String>>;

fn told(answers: Option<Vec<Json>>) -> Told {
    Some(answers?.into_iter().map(|answer| answer.get().to_owned()).collect())
}

impl Worker {
    /// Asks in a task of its own, as several calls of one connection do.
    fn asks(&self, questions: &[&str]) -> JoinHandle<Told> {
        let context = self.context.clone();
        let questions = questions.iter().map(|question| json(question)).collect();
        tokio::spawn(async move { told(context.ask(questions).await) })
    }
}

impl Stage {
    async fn give(&self, handle: Handle, answers: &[(&str, &str)]) -> Answered {
        let answers = answers.iter().map(|(key, answer)| ((*key).to_owned(), json(answer))).collect();
        answer(&*self.store, Some("me"), handle, answers, Actor::Agent).await.unwrap()
    }

    /// As [`Stage::give`], where it is known to fit.
    async fn tell(&self, handle: Handle, answers: &[(&str, &str)]) -> Job {
        match self.give(handle, answers).await {
            Answered::Done(job) => job,
            other => panic!("not told: {other:?}"),
        }
    }

    pub(super) async fn once_open(&self, handle: Handle, count: usize) -> Job {
        self.once(handle, |job| job.open.len() == count).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_asks_becomes_a_job_at_once_and_goes_on_when_it_is_told() {
    let mut stage = Stage::new();
    let began = Instant::now();
    let called = stage.call(a_call("me", None), ONCE, Some(BUDGET));
    let worker = stage.worker().await;
    assert!(!worker.context.is_job());
    let asked = worker.asks(&[r#"{"colour": 1.0}"#, "2"]);
    let job = started(soon(called).await.unwrap());
    assert!(began.elapsed() < BUDGET / 2, "as if the budget were used up");
    assert_eq!((job.status, &job.open[..]), (Status::InputRequired, &["q1".to_owned(), "q2".to_owned()][..]));
    assert!(worker.context.is_job());
    let inputs = stage.store.inputs(job.handle).await.unwrap();
    assert_eq!(inputs[0].question.get(), r#"{"colour": 1.0}"#, "word for word");
    let job = stage.tell(job.handle, &[("q2", "true")]).await;
    assert_eq!(job.status, Status::InputRequired, "not everything is answered");
    all_is_quiet().await;
    assert!(!asked.is_finished());
    let job = stage.tell(job.handle, &[("q1", r#"{"red": 1.0}"#)]).await;
    assert_eq!(job.status, Status::Working);
    let told = soon(asked).await.unwrap();
    assert_eq!(told.unwrap(), [r#"{"red": 1.0}"#, "true"], "in the order of the questions");
    worker.answers("1");
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.attempt), (Status::Completed, 1));
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_at_once_is_answered_in_any_order() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    assert!(worker.context.is_job(), "it was committed before it began");
    let first = worker.asks(&["1", "2"]);
    stage.once_open(job.handle, 2).await;
    let second = worker.asks(&["3"]);
    stage.once_open(job.handle, 3).await;
    stage.tell(job.handle, &[("q3", "30")]).await;
    assert_eq!(soon(second).await.unwrap().unwrap(), ["30"]);
    assert_eq!(stage.status(job.handle).await, Status::InputRequired);
    stage.tell(job.handle, &[("q1", "10"), ("q2", "20")]).await;
    assert_eq!(soon(first).await.unwrap().unwrap(), ["10", "20"]);
    assert_eq!(soon(worker.asks(&[])).await.unwrap().unwrap(), Vec::<String>::new(), "nothing asks nobody");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_become_a_job_is_told_that_nobody_answers() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, None);
    let worker = stage.worker().await;
    assert_eq!(soon(worker.asks(&["1"])).await.unwrap(), None);
    assert!(!called.is_finished() && stage.jobs().await.is_empty());
    worker.answers("1");
    assert_eq!(answered(soon(called).await.unwrap()), "1");

    stage.store.set_broken(true);
    let called = stage.call(a_call("me", None), ONCE, Some(BUDGET));
    let worker = stage.worker().await;
    for _ in 0..2 {
        assert_eq!(soon(worker.asks(&["1"])).await.unwrap(), None);
    }
    worker.answers("1");
    assert_eq!(answered(soon(called).await.unwrap()), "1");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_or_is_refused_is_not_answered_and_the_job_goes_on() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    stage.store.set_broken(true);
    assert_eq!(soon(worker.asks(&["1"])).await.unwrap(), None);
    stage.store.set_broken(false);
    let large = format!("\"{}\"", "x".repeat(Input::BYTES_MAX));
    assert_eq!(soon(worker.asks(&[&large])).await.unwrap(), None);
    assert_eq!(stage.job(job.handle).await.questions, 0);
    worker.answers("1");
    assert_eq!(stage.ended(job.handle).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_no_longer_wants_to_know_withdraws_its_questions() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let asked = worker.asks(&["1", "2"]);
    let kept = worker.asks(&["3"]);
    stage.once_open(job.handle, 3).await;
    asked.abort();
    let open = stage.once_open(job.handle, 1).await;
    assert_eq!((open.status, &open.open[..]), (Status::InputRequired, &["q3".to_owned()][..]));
    let withdrawn = EventKind::Withdrawn { keys: vec!["q1".to_owned(), "q2".to_owned()] };
    assert!(stage.events(job.handle).await.contains(&withdrawn));
    stage.tell(job.handle, &[("q3", "3")]).await;
    assert_eq!(soon(kept).await.unwrap().unwrap(), ["3"]);
    assert_eq!(stage.status(job.handle).await, Status::Working);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_withdrawn_also_from_a_store_that_fails_for_a_while() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let asked = worker.asks(&["1"]);
    stage.once_open(job.handle, 1).await;
    stage.store.set_broken(true);
    asked.abort();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.status(job.handle).await, Status::InputRequired);
    stage.store.set_broken(false);
    stage.once_open(job.handle, 0).await;
    assert_eq!(stage.status(job.handle).await, Status::Working);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_answers_in_time_is_withdrawn_by_the_system_and_the_tool_goes_on() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let asked = worker.asks(&["1", "2"]);
    stage.once_open(job.handle, 2).await;
    stage.tell(job.handle, &[("q1", "1")]).await;
    let began = Instant::now();
    assert_eq!(soon(asked).await.unwrap(), None, "half an answer is none");
    assert!(began.elapsed() <= ANSWERS && began.elapsed() > ANSWERS - Duration::from_secs(1));
    assert_eq!(stage.status(job.handle).await, Status::Working);
    let last = stage.store.events(job.handle, 0, 100).await.unwrap().pop().unwrap();
    assert_eq!(
        (last.actor, last.kind),
        (Actor::System, EventKind::Withdrawn { keys: vec!["q2".to_owned()] })
    );
    worker.answers("1");
    assert_eq!(stage.ended(job.handle).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_job_that_asks_reaches_its_tool_and_waits_for_its_end() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let asked = worker.asks(&["1"]);
    stage.once_open(job.handle, 1).await;
    let cancelled = stage.cancel_soon(job.handle);
    assert_eq!(soon(asked).await.unwrap(), None);
    worker.is_told_to_stop().await;
    all_is_quiet().await;
    assert!(!cancelled.is_finished(), "it waits for the end, not for the question");
    assert_eq!(soon(worker.asks(&["2"])).await.unwrap(), None, "nobody is asked any more");
    worker.ends(Attempt::Stopped("stopped".to_owned()));
    let job = soon(cancelled).await.unwrap();
    assert_eq!((job.status, job.questions, job.open.len()), (Status::Cancelled, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_runs_out_ends_the_wait_for_an_answer() {
    let mut stage = Stage::new();
    let policy = Policy { timeout: Some(Duration::from_secs(60)), ..ONCE };
    let (job, worker) = stage.running(policy).await;
    let asked = worker.asks(&["1"]);
    assert_eq!(soon(asked).await.unwrap(), None);
    worker.ends(Attempt::Stopped("stopped".to_owned()));
    assert_eq!(stage.ended(job.handle).await.status, Status::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_over_when_the_job_asks() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    for until in [Until::Any, Until::All] {
        let store = stage.store.clone();
        let waiting = tokio::spawn(async move { wait(&*store, None, &[job.handle], until, DAY).await });
        all_is_quiet().await;
        assert!(!waiting.is_finished());
        let asked = worker.asks(&["1"]);
        let began = Instant::now();
        let jobs = soon(waiting).await.unwrap().unwrap();
        assert_eq!(jobs[0].as_ref().map(|seen| seen.job.status), Some(Status::InputRequired));
        assert!(began.elapsed() < Duration::from_secs(1));
        asked.abort();
        stage.once_open(job.handle, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_fits_nothing_is_refused_and_a_foreign_job_is_not_there() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let Answered::Refused(same, _) = stage.give(job.handle, &[("q1", "1")]).await else {
        panic!("not refused")
    };
    assert_eq!(same.status, Status::Working);
    let asked = worker.asks(&["1"]);
    stage.once_open(job.handle, 1).await;
    let Answered::Refused(same, why) = stage.give(job.handle, &[("q7", "1")]).await else {
        panic!("not refused")
    };
    assert!(matches!(why, Refused::NotNow(_)) && same.status == Status::InputRequired);
    for (scope, handle) in [("you", job.handle), ("me", Handle::random())] {
        let answers = vec![("q1".to_owned(), json("1"))];
        let said = answer(&*stage.store, Some(scope), handle, answers, Actor::Agent).await.unwrap();
        assert!(matches!(said, Answered::NotFound), "{said:?}");
    }
    assert!(!asked.is_finished());
    let answers = vec![("q1".to_owned(), json("1"))];
    let said = answer(&*stage.store, None, job.handle, answers, Actor::User).await.unwrap();
    assert!(matches!(said, Answered::Done(_)), "without a scope every job is in reach");
    assert_eq!(soon(asked).await.unwrap().unwrap(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn the_attempt_after_a_lost_one_asks_anew() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(SAFE).await;
    let asked = worker.asks(&["1"]);
    stage.once_open(job.handle, 1).await;
    worker.dies();
    assert_eq!(soon(asked).await.unwrap(), None);
    let worker = stage.worker().await;
    let asked = worker.asks(&["1"]);
    assert_eq!(stage.once_open(job.handle, 1).await.open, ["q2"]);
    stage.tell(job.handle, &[("q2", "2")]).await;
    assert_eq!(soon(asked).await.unwrap().unwrap(), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_asks_for_longer_than_many_leases_stays_its_peers() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let asked = worker.asks(&["1"]);
    stage.once_open(job.handle, 1).await;
    tokio::time::sleep(LEASE * 20).await;
    stage.sweep().await;
    assert_eq!(stage.status(job.handle).await, Status::InputRequired);
    stage.tell(job.handle, &[("q1", "1")]).await;
    assert_eq!(soon(asked).await.unwrap().unwrap(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_wished_for_after_the_end_is_declined() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let context = worker.context.clone();
    worker.answers("1");
    stage.ended(job.handle).await;
    all_is_quiet().await;
    assert!(soon(context.ask(vec![json("1")])).await.is_none());
    assert!(!soon(context.attach("task 7".to_owned())).await);
}

/// Asks in the very future that the engine drives, and answers with what it is told.
struct Asker;

#[async_trait::async_trait]
impl Executor for Asker {
    async fn run(self: Arc<Self>, request: Json, context: RunContext) -> Attempt {
        let told = context.ask(vec![request]).await.expect("an answer");
        let again = context.ask(told).await.expect("another answer");
        Attempt::Answered(again[0].clone())
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_given_before_the_engine_has_taken_the_job_over_is_heard() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::default())));
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { peer: PEER.to_owned(), slots: Slots::new(1), lease: LEASE, answer_timeout: None };
    let engine = Engine::new(store.clone(), Artifacts::new(folder.path()), Arc::new(Asker), settings);
    let (never, call) = (Signal::default(), a_call("me", None));
    let waited = Waited { budget: Some(BUDGET), cancel: &never, hand_off: &never, follows_tasks: false };
    let called = engine.call(&call.request, || &call, ONCE, waited, |_| {}).await;
    let Called::Started(job) = called else { panic!("not started: {called:?}") };
    let tell = async |key: &str, text: &str| {
        let answers = vec![(key.to_owned(), json(text))];
        store.apply(job.handle, Op::Answer { by: Actor::Agent, answers }).await.unwrap()
    };
    tell("q1", r#""again""#).await;
    let jobs = wait(&*store, None, &[job.handle], Until::All, DAY).await.unwrap();
    assert_eq!(jobs[0].as_ref().unwrap().job.open, ["q2"]);
    assert_eq!(store.inputs(job.handle).await.unwrap()[1].question.get(), r#""again""#);
    tell("q2", "12").await;
    let jobs = wait(&*store, None, &[job.handle], Until::All, DAY).await.unwrap();
    assert_eq!(jobs[0].as_ref().unwrap().job.status, Status::Completed);
    assert_eq!(store.answer(job.handle).await.unwrap().unwrap().get(), "12");
}

/// Leaves its work to the upstream, and waits for it as long as it takes.
struct Leaver;

#[async_trait::async_trait]
impl Executor for Leaver {
    async fn run(self: Arc<Self>, _: Json, context: RunContext) -> Attempt {
        context.attach("task 7".to_owned()).await;
        context.is_a_task();
        context.cancelled().await;
        Attempt::Stopped("stopped".to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_goes_on_at_the_upstream_is_a_job_at_once_for_a_caller_that_has_tasks_too() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::default())));
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { peer: PEER.to_owned(), slots: Slots::new(1), lease: LEASE, answer_timeout: None };
    let engine = Engine::new(store, Artifacts::new(folder.path()), Arc::new(Leaver), settings);
    let (never, call) = (Signal::default(), a_call("me", None));
    for (follows_tasks, waits) in [(true, Duration::ZERO), (false, BUDGET)] {
        let waited = Waited { budget: Some(BUDGET), cancel: &never, hand_off: &never, follows_tasks };
        let began = tokio::time::Instant::now();
        let called = engine.call(&call.request, || &call, ONCE, waited, |_| {}).await;
        let Called::Started(job) = called else { panic!("not started: {called:?}") };
        assert_eq!((began.elapsed(), job.upstream_task.as_deref()), (waits, Some("task 7")));
    }
}
