//! What starts as a job: committed first, then run in order as slots fall free.

use std::time::Duration;

use tokio::time::Instant;

use super::stage::{DAY, LEASE, ONCE, Stage, Worker, a_call, all_is_quiet};
use crate::engine::{Action, Slots, control};
use crate::event::{Actor, EventKind};
use crate::handle::Handle;
use crate::job::{Job, Status};
use crate::store::{Store, StoreError};

/// One that runs, and as many behind it as asked for.
async fn a_queue(stage: &mut Stage, behind: usize) -> (Worker, Vec<Handle>) {
    let (_, worker) = stage.running(ONCE).await;
    let mut queue = Vec::new();
    for _ in 0..behind {
        let job: Job = stage.start(None, ONCE).await;
        assert_eq!(job.status, Status::Queued);
        queue.push(job.handle);
    }
    (worker, queue)
}

#[tokio::test(start_paused = true)]
async fn a_job_is_committed_before_its_worker_is_called() {
    let mut stage = Stage::with_slots(1);
    let (job, worker) = stage.running(ONCE).await;
    assert_eq!((job.status, worker.written), (Status::Working, Some(Status::Working)));
    let queued = stage.start(None, ONCE).await;
    assert_eq!((queued.status, queued.attempt, queued.started_at), (Status::Queued, 0, None));
    worker.answers("1");
    let worker = stage.worker().await;
    assert_eq!((worker.handle(), worker.written), (queued.handle, Some(Status::Working)));
}

