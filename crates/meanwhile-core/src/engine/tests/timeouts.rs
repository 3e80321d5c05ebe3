//! The limit that a call itself has.

use std::time::Duration;

use tokio::time::Instant;

use super::stage::{BUDGET, ONCE, SAFE, Stage, a_call, all_is_quiet, ended, soon};
use crate::executor::Attempt;
use crate::job::{FailureKind, Policy, Status};

const LIMIT: Duration = Duration::from_secs(60);
const LIMITED: Policy = Policy { timeout: Some(LIMIT), ..ONCE };

fn stopped() -> Attempt {
    Attempt::Stopped("stopped half way".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_that_takes_too_long_is_stopped_and_fails_as_timed_out() {
    let mut stage = Stage::new();
    let began = Instant::now();
    let called = stage.call(a_call("me", None), LIMITED, None);
    let worker = stage.worker().await;
    worker.is_told_to_stop().await;
    assert_eq!(began.elapsed(), LIMIT);
    worker.ends(stopped());
    let Attempt::Failed(failure) = ended(soon(called).await.unwrap()) else { panic!("did not fail") };
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(
        failure.message.contains("60s") && failure.message.contains("stopped half way"),
        "{}",
        failure.message
    );
    assert!(stage.jobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_too_long_is_stopped_and_fails_as_timed_out() {
    let mut stage = Stage::new();
    let began = Instant::now();
    let (job, worker) = stage.handed_off(None, LIMITED).await;
    assert_eq!(began.elapsed(), BUDGET);
    worker.is_told_to_stop().await;
    assert_eq!(began.elapsed(), LIMIT, "the hand-off does not start the limit anew");
    worker.ends(stopped());
    let job = stage.ended(job.handle).await;
    assert_eq!((job.status, job.failure.unwrap().kind), (Status::Failed, FailureKind::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ignores_its_limit_is_given_up_after_the_grace() {
    let mut stage = Stage::new();
    let (job, mut worker) = stage.running(LIMITED).await;
    let job = stage.ended(job.handle).await;
    let ran = job.ran_for(stage.engine.now());
    assert_eq!(ran, LIMIT + crate::engine::run::STOP_GRACE);
    let failure = job.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(failure.message.contains("no sign"), "{}", failure.message);
    worker.is_given_up().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_within_the_grace_of_a_limit_counts() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(LIMITED).await;
    worker.is_told_to_stop().await;
    worker.answers("1");
    assert_eq!(stage.ended(job.handle).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_time_ran_out_does_not_run_again_though_its_worker_dies_of_it() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(Policy { timeout: Some(LIMIT), ..SAFE }).await;
    worker.is_told_to_stop().await;
    worker.dies();
    let job = stage.ended(job.handle).await;
    assert_eq!((job.attempt, job.failure.unwrap().kind), (1, FailureKind::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_cancelled_just_before_its_limit_ends_cancelled() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(LIMITED).await;
    tokio::time::sleep(LIMIT - Duration::from_secs(2)).await;
    let cancelled = stage.cancel_soon(job.handle);
    worker.is_told_to_stop().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    all_is_quiet().await;
    worker.ends(stopped());
    assert_eq!(soon(cancelled).await.unwrap().status, Status::Cancelled);
}
