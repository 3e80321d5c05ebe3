//! The suite that every store must pass.
//!
//! A store's own tests call [`store_suite!`](crate::store_suite) with a way to open it; each promise is then a test of its own.

#![expect(clippy::unwrap_used, reason = "a promise that is not kept is to fail its test")]

mod expiry;
mod inputs;
mod joins;
mod learning;
mod leases;
mod ledger;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use super::ManualClock;
use crate::Json;
use crate::clock::Clock;
use crate::event::{Actor, EventKind};
use crate::handle::Handle;
use crate::job::{AnswerInfo, Call, Failure, FailureKind, Policy, Progress, Status};
use crate::machine::{Op, Outcome, PROGRESS_EVENTS_MAX, Refused};
use crate::store::{AHEAD_MAX, Created, NewJob, Query, Snapshot, Store, StoreError};

pub use self::expiry::*;
pub use self::inputs::*;
pub use self::joins::*;
pub use self::learning::*;
pub use self::leases::*;
pub use self::ledger::*;
pub use self::sessions::*;

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
            retry_key: None,
            conversation: None,
        },
        policy: Policy { rerun: false, timeout: Some(Duration::from_secs(5)), ttl: TTL },
        peer: "one".to_owned(),
        lease: LEASE,
        started_at: None,
        lost: vec![],
        upstream_task: None,
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
    assert_eq!(job.lease.unwrap().until, clock.steady().after(LEASE));
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
    let mut last = third;
    for _ in 0..=AHEAD_MAX {
        last = create(&*store, new_job("me", None)).await;
    }
    assert_eq!(store.ahead(last).await.unwrap(), AHEAD_MAX, "a long queue is not counted to its head");
    assert!(store.apply(first, Op::Pause { by: Actor::Agent }).await.is_err());
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
    let new = new_job("me", None);
    let mut one = store.changes().of(new.handle);
    let mut any = store.changes().of_any();
    let handle = create(&*store, new).await;
    assert!(!one.take_change(), "who writes a job down hears only of what happens to it then");
    tokio::time::timeout(Duration::from_secs(20), any.changed()).await.expect("told of a new job");
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
            a_retry_joins_also_after_the_end
            a_repeat_is_preferred_to_a_retry
            joining_can_be_asked_first_and_done_then
            a_job_keeps_its_conversation
            only_the_current_attempt_writes
            a_lost_lease_is_found_and_settled
            a_jump_of_the_wall_clock_breaks_no_lease
            a_lost_attempt_runs_again_only_where_safe
            cancel_ends_a_queued_job_and_asks_a_running_one
            the_queue_has_places_and_can_be_paused
            an_expired_result_leaves_a_tombstone
            an_artifact_goes_with_its_last_job
            an_artifact_is_left_over_once
            a_tombstone_is_forgotten_after_its_time
            jobs_are_listed_by_scope_and_status
            outstanding_results_are_listed_alone
            a_result_is_announced_once
            jobs_are_listed_by_their_peer
            a_completed_job_teaches_how_long_its_tool_takes
            what_was_learnt_elsewhere_is_added
            a_job_asks_and_is_told
            what_is_too_much_to_ask_or_to_tell_is_refused
            a_job_that_asks_is_at_work
            inputs_go_when_the_result_expires
            an_attached_job_is_gone_on_with
            a_session_is_kept_until_it_is_long_unused
            an_ended_session_stays_so_and_who_listens_is_told
            of_an_owners_sessions_the_last_stay
            a_letter_waits_until_it_is_taken
            of_a_sessions_letters_the_last_stay
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
