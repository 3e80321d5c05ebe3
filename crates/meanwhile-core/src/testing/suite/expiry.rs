//! What goes when its time is over: results, artifacts, tombstones.

use super::*;
use crate::store::TOMBSTONE;

/// After its time to live a result goes and a tombstone stays.
pub async fn an_expired_result_leaves_a_tombstone(store: Arc<dyn Store>, clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, handle, "one").await.unwrap();
    clock.advance(TTL * 2);
    store.renew(&"one".to_owned(), LEASE).await.unwrap();
    assert!(store.expire(10).await.unwrap().is_empty(), "what runs never expires");
    store.apply(handle, completed(attempt, "1")).await.unwrap();
    clock.advance(TTL - Duration::from_secs(1));
    assert!(store.expire(10).await.unwrap().is_empty());
    let snapshot = store.snapshot(handle).await.unwrap().unwrap();
    assert_eq!((snapshot.job.status, snapshot.answer.unwrap().get()), (Status::Completed, "1"));
    clock.advance(Duration::from_secs(1));
    assert!(
        store.expire(10).await.unwrap().is_empty(),
        "the answer was in its row: no artifact is left over"
    );
    let Snapshot { job, answer } = store.snapshot(handle).await.unwrap().unwrap();
    assert!(job.expired_at.is_some() && job.answer.is_none() && answer.is_none());
    assert!(store.snapshot(Handle::random()).await.unwrap().is_none());
    assert!(store.answer(handle).await.unwrap().is_none());
    assert!(store.request(handle).await.unwrap().is_none());
}

/// An artifact is left over only when the last job that refers to it has expired.
pub async fn an_artifact_goes_with_its_last_job(store: Arc<dyn Store>, clock: ManualClock) {
    let info = || AnswerInfo { bytes: 100_000, artifact: Some("abc".to_owned()) };
    for ttl in [TTL, TTL * 2] {
        let mut new = new_job("me", None);
        new.policy.ttl = ttl;
        let handle = create(&*store, new).await;
        let attempt = claim(&*store, handle, "one").await.unwrap();
        let outcome = Outcome::CompletedIn(info());
        let job = store.apply(handle, Op::Finish { attempt, outcome }).await.unwrap();
        assert_eq!(job.answer, Some(info()));
        assert!(store.answer(handle).await.unwrap().is_none());
    }
    clock.advance(TTL);
    assert!(store.expire(10).await.unwrap().is_empty(), "another job still needs it");
    assert!(store.holds("abc").await.unwrap());
    clock.advance(TTL);
    assert_eq!(store.expire(10).await.unwrap(), ["abc"]);
    assert!(!store.holds("abc").await.unwrap());
    assert!(store.expire(10).await.unwrap().is_empty());
}

/// Jobs that share an artifact and expire together leave it over once.
pub async fn an_artifact_is_left_over_once(store: Arc<dyn Store>, clock: ManualClock) {
    for _ in 0..2 {
        let handle = create(&*store, new_job("me", None)).await;
        let attempt = claim(&*store, handle, "one").await.unwrap();
        let info = AnswerInfo { bytes: 100_000, artifact: Some("abc".to_owned()) };
        store.apply(handle, Op::Finish { attempt, outcome: Outcome::CompletedIn(info) }).await.unwrap();
    }
    clock.advance(TTL);
    assert_eq!(store.expire(10).await.unwrap(), ["abc"]);
}

/// A tombstone is forgotten after its time, with its log; until then it is there.
pub async fn a_tombstone_is_forgotten_after_its_time(store: Arc<dyn Store>, clock: ManualClock) {
    let mut old = Vec::new();
    for _ in 0..3 {
        let handle = create(&*store, new_job("me", None)).await;
        store.apply(handle, Op::Cancel { by: Actor::User }).await.unwrap();
        old.push(handle);
    }
    clock.advance(TTL);
    store.expire(10).await.unwrap();
    clock.advance(TOMBSTONE - Duration::from_secs(1));
    store.expire(10).await.unwrap();
    let younger = create(&*store, new_job("me", None)).await;
    assert!(store.job(old[0]).await.unwrap().unwrap().expired_at.is_some(), "the tombstone stands");
    clock.advance(Duration::from_secs(1));
    let all = Query { limit: 10, ..Query::default() };
    for left in [2, 1] {
        store.expire(2).await.unwrap();
        assert_eq!(store.list(&all).await.unwrap().len(), left, "no more at once than the limit");
    }
    for handle in old {
        assert!(store.job(handle).await.unwrap().is_none());
        assert!(store.events(handle, 0, 10).await.unwrap().is_empty());
        let gone = store.apply(handle, Op::Collect { by: Actor::Agent }).await;
        assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    }
    let next = create(&*store, new_job("me", None)).await;
    let listed: Vec<Handle> = store.list(&all).await.unwrap().iter().map(|job| job.handle).collect();
    assert_eq!(listed, [next, younger], "the newest first, whatever went");
}
