//! Several processes on one file. To SQLite a store is a process: they share nothing but the file.

#![expect(clippy::unwrap_used, reason = "what these functions expect is what is tested")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use meanwhile_core::artifact::Artifacts;
use meanwhile_core::engine::{Answered, Settings, Slots, Until, answer, wait};
use meanwhile_core::event::Actor;
use meanwhile_core::job::Progress;
use meanwhile_core::store::{Created, KeptSession, NewJob, Query};
use meanwhile_core::testing::suite::{json, new_job};
use meanwhile_core::{
    Attempt, Called, Clock, Durations, Engine, Executor, Handle, Json, Op, Outcome, RunContext, Status,
    Store, SystemClock, Timestamp,
};
use meanwhile_sqlite::SqliteStore;

const PATIENCE: Duration = Duration::from_secs(20);

fn store(path: &Path) -> SqliteStore {
    SqliteStore::new(path.to_owned(), Arc::new(SystemClock))
}

async fn create(store: &SqliteStore) -> Handle {
    let Created::New(job) = store.create(new_job("me", None)).await.unwrap() else { panic!("joined") };
    job.handle
}

/// Runs `process` so many times at once, each on a thread and a runtime of its own.
fn processes<T: Send>(count: usize, process: impl AsyncFn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(count);
    std::thread::scope(|scope| {
        let run = |number| {
            let (start, process) = (&start, &process);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                start.wait();
                runtime.block_on(process(number))
            })
        };
        let threads: Vec<_> = (0..count).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

async fn until_ended(store: &SqliteStore, handle: Handle) -> Status {
    let mut changes = store.changes().of(handle);
    let ended = async {
        loop {
            let status = store.job(handle).await.unwrap().unwrap().status;
            if status.is_terminal() {
                return status;
            }
            changes.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("woken")
}

#[tokio::test]
async fn a_change_by_another_process_wakes_who_waits_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let (here, there) = (store(&path), store(&path));
    for _ in 0..20 {
        let handle = create(&here).await;
        let cancel = async { there.apply(handle, Op::Cancel { by: Actor::User }).await.unwrap().status };
        assert_eq!(tokio::join!(until_ended(&here, handle), cancel).0, Status::Cancelled);
    }
}

#[tokio::test]
async fn a_change_by_another_process_wakes_nobody_whom_it_does_not_concern() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let (here, there) = (store(&path), store(&path));
    let (one, other) = (create(&here).await, create(&here).await);
    there.open().await.unwrap();
    let (mut of_one, mut of_other) = (here.changes().of(one), here.changes().of(other));
    let mut of_sessions = here.changes().of_sessions();
    let note = || Op::Note { by: Actor::User, message: "a sign".to_owned() };
    let session = KeptSession {
        key: "key".to_owned(),
        owner: "ann".to_owned(),
        place: "files".to_owned(),
        opening: json("{}"),
    };
    // What comes after a renewal, a lesson and a session is noticed after them, or with them.
    for _ in 0..5 {
        there.renew(&"nobody".to_owned(), PATIENCE).await.unwrap();
        there.learn("server", "tool", &Durations::default()).await.unwrap();
        there.keep_session(&session).await.unwrap();
        there.apply(one, note()).await.unwrap();
        tokio::time::timeout(PATIENCE, of_one.changed()).await.expect("woken");
    }
    assert!(!of_sessions.take_change());
    let id = there.leave_letter("key", &json("1")).await.unwrap();
    tokio::time::timeout(PATIENCE, of_sessions.changed()).await.expect("woken");
    assert_eq!(here.letters(&["key".to_owned()], 0).await.unwrap()[0].id, id);
    there.end_session("key").await.unwrap();
    tokio::time::timeout(PATIENCE, of_sessions.changed()).await.expect("woken");
    assert!(here.session("key").await.unwrap().is_none());
    assert!(!of_one.take_change() && !of_other.take_change());
}

#[tokio::test]
async fn a_change_without_a_flush_is_noticed_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let (here, there) = (store(&path), store(&path));
    let handle = create(&here).await;
    there.apply(handle, Op::Claim { peer: "one".to_owned(), lease: PATIENCE }).await.unwrap();
    let mut changes = here.changes().of(handle);
    let progress = Progress { progress: 1.0, ..Progress::default() };
    there.apply(handle, Op::Progress { attempt: 1, progress }).await.unwrap();
    let seen = async {
        while here.job(handle).await.unwrap().unwrap().progress.is_none() {
            changes.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("woken");
}

#[tokio::test]
async fn the_log_may_go_and_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let here = store(&path);
    let handle = create(&here).await;
    // Another program that is done with the file moves the log into it, and cuts it off.
    let sql = rusqlite::Connection::open(&path).unwrap();
    sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let there = store(&path);
    there.open().await.unwrap();
    let cancel = there.apply(handle, Op::Cancel { by: Actor::User });
    let (status, cancelled) = tokio::join!(until_ended(&here, handle), cancel);
    assert_eq!(status, cancelled.unwrap().status);
}

#[tokio::test]
async fn a_person_with_a_shell_is_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let here = store(&path);
    let handle = create(&here).await;
    let mut changes = here.changes().of(handle);
    let sql = rusqlite::Connection::open(&path).unwrap();
    sql.execute("UPDATE job SET message = 'hello'", []).unwrap();
    tokio::time::timeout(PATIENCE, changes.changed()).await.expect("woken");
    assert_eq!(here.job(handle).await.unwrap().unwrap().message.as_deref(), Some("hello"));
}

