//! Leases: what lives is left alone, what is dead is settled, and what came back from the dead writes nothing.

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
    async fn orphan(&self, started: bool, policy: Policy) -> Handle {
        let new: NewJob = new_job("me", None);
        let started_at = started.then(|| self.store.now());
        let new = NewJob { policy, lease: LEASE, peer: "dead".to_owned(), started_at, ..new };
        let Created::New(job) = self.store.create(new).await.unwrap() else { panic!("not created") };
        job.handle
    }

    async fn sweep(&self) {
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
async fn the_jobs_of_a_dead_peer_end_as_interrupted_once_its_lease_is_over() {
    let stage = Stage::new();
    for (started, policy) in [(true, ONCE), (true, SAFE), (false, ONCE)] {
        let orphan = stage.orphan(started, policy).await;
        stage.sweep().await;
        assert!(!stage.status(orphan).await.is_terminal(), "a live lease protects");
        tokio::time::sleep(LEASE).await;
        stage.sweep().await;
        let job = stage.job(orphan).await;
        assert_eq!(job.status, Status::Failed);
        assert_eq!(job.failure.unwrap().kind, FailureKind::Interrupted);
    }
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
async fn leases_are_in_the_name_of_the_peer_that_runs_the_job() {
    let mut stage = Stage::new();
    let (job, _worker) = stage.handed_off(None, ONCE).await;
    assert_eq!(job.lease.unwrap().peer, PEER);
}
