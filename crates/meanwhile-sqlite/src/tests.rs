//! What only an insider can bring about: a database that breaks, writes that come at the same time, looks.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use meanwhile_core::store::{Created, Query};
use meanwhile_core::testing::suite::{json, new_job};
use meanwhile_core::{Clock, Handle, Store, StoreError, SystemClock, Timestamp};

use super::SqliteStore;
use super::writer::{Call, Command, Tx};

struct Opened {
    store: SqliteStore,
    _folder: tempfile::TempDir,
}

fn open() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::new(folder.path().join("jobs.db"), Arc::new(SystemClock));
    Opened { store, _folder: folder }
}

async fn run(store: &SqliteStore, text: &'static str) -> Result<(), StoreError> {
    store.write(false, move |tx| tx.sql.execute_batch(text).map(Ok)).await
}

async fn create(store: &SqliteStore) -> Result<Handle, StoreError> {
    store.create(new_job("me", None)).await.map(|created| match created {
        Created::New(job) | Created::Joined(job) => job.handle,
    })
}

#[tokio::test]
async fn a_full_disk_fails_what_does_not_fit_and_nothing_else() {
    let Opened { store, _folder } = open();
    let before = create(&store).await.unwrap();
    run(&store, "PRAGMA max_page_count = 1").await.unwrap();
    let mut large = new_job("me", None);
    large.call.request = json(&format!("\"{}\"", "x".repeat(1 << 20)));
    let handle = large.handle;
    let error = store.create(large.clone()).await.unwrap_err();
    assert!(error.to_string().contains("the disk is full: free some space"), "{error}");
    assert!(store.job(handle).await.unwrap().is_none(), "nothing is half done");
    assert!(store.job(before).await.unwrap().is_some());
    run(&store, "PRAGMA max_page_count = 1000000").await.unwrap();
    store.create(large).await.unwrap();
    assert!(store.job(handle).await.unwrap().is_some(), "the store goes on");
}

/// Keeps the writer busy until the sender is used or gone, so that what comes meanwhile comes together.
async fn hold(store: &SqliteStore) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let (began, begun) = tokio::sync::oneshot::channel();
    let mut began = Some(began);
    let (reply, _) = tokio::sync::oneshot::channel();
    let work = move |_: &mut Tx<'_>| {
        let _ = began.take().map(|began| began.send(()));
        let _ = released.recv();
        Ok(Ok(()))
    };
    let call = Call { is_lazy: false, work, found: None, runtime: None, reply };
    store.tell(Command::Write(Box::new(call))).await.unwrap();
    begun.await.unwrap();
    release
}

#[tokio::test]
async fn what_comes_during_a_commit_shares_the_next_one() {
    let Opened { store, _folder } = open();
    let release = hold(&store).await;
    let before = store.commits();
    let creates = async { tokio::join!(create(&store), create(&store), create(&store)) };
    let (created, ()) = tokio::join!(creates, async { drop(release) });
    assert!(created.0.is_ok() && created.1.is_ok() && created.2.is_ok());
    assert_eq!(store.commits(), before + 2, "the one that was held, and one for the three");
}

#[tokio::test]
async fn a_write_that_breaks_takes_no_other_of_its_batch_with_it() {
    let Opened { store, _folder } = open();
    let release = hold(&store).await;
    let broken = run(&store, "INSERT INTO nowhere VALUES (1)");
    let writes = async { tokio::join!(create(&store), broken, create(&store)) };
    let ((one, broken, other), ()) = tokio::join!(writes, async { drop(release) });
    assert!(broken.unwrap_err().to_string().contains("nowhere"));
    for handle in [one.unwrap(), other.unwrap()] {
        assert_eq!(store.events(handle, 0, 10).await.unwrap().len(), 1, "done once, though tried twice");
    }
}