#[tokio::test(start_paused = true)]
async fn engines_that_share_their_slots_run_no_more_jobs_together_than_there_are() {
    let slots = Slots::new(1);
    let [mut one, mut other] = [(); 2].map(|()| Stage::sharing(slots.clone()));
    let (_, worker) = one.running(ONCE).await;
    let queued = other.start(None, ONCE).await;
    assert_eq!(queued.status, Status::Queued);
    other.nobody_else_is_called().await;
    worker.answers("1");
    let worker = other.worker().await;
    assert_eq!(worker.handle(), queued.handle);
    assert_eq!(one.start(None, ONCE).await.status, Status::Queued);
    worker.answers("2");
    one.worker().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_committed_is_not_started() {
    let mut stage = Stage::with_slots(1);
    stage.store.set_broken(true);
    let said = stage.engine.start(a_call("me", None), ONCE).await;
    assert!(matches!(said, Err(StoreError::Failed { .. })), "{said:?}");
    stage.nobody_else_is_called().await;
    stage.store.set_broken(false);
    stage.running(ONCE).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_jobs_run_than_there_are_slots_and_the_first_come_first() {
    let mut stage = Stage::with_slots(3);
    let mut order = Vec::new();
    for _ in 0..10 {
        order.push(stage.start(None, ONCE).await.handle);
    }
    let mut running = Vec::new();
    let mut begun = Vec::new();
    while begun.len() < order.len() {
        let worker = stage.worker().await;
        begun.push(worker.handle());
        running.push(worker);
        all_is_quiet().await;
        let working = stage.jobs().await.into_iter().filter(|job| job.status == Status::Working).count();
        assert!(working <= 3, "{working} run at once");
        if running.len() == 3 {
            running.remove(0).answers("1");
        }
    }
    assert_eq!(begun, order);
}

#[tokio::test(start_paused = true)]
async fn a_job_in_the_queue_knows_how_many_are_before_it() {
    let mut stage = Stage::with_slots(1);
    let (worker, queue) = a_queue(&mut stage, 3).await;
    for (place, handle) in queue.iter().enumerate() {
        assert_eq!(stage.store.ahead(*handle).await.unwrap(), place as u64);
    }
    worker.answers("1");
    let _worker = stage.worker().await;
    assert_eq!(stage.store.ahead(queue[2]).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_handed_off_takes_no_slot() {
    let mut stage = Stage::with_slots(1);
    let (_handed_off, _its_worker) = stage.handed_off(None, ONCE).await;
    let (job, _worker) = stage.running(ONCE).await;
    assert_eq!(job.status, Status::Working);
}

#[tokio::test(start_paused = true)]
async fn a_held_job_is_passed_over_and_runs_once_it_is_let_go() {
    let mut stage = Stage::with_slots(1);
    let (worker, queue) = a_queue(&mut stage, 2).await;
    assert_eq!(stage.order(queue[0], Action::Pause).await.status, Status::Paused);
    worker.answers("1");
    let second = stage.worker().await;
    assert_eq!(second.handle(), queue[1]);
    assert_eq!(stage.order(queue[0], Action::Resume).await.status, Status::Queued);
    second.answers("1");
    let first = stage.worker().await;
    assert_eq!(first.handle(), queue[0]);
    first.answers("1");
    assert_eq!(stage.ended(queue[0]).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_held_job_stays_for_as_long_as_it_is_held() {
    let mut stage = Stage::with_slots(1);
    let (worker, queue) = a_queue(&mut stage, 1).await;
    stage.order(queue[0], Action::Pause).await;
    worker.answers("1");
    tokio::time::sleep(DAY).await;
    assert_eq!(stage.status(queue[0]).await, Status::Paused);
    let began = Instant::now();
    stage.order(queue[0], Action::Resume).await;
    assert_eq!(stage.worker().await.handle(), queue[0]);
    assert_eq!(began.elapsed(), Duration::ZERO, "it is woken");
}

#[tokio::test(start_paused = true)]
async fn a_held_job_that_another_process_lets_go_runs_before_its_lease_is_over() {
    let mut stage = Stage::with_slots(1);
    let (worker, queue) = a_queue(&mut stage, 1).await;
    stage.order(queue[0], Action::Pause).await;
    worker.answers("1");
    tokio::time::sleep(DAY).await;
    let began = Instant::now();
    control(&*stage.store, None, queue[0], Action::Resume, Actor::User).await.unwrap();
    assert_eq!(stage.worker().await.handle(), queue[0]);
    assert!(began.elapsed() < LEASE);
}

#[tokio::test(start_paused = true)]
async fn a_queued_job_that_is_cancelled_never_runs() {
    let mut stage = Stage::with_slots(1);
    let (worker, queue) = a_queue(&mut stage, 2).await;
    let job = stage.order(queue[0], Action::Cancel).await;
    assert_eq!(job.status, Status::Cancelled, "at once");
    worker.answers("1");
    let next = stage.worker().await;
    assert_eq!(next.handle(), queue[1]);
    next.answers("1");
    stage.nobody_else_is_called().await;
    let started = |kind: &EventKind| matches!(kind, EventKind::Started { .. });
    assert!(!stage.events(queue[0]).await.iter().any(started));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_could_not_be_written_goes_on_once_the_store_is_mended() {
    let mut stage = Stage::with_slots(1);
    let (worker, queue) = a_queue(&mut stage, 2).await;
    worker.answers("1");
    stage.ended(stage.jobs().await.last().unwrap().handle).await;
    let worker = stage.worker().await;
    stage.order(queue[1], Action::Pause).await;
    worker.answers("1");
    stage.ended(queue[0]).await;
    stage.order(queue[1], Action::Resume).await;
    // The dispatcher has not run yet: resuming only woke it.
    stage.store.set_broken(true);
    tokio::time::sleep(LEASE / 2).await;
    assert_eq!(stage.status(queue[1]).await, Status::Queued);
    stage.store.set_broken(false);
    let late = stage.start(None, ONCE).await;
    assert_eq!(late.status, Status::Queued, "whoever comes later does not overtake");
    let worker = stage.worker().await;
    assert_eq!(worker.handle(), queue[1]);
    worker.answers("1");
    assert_eq!(stage.worker().await.handle(), late.handle);
}
