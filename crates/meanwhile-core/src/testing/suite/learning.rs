//! What is known of how long a tool takes.

use super::*;
use crate::history::Durations;

fn durations(seconds: impl IntoIterator<Item = u64>) -> Durations {
    let mut durations = Durations::default();
    seconds.into_iter().for_each(|seconds| durations.record(Duration::from_secs(seconds)));
    durations
}

/// A job that completes teaches how long its tool takes, from the start of the attempt; one that has no answer does not.
pub async fn a_completed_job_teaches_how_long_its_tool_takes(store: Arc<dyn Store>, clock: ManualClock) {
    assert_eq!(store.durations("files", "render").await.unwrap(), Durations::default());
    for seconds in [3, 60] {
        let handle = create(&*store, new_job("me", None)).await;
        clock.advance(Duration::from_secs(9));
        let attempt = claim(&*store, handle, "one").await.unwrap();
        clock.advance(Duration::from_secs(seconds));
        store.apply(handle, completed(attempt, "1")).await.unwrap();
        store.apply(handle, Op::Collect { by: Actor::Agent }).await.unwrap();
    }
    let cancelled = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, cancelled, "one").await.unwrap();
    let outcome = Outcome::Cancelled("told to stop".to_owned());
    store.apply(cancelled, Op::Finish { attempt, outcome }).await.unwrap();
    assert_eq!(store.durations("files", "render").await.unwrap(), durations([3, 60]));
    assert_eq!(store.durations("files", "other").await.unwrap(), Durations::default());
    assert_eq!(store.durations("other", "render").await.unwrap(), Durations::default());
}

/// Calls that never became jobs are added, tool by tool.
pub async fn what_was_learnt_elsewhere_is_added(store: Arc<dyn Store>, _clock: ManualClock) {
    store.learn("files", "render", &durations([1, 1, 5])).await.unwrap();
    store.learn("files", "render", &durations([5, 70_000])).await.unwrap();
    store.learn("files", "read", &durations([2])).await.unwrap();
    assert_eq!(store.durations("files", "render").await.unwrap(), durations([1, 1, 5, 5, 70_000]));
    assert_eq!(store.durations("files", "read").await.unwrap(), durations([2]));
}