#[tokio::test]
async fn only_the_writes_of_others_wake_everybody() {
    let Opened { store, _folder } = open();
    let bystander = create(&store).await.unwrap();
    let mut changes = store.changes().of(bystander);
    let look = async || {
        store.tell(Command::Look).await.unwrap();
        // A second write comes after the look, even if the first came with it.
        for _ in 0..2 {
            create(&store).await.unwrap();
        }
    };
    look().await;
    assert!(tokio::time::timeout(Duration::ZERO, changes.changed()).await.is_err(), "our own wake nobody");
    let other = rusqlite::Connection::open(store.path()).unwrap();
    other.execute_batch("UPDATE job SET message = 'hello'").unwrap();
    look().await;
    assert!(tokio::time::timeout(Duration::ZERO, changes.changed()).await.is_ok());
}

/// A clock that tells of its end, which is that of whoever holds it.
struct LastBreath(mpsc::Sender<()>);

impl Clock for LastBreath {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}

impl Drop for LastBreath {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_dropped_store_ends_its_threads_and_puts_the_log_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let (ended, end) = mpsc::channel();
    let store = SqliteStore::new(path.clone(), Arc::new(LastBreath(ended)));
    let handle = create(&store).await.unwrap();
    store.job(handle).await.unwrap();
    store.list(&Query { limit: 1, ..Query::default() }).await.unwrap();
    let log = PathBuf::from(format!("{}-wal", path.display()));
    assert!(log.exists());
    drop(store);
    end.recv_timeout(Duration::from_secs(20)).expect("all threads have ended");
    assert!(!log.exists());
}

#[tokio::test]
async fn a_store_that_stays_locked_says_so_and_recovers() {
    let Opened { store, _folder } = open();
    store.open().await.unwrap();
    let other = rusqlite::Connection::open(store.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = create(&store).await.unwrap_err();
    assert!(error.to_string().contains("another program has kept it locked"), "{error}");
    other.execute_batch("COMMIT").unwrap();
    create(&store).await.unwrap();
}

#[tokio::test]
async fn an_event_of_a_newer_program_is_told_as_a_note() {
    let Opened { store, _folder } = open();
    let handle = create(&store).await.unwrap();
    run(&store, "UPDATE event SET kind = 'teleported', detail = '{\"to\": \"mars\"}'").await.unwrap();
    let log = store.events(handle, 0, 10).await.unwrap();
    let message = "teleported {\"to\": \"mars\"}".to_owned();
    assert_eq!(log[0].kind, meanwhile_core::EventKind::Noted { message });
}

#[tokio::test]
async fn a_damaged_file_is_named_with_what_to_do() {
    let Opened { store, _folder } = open();
    std::fs::write(store.path(), "this is not a database, however long you look at it ".repeat(100)).unwrap();
    let error = store.open().await.unwrap_err();
    assert!(error.to_string().contains("not a job store: move it away"), "{error}");
    std::fs::remove_file(store.path()).unwrap();
    create(&store).await.unwrap();
}

#[test]
fn who_asks_on_another_runtime_is_answered_while_the_first_one_stands_still() {
    let first = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let Opened { store, _folder } = open();
    first.block_on(store.open()).unwrap();
    let second = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    second.block_on(async {
        let release = hold(&store).await;
        let creates = async { tokio::join!(create(&store), create(&store)) };
        let both = async { tokio::join!(creates, async { drop(release) }) };
        let ((one, other), ()) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("answered");
        assert!(one.is_ok() && other.is_ok());
    });
}

#[test]
fn what_a_runtime_that_ends_was_to_answer_is_answered() {
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let first = runtime();
    let Opened { store, _folder } = open();
    first.block_on(store.open()).unwrap();
    let at = Some(first.handle().id());
    let answers = runtime().block_on(async {
        let release = hold(&store).await;
        let mut answers = Vec::new();
        for _ in 0..2 {
            let (reply, answer) = tokio::sync::oneshot::channel();
            let call =
                Call { is_lazy: true, work: |_: &mut Tx<'_>| Ok(Ok(())), found: None, runtime: at, reply };
            store.tell(Command::Write(Box::new(call))).await.unwrap();
            answers.push(answer);
        }
        drop(release);
        // Behind them, and once more behind what came with them.
        create(&store).await.unwrap();
        store.open().await.unwrap();
        answers
    });
    drop(first);
    for answer in answers {
        answer.blocking_recv().expect("answered").unwrap();
    }
}
