//! How a job ends when things go wrong: its worker dies, the store fails, the answer is large.

use std::sync::Arc;
use std::time::Duration;

use super::stage::{BUDGET, DAY, LEASE, ONCE, PEER, SAFE, Stage, a_call, all_is_quiet, soon, started};
use crate::Json;
use crate::artifact::{Artifacts, ROW_MAX};
use crate::engine::{ATTEMPTS_MAX, Engine, Settings, Slots};
use crate::event::EventKind;
use crate::executor::{Attempt, Executor, RunContext};
use crate::job::{Call, Failure, FailureKind, Status};
use crate::store::Store;
use crate::testing::suite::json;

#[tokio::test(start_paused = true)]
async fn a_job_whose_worker_dies_runs_again_where_that_is_safe() {
    let mut stage = Stage::new();
    let (job, worker) = stage.handed_off(None, SAFE).await;
    worker.dies();
    let worker = stage.worker().await;
    assert_eq!(worker.handle(), job.handle);
    assert_eq!(worker.request.get(), r#"{"name":"render","n":1.0}"#, "word for word");
    worker.answers("1");
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.attempt), (Status::Completed, 2));
    let retried = EventKind::Retried { reason: "it crashed".to_owned() };
    assert!(stage.events(job.handle).await.contains(&retried));
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_workers_all_die_fails_as_interrupted_after_the_last_attempt() {
    let mut stage = Stage::new();
    let job = stage.start(None, SAFE).await;
    for _ in 0..ATTEMPTS_MAX {
        stage.worker().await.dies();
    }
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.attempt), (Status::Failed, ATTEMPTS_MAX));
    let failure = job.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Interrupted);
    assert!(failure.message.contains("it crashed"), "{}", failure.message);
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_that_were_lost_while_the_caller_waited_count_as_the_jobs_own() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), SAFE, Some(BUDGET));
    stage.worker().await.dies();
    let worker = stage.worker().await;
    let job = started(soon(called).await.unwrap());
    assert_eq!(job.attempt, 2);
    let peer = PEER.to_owned();
    let expected = [
        EventKind::Created,
        EventKind::Started { attempt: 1, peer: peer.clone() },
        EventKind::Retried { reason: "it crashed".to_owned() },
        EventKind::Started { attempt: 2, peer },
    ];
    assert_eq!(stage.events(job.handle).await, expected, "its log tells of them");
    worker.dies();
    stage.worker().await.dies();
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.attempt), (Status::Failed, ATTEMPTS_MAX));
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_may_not_run_twice_fails_as_interrupted_at_once() {
    let mut stage = Stage::new();
    let (job, worker) = stage.handed_off(None, ONCE).await;
    worker.dies();
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.attempt), (Status::Failed, 1));
    let failure = job.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Interrupted);
    assert!(failure.message.contains("not known to be safe"), "{}", failure.message);
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_tool_is_kept_as_it_is_and_not_tried_again() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(SAFE).await;
    let error = Some(json(r#"{"code":-32099,"message":"no"}"#));
    worker.ends(Attempt::Failed(Failure { kind: FailureKind::Error, message: "no".to_owned(), error }));
    let failure = stage.ended(job.handle).await.failure.unwrap();
    assert_eq!(failure.error.unwrap().get(), r#"{"code":-32099,"message":"no"}"#);
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_stored_is_stored_once_the_store_is_mended() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    stage.store.set_broken(true);
    worker.answers("1");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.status(job.handle).await, Status::Working);
    stage.store.set_broken(false);
    let job = stage.ended(job.handle).await;
    assert_eq!(stage.answer(&job).await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_outlives_a_store_that_is_broken_for_long() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let (_, _another_that_runs_all_the_time) = stage.running(ONCE).await;
    stage.store.set_broken(true);
    worker.answers("1");
    tokio::time::sleep(DAY).await;
    stage.store.set_broken(false);
    let job = stage.ended(job.handle).await;
    assert_eq!(stage.answer(&job).await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_kept_as_an_artifact_and_read_back_word_for_word() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let text = format!(r#"{{ "text": "{}", "n": 1.0 }}"#, "ä€😀 ".repeat(ROW_MAX / 8));
    worker.answers(&text);
    let job = stage.ended(job.handle).await;
    let info = job.answer.clone().unwrap();
    assert_eq!((info.bytes, info.artifact.is_some()), (text.len() as u64, true));
    assert!(stage.store.answer(job.handle).await.unwrap().is_none(), "it is not in the row as well");
    assert_eq!(stage.answer(&job).await, Some(text));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_just_fits_stays_in_the_row() {
    let mut stage = Stage::new();
    for (size, in_row) in [(ROW_MAX, true), (ROW_MAX + 1, false)] {
        let (job, worker) = stage.running(ONCE).await;
        let text = format!(r#""{}""#, "x".repeat(size - 2));
        worker.answers(&text);
        let job = stage.ended(job.handle).await;
        assert_eq!(stage.store.answer(job.handle).await.unwrap().is_some(), in_row);
        assert_eq!(stage.answer(&job).await, Some(text));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_something_went_wrong_is_an_answer() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(SAFE).await;
    worker.answers(r#"{"content":[],"isError":true}"#);
    let job = stage.ended(job.handle).await;
    assert_eq!(job.status, Status::Completed);
    assert_eq!(stage.answer(&job).await.as_deref(), Some(r#"{"content":[],"isError":true}"#));
    all_is_quiet().await;
    assert!(stage.engine.is_idle());
}

/// A worker with a bug.
struct Panics;

#[async_trait::async_trait]
impl Executor for Panics {
    async fn run(self: Arc<Self>, request: Json, context: RunContext) -> Attempt {
        if request.get() == "1" {
            panic!("a bug");
        }
        context.cancelled().await;
        Attempt::Stopped("told to stop".to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_worker_panics_has_lost_it() {
    let stage = Stage::new();
    let artifacts = Artifacts::new("nowhere");
    let settings =
        Settings { peer: PEER.to_owned(), slots: Slots::new(2), lease: LEASE, answer_timeout: None };
    let engine = Engine::new(stage.store.clone(), artifacts, Arc::new(Panics), settings);
    let of = |request| Call { request: json(request), ..a_call("me", None) };
    // Another one, for whose sake this process renews its leases.
    started(engine.start(of("0"), ONCE).await.unwrap());
    let job = started(engine.start(of("1"), ONCE).await.unwrap());
    let job = tokio::time::timeout(DAY, stage.ended(job.handle)).await.expect("it ends");
    assert_eq!(job.failure.unwrap().kind, FailureKind::Interrupted);
}