#[tokio::test]
async fn a_person_with_a_shell_is_heard_also_after_our_own_renewals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let here = store(&path);
    let handle = create(&here).await;
    let mut changes = here.changes().of(handle);
    here.renew(&"one".to_owned(), PATIENCE).await.unwrap();
    let sql = rusqlite::Connection::open(&path).unwrap();
    sql.execute("UPDATE job SET message = 'hello'", []).unwrap();
    tokio::time::timeout(PATIENCE, changes.changed()).await.expect("woken");
}

/// A clock that can be set.
struct SetBack(AtomicI64);

impl Clock for SetBack {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 - self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn a_change_after_our_own_renewal_is_noticed_also_when_the_clock_was_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let clock = Arc::new(SetBack(0.into()));
    let [here, there] = [(); 2].map(|()| SqliteStore::new(path.clone(), clock.clone()));
    let handle = create(&here).await;
    there.open().await.unwrap();
    clock.0.store(3_600_000_000, Ordering::Relaxed);
    let mut changes = here.changes().of(handle);
    here.renew(&"one".to_owned(), PATIENCE).await.unwrap();
    there.apply(handle, Op::Cancel { by: Actor::User }).await.unwrap();
    tokio::time::timeout(PATIENCE, changes.changed()).await.expect("woken");
}

#[test]
fn many_processes_may_make_the_file_at_once() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("new/jobs.db");
        let handles = processes(8, async |_| create(&store(&path)).await);
        let listed =
            processes(1, async |_| store(&path).list(&Query { limit: 100, ..Query::default() }).await);
        assert_eq!(listed[0].as_ref().unwrap().len(), handles.len());
    }
}

#[test]
fn two_processes_never_see_a_locked_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let counts = processes(2, async |number| {
        let store = store(&path);
        let peer = format!("peer {number}");
        for round in 0..200 / 8 {
            let handle = create(&store).await;
            store.apply(handle, Op::Claim { peer: "one".to_owned(), lease: PATIENCE }).await.unwrap();
            let progress = Progress { progress: f64::from(round), ..Progress::default() };
            store.apply(handle, Op::Progress { attempt: 1, progress }).await.unwrap();
            store.renew(&peer, PATIENCE).await.unwrap();
            store.list(&Query { uncollected_first: true, limit: 50, ..Query::default() }).await.unwrap();
            let outcome = Outcome::Completed(json(&format!("\"{}\"", "x".repeat(20_000))));
            store.apply(handle, Op::Finish { attempt: 1, outcome }).await.unwrap();
            store.expire(10).await.unwrap();
            assert!(store.answer(handle).await.unwrap().is_some());
        }
        store.list(&Query { limit: 1000, ..Query::default() }).await.unwrap().len()
    });
    assert_eq!(counts.into_iter().max(), Some(50));
}

/// A tool that asks, and answers with what it is told.
struct Asker;

#[async_trait::async_trait]
impl Executor for Asker {
    async fn run(self: Arc<Self>, request: Json, context: RunContext) -> Attempt {
        match context.ask(vec![request]).await {
            Some(told) => Attempt::Answered(told[0].clone()),
            None => Attempt::Stopped("nobody answered".to_owned()),
        }
    }
}

#[tokio::test]
async fn an_answer_given_in_another_process_reaches_the_tool_that_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let (here, there) = (Arc::new(store(&path)), store(&path));
    let artifacts = Artifacts::new(folder.path().join("artifacts"));
    let settings =
        Settings { peer: "one".to_owned(), slots: Slots::new(9), lease: PATIENCE, answer_timeout: None };
    let engine = Engine::new(here.clone(), artifacts, Arc::new(Asker), settings);
    let NewJob { call, policy, .. } = new_job("me", None);
    let Called::Started(job) = engine.start(call, policy).await.unwrap() else { panic!("not started") };
    let waited = wait(&there, Some("me"), &[job.handle], Until::All, PATIENCE).await.unwrap();
    assert_eq!(waited[0].as_ref().unwrap().job.status, Status::InputRequired);
    let asked = there.inputs(job.handle).await.unwrap();
    let answers = vec![(asked[0].key.clone(), json(r#""told""#))];
    let said = answer(&there, Some("me"), job.handle, answers, Actor::User).await.unwrap();
    assert!(matches!(said, Answered::Done(_)), "{said:?}");
    assert_eq!(until_ended(&there, job.handle).await, Status::Completed);
    assert_eq!(there.answer(job.handle).await.unwrap().unwrap().get(), r#""told""#);
}
