//! Claims, leases and fences.

use super::*;

/// Only one peer can claim a job, and only the current attempt can write.
pub async fn only_the_current_attempt_writes(store: Arc<dyn Store>, clock: ManualClock) {
    let mut new = new_job("me", None);
    new.policy.rerun = true;
    let handle = create(&*store, new).await;
    let two = claim(&*store, handle, "two").await;
    assert!(matches!(two, Err(StoreError::Refused(Refused::NotNow(_)))), "the creator still answers for it");
    let first = claim(&*store, handle, "one").await.unwrap();
    let two = claim(&*store, handle, "two").await;
    assert!(matches!(two, Err(StoreError::Refused(Refused::NotNow(_)))), "the lease still holds");
    clock.advance(LEASE);
    let second = claim(&*store, handle, "two").await.unwrap();
    assert!(second > first, "the fence only ever grows");
    let stale = store.apply(handle, completed(first, "1")).await;
    assert!(matches!(stale, Err(StoreError::Refused(Refused::Stale { .. }))));
    assert!(store.answer(handle).await.unwrap().is_none(), "a refused write leaves nothing behind");
    store.apply(handle, completed(second, "2")).await.unwrap();
    let again = store.apply(handle, completed(second, "3")).await;
    assert!(matches!(again, Err(StoreError::Refused(Refused::Ended(Status::Completed)))));
    assert_eq!(store.answer(handle).await.unwrap().unwrap().get(), "2");
}

/// Renewal holds a lease; without it the job is found abandoned, and is settled by the rules for safety.
pub async fn a_lost_lease_is_found_and_settled(store: Arc<dyn Store>, clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    claim(&*store, handle, "one").await.unwrap();
    clock.advance(LEASE / 2);
    store.renew(&"one".to_owned(), LEASE).await.unwrap();
    store.renew(&"two".to_owned(), LEASE * 9).await.unwrap();
    clock.advance(LEASE * 3 / 4);
    assert!(store.abandoned(10).await.unwrap().is_empty(), "it was renewed");
    assert!(store.apply(handle, Op::Abandon).await.is_err(), "a live lease protects");
    clock.advance(LEASE);
    let abandoned = store.abandoned(10).await.unwrap();
    assert_eq!(abandoned.iter().map(|job| job.handle).collect::<Vec<_>>(), [handle]);
    let unsafe_rerun = claim(&*store, handle, "two").await;
    assert!(unsafe_rerun.is_err(), "not known to be safe twice");
    let job = store.apply(handle, Op::Abandon).await.unwrap();
    assert_eq!((job.status, job.failure.unwrap().kind), (Status::Failed, FailureKind::Interrupted));
    assert!(store.abandoned(10).await.unwrap().is_empty());
}

/// A lost attempt goes back to the queue only where running again is safe.
pub async fn a_lost_attempt_runs_again_only_where_safe(store: Arc<dyn Store>, _clock: ManualClock) {
    for (rerun, expected) in [(true, Status::Queued), (false, Status::Failed)] {
        let mut new = new_job("me", None);
        new.policy.rerun = rerun;
        let handle = create(&*store, new).await;
        let attempt = claim(&*store, handle, "one").await.unwrap();
        let job = store.apply(handle, Op::Lose { attempt, reason: "it crashed".to_owned() }).await.unwrap();
        assert_eq!(job.status, expected);
        if rerun {
            assert_eq!(claim(&*store, handle, "one").await.unwrap(), attempt + 1);
        }
    }
}

/// Somebody sets the wall clock, by a day in either direction: no live lease is freed by it, and no dead one held.
pub async fn a_jump_of_the_wall_clock_breaks_no_lease(store: Arc<dyn Store>, clock: ManualClock) {
    const DAY: i64 = 24 * 3600 * 1_000_000;
    for jump in [DAY, -DAY] {
        let handle = create(&*store, new_job("me", None)).await;
        claim(&*store, handle, "one").await.unwrap();
        clock.advance(LEASE / 2);
        store.renew(&"one".to_owned(), LEASE).await.unwrap();
        clock.jump_wall(jump);
        clock.advance(LEASE * 3 / 4);
        assert!(store.abandoned(10).await.unwrap().is_empty(), "a live lease is not freed by {jump}");
        assert!(store.apply(handle, Op::Abandon).await.is_err(), "a live lease protects after {jump}");
        clock.advance(LEASE / 4);
        let abandoned = store.abandoned(10).await.unwrap();
        assert_eq!(abandoned.iter().map(|job| job.handle).collect::<Vec<_>>(), [handle], "after {jump}");
        store.apply(handle, Op::Abandon).await.unwrap();
    }
}
