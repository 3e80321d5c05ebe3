//! The suite that every store must pass.
//!
//! A store's own tests call [`store_suite!`](crate::store_suite) with a way to open it; each promise is then a test of its own.

#![expect(clippy::unwrap_used, reason = "a promise that is not kept is to fail its test")]

use std::sync::Arc;
use std::time::Duration;

use super::ManualClock;
use crate::Json;
use crate::clock::Clock;
use crate::event::{Actor, EventKind};
use crate::handle::Handle;
use crate::job::{AnswerInfo, Call, Failure, FailureKind, Policy, Progress, Status};
use crate::machine::{Op, Outcome, PROGRESS_EVENTS_MAX, Refused};
use crate::store::{Created, NewJob, Query, Store, StoreError};

const LEASE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(3600);

/// A JSON text for tests.
pub fn json(text: &str) -> Json {
    serde_json::value::RawValue::from_string(text.to_owned()).expect("valid JSON in a test")
}

/// A queued job for tests.
pub fn new_job(scope: &str, join_key: Option<&str>) -> NewJob {
    NewJob {
        handle: Handle::random(),
        call: Call {
            scope: scope.to_owned(),
            server: "files".to_owned(),
            tool: "render".to_owned(),
            request: json(r#"{"name": "render", "n": 1.0}"#),
            join_key: join_key.map(str::to_owned),
        },
        policy: Policy { rerun: false, timeout: Some(Duration::from_secs(5)), ttl: TTL },
        peer: "one".to_owned(),
        lease: LEASE,
        started_at: None,
        joins: true,
    }
}

async fn create(store: &dyn Store, new: NewJob) -> Handle {
    match store.create(new).await.expect("created") {
        Created::New(job) => job.handle,
        Created::Joined(job) => panic!("joined {} instead of a new job", job.handle),
    }
}

async fn claim(store: &dyn Store, handle: Handle, peer: &str) -> Result<u64, StoreError> {
    Ok(store.apply(handle, Op::Claim { peer: peer.to_owned(), lease: LEASE }).await?.attempt)
}

fn completed(attempt: u64, answer: &str) -> Op {
    Op::Finish { attempt, outcome: Outcome::Completed(json(answer)) }
}

async fn status(store: &dyn Store, handle: Handle) -> Status {
    store.job(handle).await.expect("read").expect("is there").status
}

/// What is created can be read back, field by field.
pub async fn a_job_is_read_back_as_it_was_written(store: Arc<dyn Store>, clock: ManualClock) {
    let new = new_job("me", Some("key"));
    let handle = create(&*store, new.clone()).await;
    let job = store.job(handle).await.unwrap().unwrap();
    assert_eq!((job.handle, job.status, job.attempt), (new.handle, Status::Queued, 0));
    assert_eq!((job.scope.as_str(), job.server.as_str(), job.tool.as_str()), ("me", "files", "render"));
    assert_eq!(job.policy, new.policy);
    assert_eq!(job.created_at, clock.now());
    assert_eq!(job.lease.unwrap().until, clock.now().after(LEASE));
    let request = store.request(handle).await.unwrap().unwrap();
    assert_eq!(request.get(), new.call.request.get(), "the request is kept word for word");
    assert!(store.job(Handle::random()).await.unwrap().is_none());
    assert!(store.request(Handle::random()).await.unwrap().is_none());
}

/// A whole life: claim, progress, answer, collect.
pub async fn a_job_lives_from_queue_to_collection(store: Arc<dyn Store>, clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, handle, "one").await.unwrap();
    assert_eq!(attempt, 1);
    let progress =
        Progress { progress: 1.5, total: Some(3.0), message: Some("half".to_owned()), verbatim: None };
    let job = store.apply(handle, Op::Progress { attempt, progress: progress.clone() }).await.unwrap();
    assert_eq!(job.progress, Some(progress));
    clock.advance(Duration::from_secs(7));
    let answer = r#"{"b":1.0,"a":12345678901234567890123,"é":"\u00e9"}"#;
    store.apply(handle, completed(attempt, answer)).await.unwrap();
    store.apply(handle, Op::Collect { by: Actor::Agent }).await.unwrap();

    let job = store.job(handle).await.unwrap().unwrap();
    assert_eq!(job.status, Status::Completed);
    assert_eq!(job.ran_for(clock.now()), Duration::from_secs(7));
    assert_eq!(job.finished_at, Some(clock.now()));
    assert_eq!(job.expires_at, Some(clock.now().after(TTL)), "the time to live counts from the end");
    assert_eq!(job.collected_at, Some(clock.now()));
    assert_eq!(job.answer.unwrap().bytes, answer.len() as u64);
    assert!(job.lease.is_none());
    assert_eq!(
        store.answer(handle).await.unwrap().unwrap().get(),
        answer,
        "the answer is kept word for word"
    );
    let kinds: Vec<EventKind> =
        store.events(handle, 0, 100).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert!(matches!(
        kinds[..],
        [
            EventKind::Created,
            EventKind::Started { attempt: 1, .. },
            EventKind::Progress(_),
            EventKind::Completed { .. },
            EventKind::Collected
        ]
    ));
}

