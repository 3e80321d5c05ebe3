//! Leases: what lives is left alone, what is dead is settled, and what came back from the dead writes nothing.

use std::time::Duration;

use super::stage::{DAY, LEASE, ONCE, PEER, SAFE, Stage, all_is_quiet};
use crate::Op;
use crate::artifact::ROW_MAX;
use crate::engine::sweep;
use crate::handle::Handle;
use crate::job::{FailureKind, Policy, Status};
use crate::machine::Outcome;
use crate::store::{Created, NewJob, Store};
use crate::testing::suite::{json, new_job};

impl Stage {
    /// A job of a peer that has died, as it left it.
    pub(super) async fn orphan(&self, started: bool, policy: Policy) -> Handle {
        let new: NewJob = new_job("me", None);
        let started_at = started.then(|| self.store.now());
        let new = NewJob { policy, lease: LEASE, peer: "dead".to_owned(), started_at, ..new };
        let Created::New(job) = self.store.create(new).await.unwrap() else { panic!("not created") };
        job.handle
    }

    pub(super) async fn sweep(&self) {
        sweep(&*self.store, self.engine.artifacts()).await.unwrap();
    }

    /// Another peer claims the job, which only a lease that ran out allows.
    async fn is_taken_over(&self, handle: Handle) -> u64 {
        let claim = || Op::Claim { peer: "two".to_owned(), lease: DAY };
        while self.apply(handle, claim()).await.is_err() {
            tokio::time::sleep(LEASE / 3).await;
        }
        self.job(handle).await.attempt
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_outlasts_many_leases_is_not_abandoned() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    for _ in 0..20 {
        tokio::time::sleep(LEASE / 2).await;
        stage.sweep().await;
        assert_eq!(stage.status(job.handle).await, Status::Working);
    }
    worker.answers("1");
    assert_eq!(stage.ended(job.handle).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_in_the_queue_for_many_leases_is_not_abandoned() {
    let mut stage = Stage::with_slots(1);
    let (_, worker) = stage.running(ONCE).await;
    let queued = stage.start(None, ONCE).await;
    tokio::time::sleep(LEASE * 10).await;
    stage.sweep().await;
    assert_eq!(stage.status(queued.handle).await, Status::Queued);
    worker.answers("1");
    assert_eq!(stage.worker().await.handle(), queued.handle);
}

#[tokio::test(start_paused = true)]
async fn the_jobs_of_a_dead_peer_end_as_interrupted_once_nobody_can_go_on_with_them() {
    let stage = Stage::new();
    let ten_minutes = Duration::from_secs(600);
    for (started, policy, patience) in
        [(true, ONCE, LEASE), (true, SAFE, ten_minutes), (false, ONCE, ten_minutes)]
    {
        let orphan = stage.orphan(started, policy).await;
        tokio::time::sleep(patience - Duration::from_secs(1)).await;
        stage.sweep().await;
        assert!(
            !stage.status(orphan).await.is_terminal(),
            "a live lease protects, and so does a peer that may come"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.sweep().await;
        let job = stage.job(orphan).await;
        assert_eq!(job.status, Status::Failed);
        assert_eq!(job.failure.unwrap().kind, FailureKind::Interrupted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_the_same_server_goes_on_with_what_is_safe_to_run_again() {
    for (started, policy) in [(true, SAFE), (false, ONCE)] {
        let mut stage = Stage::serving_all();
        let orphan = stage.orphan(started, policy).await;
        stage.engine.keep_up();
        let worker = stage.worker().await;
        assert_eq!(worker.handle(), orphan);
        worker.answers("1");
        let job = stage.ended(orphan).await;
        assert_eq!((job.status, job.attempt), (Status::Completed, u64::from(started) + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_jobs_wakes_for_nothing() {
    let stage = Stage::new();
    stage.engine.keep_up();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let looks = stage.store.looks();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(stage.store.looks(), looks);
}

#[tokio::test(start_paused = true)]
async fn a_peer_at_work_settles_what_a_dead_one_left_unasked() {
    let mut stage = Stage::new();
    let (_, _worker) = stage.running(ONCE).await;
    let orphan = stage.orphan(true, ONCE).await;
    let job = stage.ended(orphan).await;
    assert_eq!(job.failure.unwrap().kind, FailureKind::Interrupted);
    assert!(job.finished_at.unwrap().since(job.created_at) < LEASE * 2);
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_an_attempt_that_lost_its_job_is_dropped() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(SAFE).await;
    // The store takes no write for longer than the lease: it cannot be renewed.
    stage.store.set_broken(true);
    tokio::time::sleep(LEASE * 2).await;
    stage.store.set_broken(false);
    let second = stage.is_taken_over(job.handle).await;
    worker.answers(r#""stale""#);
    all_is_quiet().await;
    assert_eq!(stage.status(job.handle).await, Status::Working, "it is the other peer's now");
    let outcome = Outcome::Completed(json(r#""fresh""#));
    stage.apply(job.handle, Op::Finish { attempt: second, outcome }).await.unwrap();
    let job = stage.ended(job.handle).await;
    assert_eq!(stage.answer(&job).await.as_deref(), Some(r#""fresh""#));
}

#[tokio::test(start_paused = true)]
async fn the_worker_of_an_attempt_that_lost_its_job_is_told_to_stop() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(SAFE).await;
    stage.store.set_broken(true);
    tokio::time::sleep(LEASE * 2).await;
    stage.store.set_broken(false);
    stage.is_taken_over(job.handle).await;
    worker.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_whose_time_is_over_is_let_go_by_a_peer_at_work() {
    let mut stage = Stage::new();
    let (_, _long_worker) = stage.running(ONCE).await;
    let (job, worker) = stage.running(Policy { ttl: DAY, ..ONCE }).await;
    worker.answers(&format!(r#""{}""#, "x".repeat(ROW_MAX)));
    let job = stage.ended(job.handle).await;
    tokio::time::sleep(DAY - LEASE).await;
    assert!(stage.answer(&job).await.is_some());
    tokio::time::sleep(LEASE * 2).await;
    let job = stage.job(job.handle).await;
    assert!(job.expired_at.is_some() && job.status == Status::Completed, "a tombstone stays");
    assert!(stage.answer(&job).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_artifact_that_is_too_young_when_its_result_goes_is_swept_later() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(Policy { ttl: Duration::from_secs(60), ..ONCE }).await;
    worker.answers(&format!(r#""{}""#, "x".repeat(ROW_MAX)));
    let digest = stage.ended(job.handle).await.answer.unwrap().artifact.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    stage.sweep().await;
    assert!(stage.job(job.handle).await.expired_at.is_some());
    let artifacts = stage.engine.artifacts();
    assert!(artifacts.read(&digest).await.is_ok(), "another job may be about to name it");
    artifacts.make_old(&digest);
    stage.sweep().await;
    assert!(artifacts.read(&digest).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn leases_are_in_the_name_of_the_peer_that_runs_the_job() {
    let mut stage = Stage::new();
    let (job, _worker) = stage.handed_off(None, ONCE).await;
    assert_eq!(job.lease.unwrap().peer, PEER);
}
