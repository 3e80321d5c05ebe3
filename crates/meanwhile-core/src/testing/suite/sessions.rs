//! Sessions that any process may go on with.

use super::*;
use crate::store::{KeptSession, LETTER_LIFE, LETTERS_MAX, SESSION_LIFE, SESSIONS_MAX};

fn session(key: &str, owner: &str) -> KeptSession {
    let opening = json(r#"{"b": 1.0, "a": "é"}"#);
    KeptSession { key: key.to_owned(), owner: owner.to_owned(), place: "files".to_owned(), opening }
}

async fn is_kept(store: &dyn Store, key: &str) -> bool {
    store.session(key).await.unwrap().is_some()
}

/// A session is read back as it was kept, until nobody has kept it again for long.
pub async fn a_session_is_kept_until_it_is_long_unused(store: Arc<dyn Store>, clock: ManualClock) {
    assert!(!is_kept(&*store, "one").await);
    store.keep_session(&session("one", "ann")).await.unwrap();
    let kept = store.session("one").await.unwrap().unwrap();
    assert_eq!((kept.key.as_str(), kept.owner.as_str(), kept.place.as_str()), ("one", "ann", "files"));
    assert_eq!(kept.opening.get(), r#"{"b": 1.0, "a": "é"}"#, "word for word");
    clock.advance(SESSION_LIFE - Duration::from_secs(1));
    store.keep_session(&kept).await.unwrap();
    clock.advance(SESSION_LIFE - Duration::from_secs(1));
    assert!(is_kept(&*store, "one").await);
    clock.advance(Duration::from_secs(1));
    assert!(!is_kept(&*store, "one").await);
    store.keep_session(&session("two", "ann")).await.unwrap();
    assert!(is_kept(&*store, "two").await && !is_kept(&*store, "one").await);
}

/// An end is for ever, and each process learns of it.
pub async fn an_ended_session_stays_so_and_who_listens_is_told(store: Arc<dyn Store>, _clock: ManualClock) {
    for key in ["one", "two"] {
        store.keep_session(&session(key, "ann")).await.unwrap();
    }
    let mut ends = store.changes().of_sessions();
    store.end_session("one").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), ends.changed()).await.expect("told");
    store.keep_session(&session("one", "ann")).await.unwrap();
    store.end_session("never there").await.unwrap();
    assert!(!is_kept(&*store, "one").await && is_kept(&*store, "two").await);
    let keys = ["one", "two", "never there"].map(str::to_owned);
    assert_eq!(store.ended_sessions(&keys).await.unwrap(), ["one"]);
    assert!(store.ended_sessions(&[]).await.unwrap().is_empty());
}

/// Whoever begins sessions without end pushes out their own, and nobody else's.
pub async fn of_an_owners_sessions_the_last_stay(store: Arc<dyn Store>, clock: ManualClock) {
    store.keep_session(&session("bob's", "bob")).await.unwrap();
    for number in 0..=SESSIONS_MAX {
        clock.advance(Duration::from_millis(1));
        store.keep_session(&session(&number.to_string(), "ann")).await.unwrap();
    }
    assert!(is_kept(&*store, "bob's").await);
    assert!(!is_kept(&*store, "0").await && is_kept(&*store, "1").await);
    assert!(store.ended_sessions(&["0".to_owned()]).await.unwrap().is_empty(), "it has only been forgotten");
}

/// The ids and texts of the letters of these sessions.
async fn letters(store: &dyn Store, sessions: &[&str], after: u64) -> Vec<(u64, String)> {
    let sessions: Vec<String> = sessions.iter().map(|key| (*key).to_owned()).collect();
    let letters = store.letters(&sessions, after).await.unwrap();
    letters.into_iter().map(|letter| (letter.id, letter.message.get().to_owned())).collect()
}

/// A letter is read by whoever has its session, until it is taken, and who listens is told of it.
pub async fn a_letter_waits_until_it_is_taken(store: Arc<dyn Store>, clock: ManualClock) {
    let mut told = store.changes().of_sessions();
    let first = store.leave_letter("one", &json(r#"{"b": 1.0}"#)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), told.changed()).await.expect("told");
    let second = store.leave_letter("one", &json("2")).await.unwrap();
    let others = store.leave_letter("two", &json("3")).await.unwrap();
    let word_for_word = (first, r#"{"b": 1.0}"#.to_owned());
    assert_eq!(letters(&*store, &["one", "none"], 0).await, [word_for_word, (second, "2".to_owned())]);
    assert_eq!(letters(&*store, &["one", "two"], second).await, [(others, "3".to_owned())]);
    assert!(letters(&*store, &[], 0).await.is_empty());
    for id in [first, others] {
        store.forget_letter(id).await.unwrap();
    }
    assert_eq!(letters(&*store, &["one", "two"], 0).await.len(), 1);
    assert!(store.leave_letter("two", &json("4")).await.unwrap() > others, "no id comes again");
    clock.advance(LETTER_LIFE);
    let last = store.leave_letter("two", &json("5")).await.unwrap();
    assert_eq!(letters(&*store, &["one", "two"], 0).await, [(last, "5".to_owned())]);
    clock.advance(LETTER_LIFE);
    store.expire(1).await.unwrap();
    assert!(letters(&*store, &["one", "two"], 0).await.is_empty());
}

/// A session has room for so many letters, and none once it has ended.
pub async fn of_a_sessions_letters_the_last_stay(store: Arc<dyn Store>, _clock: ManualClock) {
    store.keep_session(&session("one", "ann")).await.unwrap();
    store.leave_letter("two", &json("0")).await.unwrap();
    for _ in 0..=LETTERS_MAX {
        store.leave_letter("one", &json("1")).await.unwrap();
    }
    assert_eq!(letters(&*store, &["one"], 0).await.len(), LETTERS_MAX);
    store.end_session("one").await.unwrap();
    assert!(letters(&*store, &["one"], 0).await.is_empty());
    assert_eq!(letters(&*store, &["two"], 0).await.len(), 1);
}
