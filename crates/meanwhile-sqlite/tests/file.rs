//! One process and its file: what is kept, what is refused, what it costs.

#![expect(clippy::unwrap_used, reason = "what these functions expect is what is tested")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::event::Actor;
use meanwhile_core::job::Progress;
use meanwhile_core::store::{Created, NewJob, Query, TOMBSTONE};
use meanwhile_core::testing::ManualClock;
use meanwhile_core::testing::suite::{json, new_job};
use meanwhile_core::{Clock, Durations, Handle, Op, Outcome, Status, Store, StoreError, SystemClock};
use meanwhile_sqlite::SqliteStore;

fn store(path: &Path) -> SqliteStore {
    SqliteStore::new(path.to_owned(), Arc::new(SystemClock))
}

async fn create(store: &SqliteStore) -> Handle {
    let Created::New(job) = store.create(new_job("me", None)).await.unwrap() else { panic!("joined") };
    job.handle
}

#[tokio::test]
async fn nothing_touches_the_disk_before_the_first_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/meanwhile/jobs.db");
    let store = store(&path);
    let _subscription = store.changes().of_any();
    store.now();
    assert!(!folder.path().join("state").exists());
    assert!(store.list(&Query { limit: 1, ..Query::default() }).await.unwrap().is_empty());
    assert!(path.exists());
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_look() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/meanwhile/jobs.db");
    let store = store(&path);
    create(&store).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for made in [&folder.path().join("state"), &folder.path().join("state/meanwhile")] {
        assert_eq!(mode(made), 0o700, "{}", made.display());
    }
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", path.display());
        assert_eq!(mode(Path::new(&file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_store_that_is_opened_again_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let first = store(&path);
    let handle = create(&first).await;
    first.apply(handle, Op::Claim { peer: "one".to_owned(), lease: Duration::from_secs(9) }).await.unwrap();
    let progress =
        Progress { progress: 0.1, total: Some(1e300), message: Some("\u{0}é".to_owned()), verbatim: None };
    first.apply(handle, Op::Progress { attempt: 1, progress: progress.clone() }).await.unwrap();
    let answer = format!("{{\"text\": \"{}\", \"n\": 1.0}}", "ab\\n".repeat(20_000));
    let outcome = Outcome::Completed(json(&answer));
    let before = first.apply(handle, Op::Finish { attempt: 1, outcome }).await.unwrap();
    drop(first);

    let second = store(&path);
    let after = second.job(handle).await.unwrap().unwrap();
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
    assert_eq!(after.progress, Some(progress));
    assert_eq!(second.answer(handle).await.unwrap().unwrap().get(), answer);
    assert_eq!(second.events(handle, 0, 10).await.unwrap().len(), 4);
}

#[tokio::test]
async fn jobs_that_come_together_share_their_commits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(store(&folder.path().join("jobs.db")));
    store.open().await.unwrap();
    let creates: Vec<_> = (0..64)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { create(&store).await })
        })
        .collect();
    let mut handles = Vec::new();
    for one in creates {
        handles.push(one.await.unwrap());
    }
    assert!(store.commits() <= 16, "64 jobs took {} commits", store.commits());
    let query = Query { limit: 100, ..Query::default() };
    assert_eq!(store.list(&query).await.unwrap().len(), 64);
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(store(&folder.path().join("jobs.db")));
    store.open().await.unwrap();
    let mut changes = store.changes().of_any();
    let new = new_job("me", None);
    let handle = new.handle;
    {
        let mut create = store.create(new);
        std::future::poll_fn(|context| {
            let _ = create.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
    }
    tokio::time::timeout(Duration::from_secs(20), changes.changed())
        .await
        .expect("it is written all the same");
    assert_eq!(store.job(handle).await.unwrap().unwrap().status, Status::Queued);
}

#[tokio::test]
async fn a_newer_layout_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 9000").unwrap();
    let store = store(&path);
    let error = store.create(new_job("me", None)).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9000, known: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("upgrade meanwhile"), "{error}");
    assert!(matches!(store.job(Handle::random()).await, Err(StoreError::Newer { .. })));
    let sql = rusqlite::Connection::open(&path).unwrap();
    let tables: i64 = sql.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn a_file_of_the_first_layout_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../src/schema.sql")).unwrap();
    old.execute_batch("PRAGMA user_version = 1; INSERT INTO meta VALUES ('kept', 'as it was')").unwrap();
    drop(old);
    let store = store(&path);
    create(&store).await;
    assert_eq!(store.leave_letter("session", &json("1")).await.unwrap(), 1);
    let sql = rusqlite::Connection::open(&path).unwrap();
    let kept: String =
        sql.query_row("SELECT value FROM meta WHERE name = 'kept'", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, "as it was");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_an_error_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    std::fs::write(&file, "a file where a folder should be").unwrap();
    let store = store(&file.join("jobs.db"));
    for _ in 0..2 {
        let error = store.create(new_job("me", None)).await.unwrap_err();
        let StoreError::Failed { place, reason } = &error else { panic!("{error:?}") };
        assert!(place.contains("jobs.db") && reason.contains("set MEANWHILE_STATE_DIR"), "{error}");
        assert!(matches!(store.job(Handle::random()).await, Err(StoreError::Failed { .. })));
    }
    std::fs::remove_file(&file).unwrap();
    let handle = create(&store).await;
    assert!(store.job(handle).await.unwrap().is_some());
}