/// A failure keeps its kind, its words and the upstream's own error.
pub async fn a_failure_is_kept_with_its_error(store: Arc<dyn Store>, _clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, handle, "one").await.unwrap();
    let error = Some(json(r#"{"code":-32099,"message":"no","data":{"x":1.0}}"#));
    let failure = Failure { kind: FailureKind::Error, message: "no".to_owned(), error };
    store.apply(handle, Op::Finish { attempt, outcome: Outcome::Failed(failure) }).await.unwrap();
    let failure = store.job(handle).await.unwrap().unwrap().failure.unwrap();
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Error, "no"));
    assert_eq!(failure.error.unwrap().get(), r#"{"code":-32099,"message":"no","data":{"x":1.0}}"#);
}

/// An unfinished job with the same key is joined; another scope, a missing key and an ended job are not.
pub async fn a_repeat_joins_while_the_first_is_unfinished(store: Arc<dyn Store>, _clock: ManualClock) {
    let first = create(&*store, new_job("me", Some("k"))).await;
    let Created::Joined(job) = store.create(new_job("me", Some("k"))).await.unwrap() else {
        panic!("did not join")
    };
    assert_eq!(job.handle, first);
    create(&*store, new_job("you", Some("k"))).await;
    create(&*store, new_job("me", Some("other"))).await;
    create(&*store, new_job("me", None)).await;
    create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, first, "one").await.unwrap();
    assert!(matches!(store.create(new_job("me", Some("k"))).await.unwrap(), Created::Joined(_)));
    let mut running = new_job("me", Some("k"));
    running.started_at = Some(store.now());
    running.joins = false;
    create(&*store, running).await;
    let Created::Joined(job) = store.create(new_job("me", Some("k"))).await.unwrap() else {
        panic!("did not join")
    };
    assert_eq!(job.handle, first, "the oldest is joined");
    store.apply(first, completed(attempt, "1")).await.unwrap();
    assert!(matches!(store.create(new_job("me", Some("k"))).await.unwrap(), Created::Joined(_)));
    let joined = store.events(first, 0, 100).await.unwrap();
    assert_eq!(joined.iter().filter(|event| event.kind == EventKind::Joined).count(), 3);
}

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

/// Cancel ends what has not begun, and asks what runs.
pub async fn cancel_ends_a_queued_job_and_asks_a_running_one(store: Arc<dyn Store>, _clock: ManualClock) {
    let queued = create(&*store, new_job("me", None)).await;
    let running = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, running, "one").await.unwrap();
    let cancel = || Op::Cancel { by: Actor::User };
    assert_eq!(store.apply(queued, cancel()).await.unwrap().status, Status::Cancelled);
    let job = store.apply(running, cancel()).await.unwrap();
    assert_eq!((job.status, job.cancel_requested_at.is_some()), (Status::Working, true));
    store.apply(running, cancel()).await.unwrap();
    let outcome = Outcome::Cancelled("told to stop".to_owned());
    store.apply(running, Op::Finish { attempt, outcome }).await.unwrap();
    let job = store.job(running).await.unwrap().unwrap();
    assert_eq!((job.status, job.message.as_deref()), (Status::Cancelled, Some("told to stop")));
    assert!(matches!(store.apply(running, cancel()).await, Err(StoreError::Refused(Refused::Ended(_)))));
    let requests = store.events(running, 0, 100).await.unwrap();
    assert_eq!(requests.iter().filter(|event| event.kind == EventKind::CancelRequested).count(), 1);
}

