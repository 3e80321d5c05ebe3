//! Cancelling what runs, from here and from elsewhere.

use tokio::time::Instant;

use super::stage::{DAY, ONCE, SAFE, Stage, all_is_quiet, soon};
use crate::engine::run::STOP_GRACE;
use crate::engine::{Action, Controlled, control};
use crate::event::{Actor, EventKind};
use crate::executor::Attempt;
use crate::handle::Handle;
use crate::job::Status;

#[tokio::test(start_paused = true)]
async fn cancelling_a_job_reaches_its_worker_and_keeps_its_words() {
    let mut stage = Stage::new();
    let (job, worker) = stage.handed_off(None, ONCE).await;
    let cancelled = stage.cancel_soon(job.handle);
    worker.is_told_to_stop().await;
    let asked = stage.job(job.handle).await;
    assert_eq!((asked.status, asked.message.as_deref()), (Status::Working, Some("being cancelled")));
    worker.ends(Attempt::Stopped("stopped half way".to_owned()));
    let job = soon(cancelled).await.unwrap();
    assert_eq!((job.status, job.message.as_deref()), (Status::Cancelled, Some("stopped half way")));
    assert!(stage.events(job.handle).await.contains(&EventKind::CancelRequested));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ignores_a_cancellation_is_given_up_after_its_grace_and_that_is_said() {
    let mut stage = Stage::new();
    let (job, mut worker) = stage.running(ONCE).await;
    let asked = Instant::now();
    let job = stage.order(job.handle, Action::Cancel).await;
    assert_eq!(asked.elapsed(), STOP_GRACE);
    assert_eq!(job.status, Status::Cancelled);
    assert!(job.message.as_ref().is_some_and(|message| message.contains("no sign")), "{:?}", job.message);
    worker.is_given_up().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_within_the_grace_of_a_cancellation_completes_the_job() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let cancelled = stage.cancel_soon(job.handle);
    worker.is_told_to_stop().await;
    tokio::time::sleep(STOP_GRACE / 2).await;
    worker.answers("1");
    let job = soon(cancelled).await.unwrap();
    assert_eq!(job.status, Status::Completed);
    assert_eq!(stage.answer(&job).await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_runs_no_jobs_can_cancel_one() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let store = stage.store.clone();
    let elsewhere = async move { control(&*store, None, job.handle, Action::Cancel, Actor::User).await };
    let cancelled = tokio::spawn(elsewhere);
    worker.is_told_to_stop().await;
    worker.ends(Attempt::Stopped("stopped".to_owned()));
    let Controlled::Done(job) = soon(cancelled).await.unwrap().unwrap() else { panic!("not done") };
    assert_eq!(job.status, Status::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_whose_worker_dies_does_not_run_again() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(SAFE).await;
    let cancelled = stage.cancel_soon(job.handle);
    worker.is_told_to_stop().await;
    worker.dies();
    assert_eq!(soon(cancelled).await.unwrap().status, Status::Cancelled);
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn outside_its_scope_a_job_cannot_be_controlled() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    for (scope, handle) in [("you", job.handle), ("me", Handle::random())] {
        let said = stage.engine.control(scope, handle, Action::Cancel, Actor::Agent).await.unwrap();
        assert!(matches!(said, Controlled::NotFound), "{said:?}");
    }
    worker.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let before = format!("{:?}", stage.job(job.handle).await);
    for action in [Action::Pause, Action::Resume] {
        let Controlled::Refused(job, _) = stage.control(job.handle, action).await else {
            panic!("not refused")
        };
        assert_eq!(format!("{job:?}"), before);
    }
    worker.answers("1");
    stage.ended(job.handle).await;
    let Controlled::Refused(job, _) = stage.control(job.handle, Action::Cancel).await else {
        panic!("not refused")
    };
    assert_eq!(job.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn cancelling_does_not_wait_for_ever_for_a_process_that_does_not_answer() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let cancelled = stage.cancel_soon(job.handle);
    worker.is_told_to_stop().await;
    stage.store.set_broken(true);
    let began = Instant::now();
    assert_eq!(soon(cancelled).await.unwrap().status, Status::Working, "as it is, not as it should be");
    assert!(began.elapsed() < DAY);
    stage.store.set_broken(false);
    all_is_quiet().await;
    assert_eq!(stage.ended(job.handle).await.status, Status::Cancelled);
}
