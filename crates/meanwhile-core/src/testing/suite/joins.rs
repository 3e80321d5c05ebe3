//! A repeat joins, and so does a retry.

use super::*;

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

async fn joined(store: &dyn Store, new: NewJob) -> Handle {
    match store.create(new).await.unwrap() {
        Created::Joined(job) => job.handle,
        Created::New(job) => panic!("{} was created", job.handle),
    }
}

/// A call with the given keys of the client's.
fn retry(scope: &str, join_key: Option<&str>, retry_key: &str) -> NewJob {
    let mut new = new_job(scope, join_key);
    new.call.retry_key = Some(retry_key.to_owned());
    new
}

/// The same call of the client's joins its job also after the end, until the result expires.
pub async fn a_retry_joins_also_after_the_end(store: Arc<dyn Store>, clock: ManualClock) {
    let first = create(&*store, retry("me", None, "call 1")).await;
    assert_eq!(joined(&*store, retry("me", Some("k"), "call 1")).await, first, "while it is unfinished");
    let attempt = claim(&*store, first, "one").await.unwrap();
    store.apply(first, completed(attempt, "1")).await.unwrap();
    assert_eq!(joined(&*store, retry("me", None, "call 1")).await, first, "once it has ended");
    store.apply(first, Op::Collect { by: Actor::Agent }).await.unwrap();
    assert_eq!(joined(&*store, retry("me", None, "call 1")).await, first, "once it is collected");
    create(&*store, retry("you", None, "call 1")).await;
    create(&*store, retry("me", None, "call 2")).await;
    clock.advance(TTL);
    store.expire(10).await.unwrap();
    let second = create(&*store, retry("me", None, "call 1")).await;
    store.apply(second, Op::Cancel { by: Actor::User }).await.unwrap();
    let mut late = retry("me", None, "call 1");
    late.joins = false;
    let third = create(&*store, late).await;
    assert_eq!(joined(&*store, retry("me", None, "call 1")).await, third, "the newest is joined");
}

/// Where both keys have a match, the unfinished one is joined.
pub async fn a_repeat_is_preferred_to_a_retry(store: Arc<dyn Store>, _clock: ManualClock) {
    let ended = create(&*store, retry("me", Some("k"), "call")).await;
    store.apply(ended, Op::Cancel { by: Actor::User }).await.unwrap();
    let unfinished = create(&*store, new_job("me", Some("k"))).await;
    assert_eq!(joined(&*store, retry("me", Some("k"), "call")).await, unfinished);
    assert_eq!(joined(&*store, retry("me", Some("other"), "call")).await, ended);
}

/// What a call would join can be asked without joining, and joined later: that logs and tells what `create` does.
pub async fn joining_can_be_asked_first_and_done_then(store: Arc<dyn Store>, _clock: ManualClock) {
    let handle = create(&*store, retry("me", Some("k"), "call")).await;
    let ask = async |scope: &str, join_key, retry_key| {
        store.joinable(scope, join_key, retry_key).await.unwrap().map(|job| job.handle)
    };
    assert_eq!(ask("me", Some("k"), None).await, Some(handle));
    assert_eq!(ask("me", None, Some("call")).await, Some(handle));
    assert_eq!(ask("me", Some("call"), Some("k")).await, None, "each key is compared with its own kind");
    assert_eq!(ask("you", Some("k"), Some("call")).await, None);
    assert_eq!(ask("me", None, None).await, None);
    assert_eq!(store.job(handle).await.unwrap().unwrap().events, 1, "asking changes nothing");

    let mut changes = store.changes().of(handle);
    joined(&*store, new_job("me", Some("k"))).await;
    tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.expect("a join is told");
    assert_eq!(store.apply(handle, Op::Join).await.unwrap().events, 3);
    let log = store.events(handle, 1, 10).await.unwrap();
    assert!(
        log.iter().all(|event| event.kind == EventKind::Joined && event.actor == Actor::Agent),
        "{log:?}"
    );
}

/// The conversation that a job was started in is kept on it.
pub async fn a_job_keeps_its_conversation(store: Arc<dyn Store>, _clock: ManualClock) {
    let mut new = new_job("me", Some("k"));
    new.call.conversation = Some("thread 7".to_owned());
    let handle = create(&*store, new).await;
    joined(&*store, new_job("me", Some("k"))).await;
    let conversation = store.job(handle).await.unwrap().unwrap().conversation;
    assert_eq!(conversation.as_deref(), Some("thread 7"));
    let silent = create(&*store, new_job("me", None)).await;
    assert_eq!(store.job(silent).await.unwrap().unwrap().conversation, None);
}