/// A queued job can be held and let go; its place in the queue is known.
pub async fn the_queue_has_places_and_can_be_paused(store: Arc<dyn Store>, _clock: ManualClock) {
    let first = create(&*store, new_job("me", None)).await;
    let second = create(&*store, new_job("me", None)).await;
    let third = create(&*store, new_job("me", None)).await;
    let mut other_peer = new_job("me", None);
    other_peer.peer = "two".to_owned();
    let other = create(&*store, other_peer).await;
    assert_eq!(store.ahead(third).await.unwrap(), 2);
    assert_eq!(store.next_queued(&"one".to_owned()).await.unwrap(), Some(first));
    assert_eq!(store.ahead(other).await.unwrap(), 0, "each peer has its own queue");
    store.apply(first, Op::Pause { by: Actor::Agent }).await.unwrap();
    assert_eq!(store.ahead(third).await.unwrap(), 1, "a held job is in nobody's way");
    assert!(claim(&*store, first, "one").await.is_err());
    assert_eq!(store.next_queued(&"one".to_owned()).await.unwrap(), Some(second));
    store.apply(first, Op::Resume { by: Actor::Agent }).await.unwrap();
    claim(&*store, first, "one").await.unwrap();
    claim(&*store, second, "one").await.unwrap();
    assert_eq!(store.ahead(third).await.unwrap(), 0);
    assert!(store.apply(first, Op::Pause { by: Actor::Agent }).await.is_err());
}

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
    clock.advance(Duration::from_secs(1));
    assert!(
        store.expire(10).await.unwrap().is_empty(),
        "the answer was in its row: no artifact is left over"
    );
    let job = store.job(handle).await.unwrap().unwrap();
    assert!(job.expired_at.is_some() && job.answer.is_none());
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
    clock.advance(TTL);
    assert_eq!(store.expire(10).await.unwrap(), ["abc"]);
    assert!(store.expire(10).await.unwrap().is_empty());
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
        let query = Query { scope, statuses: statuses.to_vec(), limit, uncollected_first };
        store.list(&query).await.unwrap().into_iter().map(|job| job.handle).collect::<Vec<_>>()
    };
    assert_eq!(list(None, &[], 10, false).await, [other, queued, done]);
    assert_eq!(list(Some("me"), &[], 10, false).await, [queued, done]);
    assert_eq!(list(Some("me"), &[], 10, true).await, [done, queued]);
    assert_eq!(list(Some("me"), &[Status::Queued, Status::Working], 10, true).await, [queued]);
    assert_eq!(list(None, &[], 1, false).await, [other]);
    store.apply(done, Op::Collect { by: Actor::Agent }).await.unwrap();
    assert_eq!(list(Some("me"), &[], 10, true).await, [queued, done]);
}

/// Progress beyond the bound is remembered but not logged; the end always is.
pub async fn the_log_is_bounded_and_keeps_its_ends(store: Arc<dyn Store>, _clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, handle, "one").await.unwrap();
    for step in 0..PROGRESS_EVENTS_MAX + 10 {
        let progress = Progress { progress: f64::from(step), ..Progress::default() };
        store.apply(handle, Op::Progress { attempt, progress }).await.unwrap();
    }
    store.apply(handle, completed(attempt, "1")).await.unwrap();
    let job = store.job(handle).await.unwrap().unwrap();
    assert_eq!(job.progress.unwrap().progress, f64::from(PROGRESS_EVENTS_MAX + 9));
    let log = store.events(handle, 0, usize::MAX).await.unwrap();
    assert_eq!(log.len() as u32, PROGRESS_EVENTS_MAX + 1);
    assert!(matches!(log.last().unwrap().kind, EventKind::Completed { .. }));
    let page = store.events(handle, 5, 3).await.unwrap();
    assert_eq!(page.iter().map(|event| event.seq).collect::<Vec<_>>(), [6, 7, 8]);
}

/// A change is told after it can be read, to who follows that job and to who follows all.
pub async fn changes_wake_whoever_waits(store: Arc<dyn Store>, _clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let mut one = store.changes().of(handle);
    let mut any = store.changes().of_any();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            while !status(&*store, handle).await.is_terminal() {
                one.changed().await;
            }
        }
    });
    store.apply(handle, Op::Cancel { by: Actor::User }).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("woken").unwrap();
    tokio::time::timeout(Duration::from_secs(20), any.changed()).await.expect("woken");
}

/// Defines one test for each promise. `$open` is an expression of a function from a `ManualClock` to
/// `(Arc<dyn Store>, Guard)`; the guard is held until the test ends.
#[macro_export]
macro_rules! store_suite {
    ($open:expr) => {
        $crate::store_suite! { $open;
            a_job_is_read_back_as_it_was_written
            a_job_lives_from_queue_to_collection
            a_failure_is_kept_with_its_error
            a_repeat_joins_while_the_first_is_unfinished
            only_the_current_attempt_writes
            a_lost_lease_is_found_and_settled
            a_lost_attempt_runs_again_only_where_safe
            cancel_ends_a_queued_job_and_asks_a_running_one
            the_queue_has_places_and_can_be_paused
            an_expired_result_leaves_a_tombstone
            an_artifact_goes_with_its_last_job
            jobs_are_listed_by_scope_and_status
            the_log_is_bounded_and_keeps_its_ends
            changes_wake_whoever_waits
        }
    };
    ($open:expr; $($promise:ident)*) => {$(
        #[tokio::test]
        async fn $promise() {
            let clock = $crate::testing::ManualClock::default();
            let (store, _guard) = $open(clock.clone());
            $crate::testing::suite::$promise(store, clock).await;
        }
    )*};
}

#[cfg(test)]
mod memory {
    use super::*;

    fn open(clock: ManualClock) -> (Arc<dyn Store>, ()) {
        (Arc::new(crate::testing::MemoryStore::new(Arc::new(clock))), ())
    }

    crate::store_suite!(open);
}
