//! Work that goes on at the upstream whatever becomes of this process: another attempt finds it again.

use std::time::Duration;

use super::stage::*;
use crate::Op;
use crate::engine::ATTACHED_ATTEMPTS_MAX;
use crate::event::EventKind;
use crate::executor::Attempt;
use crate::job::{FailureKind, Status, UPSTREAM_TASK_MAX};

const TASK: &str = "task 7";

impl Worker {
    async fn attaches(&self, task: &str) -> bool {
        soon(self.context.attach(task.to_owned())).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_job_attaches_is_stored_when_it_is_told_so() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    assert_eq!(worker.context.attached(), None);
    assert!(worker.attaches(TASK).await);
    assert_eq!(stage.job(job.handle).await.upstream_task.as_deref(), Some(TASK));
    assert!(!worker.attaches(&"x".repeat(UPSTREAM_TASK_MAX + 1)).await, "too long");
    stage.store.set_broken(true);
    assert!(!worker.attaches("another").await, "it could not be stored");
    stage.store.set_broken(false);
    assert_eq!(stage.job(job.handle).await.upstream_task.as_deref(), Some(TASK));
    worker.answers("1");
    assert_eq!(stage.ended(job.handle).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn what_a_waiting_call_attaches_is_stored_with_its_job() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, Some(BUDGET));
    let worker = stage.worker().await;
    assert!(!worker.attaches(&"x".repeat(UPSTREAM_TASK_MAX + 1)).await, "too long");
    assert!(worker.attaches(TASK).await);
    assert!(!called.is_finished() && stage.jobs().await.is_empty(), "nothing is written for it");
    let job = started(soon(called).await.unwrap());
    assert_eq!(job.upstream_task.as_deref(), Some(TASK));
    assert!(stage.events(job.handle).await.contains(&EventKind::Attached));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_is_gone_on_with_when_its_worker_dies() {
    let mut stage = Stage::new();
    let called = stage.call(a_call("me", None), ONCE, None);
    let worker = stage.worker().await;
    assert!(worker.attaches(TASK).await);
    worker.dies();
    let worker = stage.worker().await;
    assert_eq!(worker.context.attached().as_deref(), Some(TASK));
    worker.answers("1");
    assert_eq!(answered(soon(called).await.unwrap()), "1");
}

#[tokio::test(start_paused = true)]
async fn another_peer_goes_on_with_the_task_of_a_dead_one() {
    let mut stage = Stage::serving_all();
    let orphan = stage.orphan(true, ONCE).await;
    stage.apply(orphan, Op::Attach { attempt: 1, task: TASK.to_owned() }).await.unwrap();
    stage
        .apply(orphan, Op::Ask { attempt: 1, questions: vec![crate::testing::suite::json("1")] })
        .await
        .unwrap();
    stage.engine.keep_up();
    let worker = stage.worker().await;
    assert_eq!((worker.handle(), worker.context.attached().as_deref()), (orphan, Some(TASK)));
    assert!(worker.context.is_job());
    worker.answers("1");
    let job = stage.ended(orphan).await;
    assert_eq!((job.status, job.attempt), (Status::Completed, 2));
    let reason = "the peer that ran it is gone; its task goes on".to_owned();
    assert!(stage.events(orphan).await.contains(&EventKind::Retried { reason }));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_nobody_goes_on_with_ends_as_interrupted_after_its_time() {
    let stage = Stage::new();
    let orphan = stage.orphan(true, ONCE).await;
    stage.apply(orphan, Op::Attach { attempt: 1, task: TASK.to_owned() }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(599)).await;
    stage.sweep().await;
    assert_eq!(stage.status(orphan).await, Status::Working, "a peer may come that can");
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.sweep().await;
    assert_eq!(stage.job(orphan).await.failure.unwrap().kind, FailureKind::Interrupted);
}

#[tokio::test(start_paused = true)]
async fn finding_a_task_again_is_no_second_run_and_still_bounded() {
    let mut stage = Stage::new();
    let (job, mut worker) = stage.running(ONCE).await;
    assert!(worker.attaches(TASK).await);
    for _ in 1..ATTACHED_ATTEMPTS_MAX {
        worker.dies();
        worker = stage.worker().await;
        assert_eq!(worker.context.attached().as_deref(), Some(TASK));
    }
    worker.dies();
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.attempt), (Status::Failed, ATTACHED_ATTEMPTS_MAX));
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_leaves_the_task_alone_and_its_job_to_the_next() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    assert!(worker.attaches(TASK).await);
    let asked = tokio::spawn({
        let context = worker.context.clone();
        async move { context.ask(vec![crate::testing::suite::json("1")]).await }
    });
    stage.once(job.handle, |job| job.status == Status::InputRequired).await;
    soon(stage.engine.interrupt()).await;
    let job = stage.job(job.handle).await;
    assert_eq!((job.status, job.upstream_task.as_deref()), (Status::Queued, Some(TASK)));
    assert!(job.open.is_empty() && soon(asked).await.unwrap().is_none(), "the next one asks anew");
    worker.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_cancelled_is_not_gone_on_with() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    assert!(worker.attaches(TASK).await);
    let cancelled = stage.cancel_soon(job.handle);
    worker.is_told_to_stop().await;
    worker.ends(Attempt::Lost("it crashed".to_owned()));
    assert_eq!(soon(cancelled).await.unwrap().status, Status::Cancelled);
    stage.nobody_else_is_called().await;
}
