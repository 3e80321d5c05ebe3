//! Lists, and who has been told of what.

use super::*;
use crate::job::Job;

fn handles(jobs: Vec<Job>) -> Vec<Handle> {
    jobs.into_iter().map(|job| job.handle).collect()
}

/// Lists are by scope and status, the newest first, or what nobody has collected first.
pub async fn jobs_are_listed_by_scope_and_status(store: Arc<dyn Store>, _clock: ManualClock) {
    let done = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, done, "one").await.unwrap();
    store.apply(done, completed(attempt, "1")).await.unwrap();
    let queued = create(&*store, new_job("me", None)).await;
    let other = create(&*store, new_job("you", None)).await;
    let list = async |scope: Option<&str>, statuses: &[Status], limit, uncollected_first| {
        let scope = scope.map(str::to_owned);
        let query =
            Query { scope, statuses: statuses.to_vec(), limit, uncollected_first, ..Query::default() };
        handles(store.list(&query).await.unwrap())
    };
    assert_eq!(list(None, &[], 10, false).await, [other, queued, done]);
    assert_eq!(list(Some("me"), &[], 10, false).await, [queued, done]);
    assert_eq!(list(Some("me"), &[], 10, true).await, [done, queued]);
    assert_eq!(list(Some("me"), &[Status::Queued, Status::Working], 10, true).await, [queued]);
    assert_eq!(list(None, &[], 1, false).await, [other]);
    store.apply(done, Op::Collect { by: Actor::Agent }).await.unwrap();
    assert_eq!(list(Some("me"), &[], 10, true).await, [queued, done]);
    let older = async |scope: Option<&str>, before| {
        let scope = scope.map(str::to_owned);
        let query = Query { scope, before: Some(before), limit: 10, ..Query::default() };
        handles(store.list(&query).await.unwrap())
    };
    assert_eq!(older(None, other).await, [queued, done]);
    assert_eq!(older(Some("me"), queued).await, [done]);
    assert!(older(None, done).await.is_empty());
    assert!(older(None, Handle::random()).await.is_empty(), "nothing is older than what is not there");
}

/// A job that has ended in the given scope, uncollected.
async fn ended(store: &dyn Store, scope: &str) -> Handle {
    let handle = create(store, new_job(scope, None)).await;
    let attempt = claim(store, handle, "one").await.unwrap();
    store.apply(handle, completed(attempt, "1")).await.unwrap();
    handle
}

/// Only what has ended, and was neither collected nor has expired, is outstanding.
pub async fn outstanding_results_are_listed_alone(store: Arc<dyn Store>, clock: ManualClock) {
    let expired = ended(&*store, "me").await;
    clock.advance(TTL);
    store.expire(10).await.unwrap();
    let collected = ended(&*store, "me").await;
    store.apply(collected, Op::Collect { by: Actor::Agent }).await.unwrap();
    let older = ended(&*store, "me").await;
    let newer = ended(&*store, "me").await;
    let other = ended(&*store, "you").await;
    let queued = create(&*store, new_job("me", None)).await;
    let list = async |scope: Option<&str>, statuses: &[Status], limit| {
        let (scope, statuses) = (scope.map(str::to_owned), statuses.to_vec());
        let query = Query { scope, statuses, limit, uncollected_only: true, ..Query::default() };
        handles(store.list(&query).await.unwrap())
    };
    assert_eq!(list(Some("me"), &[], 10).await, [newer, older]);
    assert_eq!(list(Some("me"), &[], 1).await, [newer]);
    assert_eq!(list(None, &[], 10).await, [other, newer, older]);
    assert_eq!(list(Some("me"), &[Status::Completed, Status::Queued], 10).await, [newer, older]);
    assert!(list(Some("me"), &[Status::Failed], 10).await.is_empty());
    assert_eq!(status(&*store, queued).await, Status::Queued);
    assert!(store.job(expired).await.unwrap().unwrap().expired_at.is_some());
}

/// The agent is told of a result once; what it was not told of yet can be asked for.
pub async fn a_result_is_announced_once(store: Arc<dyn Store>, clock: ManualClock) {
    let one = ended(&*store, "me").await;
    let two = ended(&*store, "me").await;
    let running = create(&*store, new_job("me", None)).await;
    let untold = async || {
        let scope = Some("me".to_owned());
        let query = Query { scope, limit: 10, unannounced_only: true, ..Query::default() };
        handles(store.list(&query).await.unwrap())
    };
    assert!(matches!(store.apply(running, Op::Announce).await, Err(StoreError::Refused(Refused::NotNow(_)))));
    assert_eq!(untold().await, [two, one]);
    let told = store.apply(one, Op::Announce).await.unwrap();
    assert_eq!(told.announced_at, Some(clock.now()));
    assert_eq!(untold().await, [two]);
    clock.advance(Duration::from_secs(1));
    let again = store.apply(one, Op::Announce).await.unwrap();
    assert_eq!((again.announced_at, again.events), (told.announced_at, told.events), "only the first counts");
    let last = store.events(one, told.events - 1, 10).await.unwrap();
    assert!(
        matches!(&last[..], [event] if event.kind == EventKind::Announced && event.actor == Actor::System)
    );
    store.apply(two, Op::Collect { by: Actor::Agent }).await.unwrap();
    assert!(untold().await.is_empty(), "what was collected needs no announcement");
    assert!(store.apply(two, Op::Announce).await.is_err());
    let outstanding = Query { limit: 10, uncollected_only: true, ..Query::default() };
    assert_eq!(handles(store.list(&outstanding).await.unwrap()), [one], "announced is not collected");
}

/// What a peer answers for is found by its name.
pub async fn jobs_are_listed_by_their_peer(store: Arc<dyn Store>, _clock: ManualClock) {
    ended(&*store, "me").await;
    let queued = create(&*store, new_job("me", None)).await;
    let held = create(&*store, new_job("you", None)).await;
    store.apply(held, Op::Pause { by: Actor::User }).await.unwrap();
    let working = create(&*store, new_job("me", None)).await;
    claim(&*store, working, "one").await.unwrap();
    let mut other = new_job("me", None);
    other.peer = "two".to_owned();
    let other = create(&*store, other).await;
    let list = async |peer: &str, scope: Option<&str>, statuses: &[Status]| {
        let (scope, statuses, peer) = (scope.map(str::to_owned), statuses.to_vec(), Some(peer.to_owned()));
        handles(store.list(&Query { scope, statuses, peer, limit: 10, ..Query::default() }).await.unwrap())
    };
    assert_eq!(list("one", None, &[]).await, [working, held, queued]);
    assert_eq!(list("one", None, &[Status::Queued, Status::Paused]).await, [held, queued]);
    assert_eq!(list("one", Some("me"), &[]).await, [working, queued]);
    assert_eq!(list("two", None, &[]).await, [other]);
    assert!(list("one", None, &[Status::Completed]).await.is_empty(), "nobody answers for what has ended");
    assert!(list("three", None, &[]).await.is_empty());
}
