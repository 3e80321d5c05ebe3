//! How a process stops: by letting its jobs end, or by ending them.

use super::stage::{LEASE, ONCE, SAFE, Stage, all_is_quiet, soon};
use crate::Op;
use crate::engine::{ATTEMPTS_MAX, Action};
use crate::job::{FailureKind, Status};

#[tokio::test(start_paused = true)]
async fn draining_waits_for_what_runs_and_for_what_is_queued() {
    let mut stage = Stage::with_slots(1);
    let (first, worker) = stage.running(ONCE).await;
    let second = stage.start(None, ONCE).await;
    let engine = stage.engine.clone();
    let drained = tokio::spawn(async move { engine.drain().await });
    all_is_quiet().await;
    assert!(!drained.is_finished());
    worker.answers("1");
    let worker = stage.worker().await;
    assert!(!drained.is_finished(), "one is left");
    worker.answers("2");
    soon(drained).await.unwrap();
    for handle in [first.handle, second.handle] {
        assert_eq!(stage.status(handle).await, Status::Completed, "it is committed by then");
    }
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_what_runs_again() {
    let mut stage = Stage::new();
    let (job, worker) = stage.handed_off(None, SAFE).await;
    let engine = stage.engine.clone();
    let drained = tokio::spawn(async move { engine.drain().await });
    worker.dies();
    let worker = stage.worker().await;
    assert!(!drained.is_finished());
    worker.answers("1");
    soon(drained).await.unwrap();
    assert_eq!(stage.status(job.handle).await, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_about_to_end_takes_up_nothing_that_others_left() {
    let mut stage = Stage::serving_all();
    let (job, worker) = stage.running(ONCE).await;
    let engine = stage.engine.clone();
    let drained = tokio::spawn(async move { engine.drain().await });
    all_is_quiet().await;
    let orphan = stage.orphan(true, SAFE).await;
    stage.nobody_else_is_called().await;
    worker.answers("1");
    soon(drained).await.unwrap();
    assert_eq!(stage.status(job.handle).await, Status::Completed);
    let orphan = stage.job(orphan).await;
    assert_eq!(orphan.attempt, 1, "it is left to a session that lasts");
    assert_eq!(orphan.status, Status::Failed, "and is settled if none comes");
}

#[tokio::test(start_paused = true)]
async fn draining_an_idle_engine_is_over_at_once() {
    soon(Stage::new().engine.drain()).await;
}

#[tokio::test(start_paused = true)]
async fn interrupting_ends_what_runs_as_interrupted() {
    let mut stage = Stage::with_slots(1);
    let (handed_off, _one) = stage.handed_off(None, ONCE).await;
    let (running, mut worker) = stage.running(ONCE).await;
    soon(stage.engine.interrupt()).await;
    for handle in [handed_off.handle, running.handle] {
        let job = stage.job(handle).await;
        assert_eq!(job.status, Status::Failed, "it is committed by then");
        assert_eq!(job.failure.unwrap().kind, FailureKind::Interrupted);
    }
    worker.is_given_up().await;
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn interrupting_leaves_to_the_next_peer_what_is_safe_to_run_again_and_what_has_not_started() {
    let mut stage = Stage::with_slots(1);
    let (handed_off, _one) = stage.handed_off(None, SAFE).await;
    let (running, mut worker) = stage.running(SAFE).await;
    let queued = [stage.start(None, ONCE).await.handle, stage.start(None, SAFE).await.handle];
    soon(stage.engine.interrupt()).await;
    worker.is_given_up().await;
    for handle in [handed_off.handle, running.handle].into_iter().chain(queued) {
        assert_eq!(stage.status(handle).await, Status::Queued, "it is committed by then");
        let claim = Op::Claim { peer: "two".to_owned(), lease: LEASE };
        let job = stage.apply(handle, claim).await.expect("it is free at once");
        assert_eq!(job.attempt, if queued.contains(&handle) { 1 } else { 2 });
    }
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_left_is_not_taken_back_by_the_process_that_ends() {
    let mut stage = Stage::serving_all();
    let (job, _worker) = stage.running(SAFE).await;
    soon(stage.engine.interrupt()).await;
    stage.nobody_else_is_called().await;
    assert_eq!(stage.status(job.handle).await, Status::Queued);
}

#[tokio::test(start_paused = true)]
async fn what_has_used_up_its_attempts_is_left_to_nobody() {
    let mut stage = Stage::new();
    let (job, mut worker) = stage.running(SAFE).await;
    for _ in 1..ATTEMPTS_MAX {
        worker.dies();
        worker = stage.worker().await;
    }
    soon(stage.engine.interrupt()).await;
    assert_eq!(stage.job(job.handle).await.failure.unwrap().kind, FailureKind::Interrupted);
}

#[tokio::test(start_paused = true)]
async fn interrupting_tells_workers_to_stop() {
    let mut stage = Stage::new();
    let (_, worker) = stage.running(ONCE).await;
    soon(stage.engine.interrupt()).await;
    worker.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn interrupting_cancels_what_is_held() {
    let mut stage = Stage::with_slots(1);
    let (_, worker) = stage.running(ONCE).await;
    let held = stage.start(None, ONCE).await;
    stage.order(held.handle, Action::Pause).await;
    worker.answers("1");
    all_is_quiet().await;
    soon(stage.engine.interrupt()).await;
    assert_eq!(stage.status(held.handle).await, Status::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn interrupting_gives_up_on_a_store_that_stays_broken() {
    let mut stage = Stage::with_slots(1);
    let (_, _worker) = stage.running(ONCE).await;
    stage.start(None, ONCE).await;
    stage.store.set_broken(true);
    soon(stage.engine.interrupt()).await;
}