#[tokio::test]
async fn progress_does_not_disturb_what_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("jobs.db"));
    let handle = create(&store).await;
    store.apply(handle, Op::Claim { peer: "one".to_owned(), lease: Duration::from_secs(9) }).await.unwrap();
    for step in 0..50 {
        let progress = Progress { progress: f64::from(step), ..Progress::default() };
        store.apply(handle, Op::Progress { attempt: 1, progress }).await.unwrap();
        store.renew(&"one".to_owned(), Duration::from_secs(9)).await.unwrap();
    }
    store.apply(handle, Op::Cancel { by: Actor::User }).await.unwrap();
    let job = store.job(handle).await.unwrap().unwrap();
    assert_eq!(job.progress.unwrap().progress, 49.0);
    assert!(job.cancel_requested_at.is_some());
}

#[tokio::test]
async fn the_schema_explains_itself_to_whoever_opens_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    create(&store(&path)).await;
    let sql = rusqlite::Connection::open(&path).unwrap();
    let mut tables = sql
        .prepare("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        .unwrap();
    let tables: Vec<String> =
        tables.query_map([], |row| row.get(0)).unwrap().map(|schema| schema.unwrap()).collect();
    assert_eq!(tables.len(), 8);
    for schema in tables {
        let mut columns =
            schema.lines().filter(|line| line.starts_with("    ") && !line.contains("PRIMARY KEY ("));
        assert!(columns.all(|line| line.contains("--")), "{schema}");
    }
}

#[tokio::test]
async fn a_forgotten_job_leaves_nothing_in_any_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let clock = ManualClock::default();
    let store = SqliteStore::new(path.clone(), Arc::new(clock.clone()));
    let handle = create(&store).await;
    let started = NewJob { started_at: Some(clock.now()), ..new_job("me", None) };
    let asking = started.handle;
    store.create(started).await.unwrap();
    store.apply(asking, Op::Ask { attempt: 1, questions: vec![json("1")] }).await.unwrap();
    let outcome = Outcome::Completed(json("1"));
    store.apply(asking, Op::Finish { attempt: 1, outcome }).await.unwrap();
    store.apply(handle, Op::Cancel { by: Actor::User }).await.unwrap();
    clock.advance(TOMBSTONE);
    store.expire(10).await.unwrap();
    let mut changes = store.changes().of(handle);
    clock.advance(TOMBSTONE);
    store.expire(10).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), changes.changed())
        .await
        .expect("whoever follows it is told");
    let sql = rusqlite::Connection::open(&path).unwrap();
    for table in ["job", "payload", "input", "event"] {
        let rows: i64 =
            sql.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_read_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = store(&path);
    let mut durations = Durations::default();
    (0..3).for_each(|_| durations.record(Duration::from_secs(1)));
    store.learn("files", "render", &durations).await.unwrap();
    let sql = rusqlite::Connection::open(&path).unwrap();
    let kept: String = sql.query_row("SELECT durations FROM history", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, r#"{"31":3}"#, "as it is documented");
    sql.execute("UPDATE history SET durations = 'a novel'", []).unwrap();
    assert_eq!(store.durations("files", "render").await.unwrap(), Durations::default());
    store.learn("files", "render", &durations).await.unwrap();
    assert_eq!(store.durations("files", "render").await.unwrap(), durations);
}

#[cfg(unix)]
#[tokio::test]
async fn the_log_is_long_from_the_first_write_and_never_grows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(store(&folder.path().join("jobs.db")));
    let length = || std::fs::metadata(folder.path().join("jobs.db-wal")).unwrap().len();
    create(&store).await;
    // Served behind what the writer does after an answer.
    store.open().await.unwrap();
    let long = length();
    assert!(long > 4_000_000, "{long} bytes");
    let mut lines = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        lines.spawn(async move {
            for _ in 0..200 {
                create(&store).await;
            }
        });
    }
    lines.join_all().await;
    assert!(length() < long + long / 4, "{} bytes", length());
}
