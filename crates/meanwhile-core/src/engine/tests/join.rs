//! A repeat of an unfinished call gets the job of the first.

use super::stage::{BUDGET, ONCE, Stage, Worker, a_call, answered, joined, soon, started};
use crate::engine::{Action, Called};
use crate::event::EventKind;
use crate::job::{Job, Status};

const KEY: Option<&str> = Some("key");

impl Stage {
    async fn call_again(&self, scope: &str) -> Called {
        self.call(a_call(scope, KEY), ONCE, Some(BUDGET)).await.unwrap()
    }

    async fn start_again(&self, scope: &str) -> Called {
        self.engine.start(a_call(scope, KEY), ONCE).await.unwrap()
    }

    /// A call of this scope that is handed off.
    async fn handed_off_in(&mut self, scope: &str) -> (Job, Worker) {
        let called = self.call(a_call(scope, KEY), ONCE, Some(BUDGET));
        let worker = self.worker().await;
        (started(soon(called).await.unwrap()), worker)
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_a_call_that_was_handed_off_joins_its_job() {
    let mut stage = Stage::new();
    let (job, worker) = stage.handed_off(KEY, ONCE).await;
    assert_eq!(joined(stage.call_again("me").await).handle, job.handle);
    assert_eq!(joined(stage.start_again("me").await).handle, job.handle);
    worker.answers("1");
    stage.ended(job.handle).await;
    stage.nobody_else_is_called().await;
    assert!(stage.engine.joinable().is_empty(), "what has ended is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_a_job_that_was_started_joins_it() {
    let mut stage = Stage::new();
    let job = stage.start(KEY, ONCE).await;
    assert_eq!(joined(stage.start_again("me").await).handle, job.handle);
    assert_eq!(joined(stage.call_again("me").await).handle, job.handle);
    assert_eq!(stage.worker().await.handle(), job.handle);
    stage.nobody_else_is_called().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_a_job_in_the_queue_joins_it() {
    let mut stage = Stage::with_slots(1);
    let (_, _worker) = stage.running(ONCE).await;
    let job = stage.start(KEY, ONCE).await;
    assert_eq!(job.status, Status::Queued);
    assert_eq!(joined(stage.start_again("me").await).handle, job.handle);
    assert_eq!(joined(stage.call_again("me").await).handle, job.handle);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_a_job_that_has_ended_runs_anew() {
    let mut stage = Stage::new();
    let (first, worker) = stage.handed_off(KEY, ONCE).await;
    worker.answers("1");
    stage.ended(first.handle).await;
    let (second, worker) = stage.handed_off(KEY, ONCE).await;
    assert_ne!(second.handle, first.handle);
    assert_eq!(joined(stage.call_again("me").await).handle, second.handle, "and is joined in its turn");
    worker.answers("2");
    stage.ended(second.handle).await;
    assert!(matches!(stage.start_again("me").await, Called::Started(_)));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_cancelled_in_the_queue_is_in_no_repeats_way() {
    let mut stage = Stage::with_slots(1);
    let (_, _worker) = stage.running(ONCE).await;
    let first = stage.start(KEY, ONCE).await;
    stage.order(first.handle, Action::Cancel).await;
    let (second, _worker) = stage.handed_off(KEY, ONCE).await;
    assert_eq!(joined(stage.call_again("me").await).handle, second.handle);
}

#[tokio::test(start_paused = true)]
async fn another_scope_never_joins_and_has_its_own_first() {
    let mut stage = Stage::new();
    let (mine, _my_worker) = stage.handed_off(KEY, ONCE).await;
    let (yours, _your_worker) = stage.handed_off_in("you").await;
    assert_ne!(yours.handle, mine.handle);
    assert_eq!(joined(stage.call_again("you").await).handle, yours.handle);
    assert_eq!(joined(stage.start_again("you").await).handle, yours.handle);
    assert_eq!(joined(stage.call_again("me").await).handle, mine.handle);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_key_never_joins() {
    let mut stage = Stage::new();
    let (first, _one) = stage.handed_off(None, ONCE).await;
    let (second, _two) = stage.handed_off(None, ONCE).await;
    assert_ne!(first.handle, second.handle);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_still_waited_for_are_each_their_own() {
    let mut stage = Stage::new();
    let one = stage.call(a_call("me", KEY), ONCE, Some(BUDGET));
    let other = stage.call(a_call("me", KEY), ONCE, Some(BUDGET));
    stage.worker().await.answers("1");
    stage.worker().await.answers("2");
    assert_eq!(
        (answered(soon(one).await.unwrap()), answered(soon(other).await.unwrap())),
        ("1".to_owned(), "2".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_twin_that_outlives_the_first_is_joined_as_well() {
    let mut stage = Stage::new();
    let one = stage.call(a_call("me", KEY), ONCE, Some(BUDGET));
    let first = stage.worker().await;
    let other = stage.call(a_call("me", KEY), ONCE, Some(BUDGET));
    let _second = stage.worker().await;
    let (one, other) = (soon(one).await.unwrap(), soon(other).await.unwrap());
    let (one, (other, twin)) = match (one, other) {
        (Called::Started(one), Called::Beside(other, twin)) => (one, (other, twin)),
        other => panic!("both go on, and only the second has a twin: {other:?}"),
    };
    assert_eq!(twin, one.handle);
    let noted = |kind: &EventKind| matches!(kind, EventKind::Noted { message } if message.contains(&one.handle.to_string()));
    assert!(stage.events(other.handle).await.iter().any(noted));
    first.answers("1");
    stage.ended(one.handle).await;
    assert_eq!(joined(stage.call_again("me").await).handle, other.handle);
}
