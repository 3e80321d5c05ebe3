//! A call while somebody waits for it, and its hand-off to a durable job.

use std::time::Duration;

use tokio::time::Instant;

use super::stage::{BUDGET, DAY, ONCE, SAFE, Stage, a_call, all_is_quiet, answered, ended, soon, started};
use crate::engine::ATTEMPTS_MAX;
use crate::event::EventKind;
use crate::executor::Attempt;
use crate::job::{Failure, FailureKind, Status};
use crate::testing::suite::json;

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_within_its_budget_is_answered_and_writes_nothing() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", Some("key")), ONCE, Some(BUDGET));
    let worker = stage.worker().await;
    assert_eq!(worker.request.get(), r#"{"name":"render","n":1.0}"#, "word for word");
    tokio::time::sleep(BUDGET - Duration::from_millis(1)).await;
    worker.answers(r#"{"a": 1.0}"#);
    assert_eq!(answered(soon(called).await.unwrap()), r#"{"a": 1.0}"#, "word for word");
    assert!(stage.jobs().await.is_empty());
    assert!(stage.engine.is_idle());
}

#[tokio::test(start_paused = true)]
async fn an_error_within_the_budget_reaches_the_caller_as_it_is() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), SAFE, Some(BUDGET));
    let error = Some(json(r#"{"code":-32099,"message":"no"}"#));
    let failure = Failure { kind: FailureKind::Error, message: "no".to_owned(), error };
    stage.worker().await.ends(Attempt::Failed(failure));
    let Attempt::Failed(failure) = ended(soon(called).await.unwrap()) else { panic!("did not fail") };
    assert_eq!(failure.error.unwrap().get(), r#"{"code":-32099,"message":"no"}"#);
    assert!(stage.jobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_becomes_a_job_after_exactly_its_budget() {
    let mut stage = Stage::new();
    let began = (Instant::now(), stage.engine.now());
    let (job, worker) = stage.handed_off(None, ONCE).await;
    assert_eq!(began.0.elapsed(), BUDGET);
    assert_eq!((job.handle, job.status, job.attempt), (worker.handle(), Status::Working, 1));
    assert_eq!(job.started_at, Some(began.1), "its time counts from the call, not from the hand-off");
    assert_eq!(stage.status(job.handle).await, Status::Working, "it is committed");
}

#[tokio::test(start_paused = true)]
async fn the_attempt_that_was_handed_off_completes_the_job() {
    let mut stage = Stage::new();
    let (job, worker) = stage.handed_off(None, ONCE).await;
    worker.answers(r#"{"a": 1.0}"#);
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.attempt), (Status::Completed, 1));
    assert_eq!(stage.answer(&job).await.as_deref(), Some(r#"{"a": 1.0}"#), "word for word");
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_without_patience_is_handed_off_at_once() {
    let mut stage = Stage::new();
    let began = Instant::now();
    let called = stage.call(a_call("me", None), ONCE, Some(Duration::ZERO));
    let worker = stage.worker().await;
    let job = started(soon(called).await.unwrap());
    assert!(began.elapsed() <= Duration::from_millis(1));
    worker.answers("1");
    assert_eq!(stage.ended(job.handle).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_a_call_is_waited_for_as_long_as_it_takes() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, None);
    let worker = stage.worker().await;
    tokio::time::sleep(100 * DAY).await;
    assert!(!called.is_finished() && stage.jobs().await.is_empty());
    worker.answers("1");
    assert_eq!(answered(soon(called).await.unwrap()), "1");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_gives_up_waiting_becomes_a_job_at_once() {
    let mut stage = Stage::new();
    let began = Instant::now();
    let called = stage.call(a_call("me", None), ONCE, None);
    let worker = stage.worker().await;
    stage.hand_off.raise();
    let job = started(soon(called).await.unwrap());
    assert!(began.elapsed() <= Duration::from_millis(1));
    worker.answers("1");
    assert_eq!(stage.ended(job.handle).await.status, Status::Completed);
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn progress_reaches_the_caller_until_the_hand_off_and_the_record_after_it() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, Some(BUDGET));
    let worker = stage.worker().await;
    worker.reports(1.0);
    all_is_quiet().await;
    worker.reports(2.0);
    let job = started(soon(called).await.unwrap());
    all_is_quiet().await;
    assert_eq!(stage.progress_log(job.handle).await, [2.0], "the record begins with the latest");
    worker.reports(3.0);
    worker.answers("1");
    let job = stage.ended(job.handle).await;
    assert_eq!(job.progress.unwrap().progress, 3.0);
    assert_eq!(*stage.seen.lock().unwrap(), [1.0, 2.0], "the caller has gone by then");
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_waiting_call_reaches_its_worker_and_writes_nothing() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, Some(BUDGET));
    let worker = stage.worker().await;
    stage.cancel.raise();
    worker.is_told_to_stop().await;
    worker.ends(Attempt::Stopped("stopped half way".to_owned()));
    let Attempt::Stopped(known) = ended(soon(called).await.unwrap()) else { panic!("not stopped") };
    assert_eq!(known, "stopped half way");
    assert!(stage.jobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_never_handed_off_and_is_given_up_after_its_grace() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, Some(BUDGET));
    let mut worker = stage.worker().await;
    stage.cancel.raise();
    let asked = Instant::now();
    let Attempt::Stopped(known) = ended(soon(called).await.unwrap()) else { panic!("not stopped") };
    assert_eq!(asked.elapsed(), crate::engine::run::STOP_GRACE);
    assert!(known.contains("no sign"), "{known}");
    worker.is_given_up().await;
    assert!(stage.jobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_runs_again_where_that_is_safe_and_fails_in_the_end() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), SAFE, None);
    for _ in 0..ATTEMPTS_MAX {
        stage.worker().await.dies();
    }
    let Attempt::Failed(failure) = ended(soon(called).await.unwrap()) else { panic!("did not fail") };
    assert_eq!(failure.kind, FailureKind::Interrupted);
    assert!(failure.message.contains("it crashed"), "{}", failure.message);
    stage.nobody_else_is_called().await;
    assert!(stage.jobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_that_may_not_run_twice_fails_at_once_when_its_worker_dies() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, None);
    stage.worker().await.dies();
    let Attempt::Failed(failure) = ended(soon(called).await.unwrap()) else { panic!("did not fail") };
    assert_eq!(failure.kind, FailureKind::Interrupted);
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_whose_worker_dies_does_not_run_again() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), SAFE, None);
    let worker = stage.worker().await;
    stage.cancel.raise();
    worker.is_told_to_stop().await;
    worker.dies();
    let Attempt::Stopped(known) = ended(soon(called).await.unwrap()) else { panic!("not stopped") };
    assert!(known.contains("it crashed"), "{known}");
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_reported_is_not_the_progress_of_the_next() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), SAFE, Some(BUDGET));
    let worker = stage.worker().await;
    worker.reports(99.0);
    all_is_quiet().await;
    worker.dies();
    let _worker = stage.worker().await;
    let job = started(soon(called).await.unwrap());
    all_is_quiet().await;
    assert!(stage.job(job.handle).await.progress.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_written_down_is_waited_for_and_answered() {
    let mut stage = Stage::new();
    stage.store.set_broken(true);
    let called = stage.call(a_call("me", None), ONCE, Some(BUDGET));
    let worker = stage.worker().await;
    tokio::time::sleep(DAY).await;
    assert!(!called.is_finished(), "there is no handle without a commit");
    worker.reports(1.0);
    all_is_quiet().await;
    assert_eq!(*stage.seen.lock().unwrap(), [1.0], "the caller still waits, and still sees progress");
    worker.answers("1");
    assert_eq!(answered(soon(called).await.unwrap()), "1");
    assert!(stage.jobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_log_of_a_job_tells_its_life() {
    let mut stage = Stage::new();
    let (job, worker) = stage.handed_off(None, ONCE).await;
    worker.answers("12");
    stage.ended(job.handle).await;
    let expected = [
        EventKind::Created,
        EventKind::Started { attempt: 1, peer: super::stage::PEER.to_owned() },
        EventKind::Completed { bytes: 2 },
    ];
    assert_eq!(stage.events(job.handle).await, expected);
}
