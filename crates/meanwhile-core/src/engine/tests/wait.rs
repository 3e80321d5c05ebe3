//! Waiting for jobs: over the moment they have ended, and never longer than asked for.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::stage::{DAY, ONCE, Stage, all_is_quiet, soon};
use crate::engine::{Until, wait};
use crate::handle::Handle;
use crate::job::Status;
use crate::store::Snapshot;

const PATIENCE: Duration = Duration::from_secs(25);

impl Stage {
    /// A wait in a task of its own, that has begun.
    async fn waiting(
        &self,
        scope: &'static str,
        handles: &[Handle],
        until: Until,
    ) -> JoinHandle<Vec<Option<Snapshot>>> {
        let (store, handles) = (self.store.clone(), handles.to_vec());
        let wait = async move { wait(&*store, Some(scope), &handles, until, PATIENCE).await.unwrap() };
        let waiting = tokio::spawn(wait);
        tokio::task::yield_now().await;
        waiting
    }
}

fn statuses(jobs: &[Option<Snapshot>]) -> Vec<Option<Status>> {
    jobs.iter().map(|job| job.as_ref().map(|seen| seen.job.status)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_over_the_moment_the_job_is() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let waiting = stage.waiting("me", &[job.handle], Until::All).await;
    tokio::time::sleep(PATIENCE / 2).await;
    assert!(!waiting.is_finished());
    let ended = Instant::now();
    worker.answers("1");
    assert_eq!(statuses(&soon(waiting).await.unwrap()), [Some(Status::Completed)]);
    assert_eq!(ended.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_its_patience_and_shows_how_things_are() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let began = Instant::now();
    let waiting = stage.waiting("me", &[job.handle], Until::All).await;
    worker.reports(0.5);
    let jobs = soon(waiting).await.unwrap();
    assert_eq!(began.elapsed(), PATIENCE);
    assert_eq!(jobs[0].as_ref().unwrap().job.progress.as_ref().unwrap().progress, 0.5);
}

#[tokio::test(start_paused = true)]
async fn without_patience_a_wait_is_a_look() {
    let mut stage = Stage::new();
    let (job, _worker) = stage.running(ONCE).await;
    let began = Instant::now();
    let jobs = wait(&*stage.store, None, &[job.handle], Until::All, Duration::ZERO).await.unwrap();
    assert_eq!((statuses(&jobs), began.elapsed()), (vec![Some(Status::Working)], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_any_ends_with_the_first_and_one_for_all_with_the_last() {
    let mut stage = Stage::new();
    let (one, first) = stage.running(ONCE).await;
    let (two, second) = stage.running(ONCE).await;
    let any = stage.waiting("me", &[one.handle, two.handle], Until::Any).await;
    let all = stage.waiting("me", &[one.handle, two.handle], Until::All).await;
    second.answers("2");
    assert_eq!(statuses(&soon(any).await.unwrap()), [Some(Status::Working), Some(Status::Completed)]);
    all_is_quiet().await;
    assert!(!all.is_finished());
    let ended = Instant::now();
    first.answers("1");
    assert_eq!(statuses(&soon(all).await.unwrap()), [Some(Status::Completed), Some(Status::Completed)]);
    assert_eq!(ended.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_already_is_not_waited_for() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    worker.answers("1");
    stage.ended(job.handle).await;
    let began = Instant::now();
    stage.waiting("me", &[job.handle], Until::All).await.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn outside_its_scope_a_job_does_not_exist_and_is_not_waited_for() {
    let mut stage = Stage::new();
    let (job, _worker) = stage.running(ONCE).await;
    let began = Instant::now();
    for until in [Until::Any, Until::All] {
        let jobs = stage.waiting("you", &[job.handle, Handle::random()], until).await.await.unwrap();
        assert_eq!((statuses(&jobs), began.elapsed()), (vec![None, None], Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_handle_does_not_keep_others_from_being_waited_for() {
    for until in [Until::Any, Until::All] {
        let mut stage = Stage::new();
        let (job, worker) = stage.running(ONCE).await;
        let waiting = stage.waiting("me", &[Handle::random(), job.handle], until).await;
        all_is_quiet().await;
        assert!(!waiting.is_finished());
        worker.answers("1");
        assert_eq!(statuses(&soon(waiting).await.unwrap()), [None, Some(Status::Completed)]);
    }
}

#[tokio::test(start_paused = true)]
async fn many_may_wait_for_the_same_job_and_none_is_forgotten() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let mut waiting = Vec::new();
    for _ in 0..200 {
        waiting.push(stage.waiting("me", &[job.handle, job.handle], Until::All).await);
    }
    let ended = Instant::now();
    worker.answers("1");
    for one in waiting {
        soon(one).await.unwrap();
    }
    assert_eq!(ended.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_longest_patience_is_no_trouble() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    let store = stage.store.clone();
    let forever = async move { wait(&*store, None, &[job.handle], Until::All, Duration::MAX).await };
    let waiting = tokio::spawn(forever);
    tokio::time::sleep(DAY).await;
    worker.answers("1");
    assert_eq!(statuses(&soon(waiting).await.unwrap().unwrap()), [Some(Status::Completed)]);
}
