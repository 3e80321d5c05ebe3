//! A machine that starts again: the steady clock begins anew, so no lease of before may protect a job.

#![expect(clippy::unwrap_used, reason = "what these functions expect is what is tested")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::job::{FailureKind, Lease};
use meanwhile_core::store::Created;
use meanwhile_core::testing::ManualClock;
use meanwhile_core::testing::suite::new_job;
use meanwhile_core::{Clock, Handle, Op, Status, Store, Timestamp};
use meanwhile_sqlite::SqliteStore;

const LEASE: Duration = Duration::from_secs(3600);

fn store(path: &Path, clock: impl Clock) -> SqliteStore {
    SqliteStore::new(path.to_owned(), Arc::new(clock))
}

/// A job that an attempt runs, and one in the queue.
async fn two_jobs(store: &SqliteStore) -> [Handle; 2] {
    let mut handles = [Handle::random(); 2];
    for handle in &mut handles {
        let mut new = new_job("me", None);
        (*handle, new.handle, new.lease) = (new.handle, new.handle, LEASE);
        assert!(matches!(store.create(new).await.unwrap(), Created::New(_)));
    }
    store.apply(handles[0], Op::Claim { peer: "one".to_owned(), lease: LEASE }).await.unwrap();
    handles
}

async fn abandoned(store: &SqliteStore) -> Vec<Handle> {
    let mut handles: Vec<Handle> =
        store.abandoned(10).await.unwrap().into_iter().map(|job| job.handle).collect();
    handles.sort();
    handles
}

#[tokio::test]
async fn after_a_restart_of_the_machine_every_lease_is_void() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let clock = ManualClock::default();
    let before = store(&path, clock.clone());
    let mut handles = two_jobs(&before).await;
    drop(before);
    clock.reboot();

    let after = store(&path, clock.clone());
    handles.sort();
    assert_eq!(abandoned(&after).await, handles);
    for handle in handles {
        let job = after.apply(handle, Op::Abandon).await.unwrap();
        assert_eq!((job.status, job.failure.unwrap().kind), (Status::Failed, FailureKind::Interrupted));
    }
}

#[tokio::test]
async fn a_process_of_the_same_boot_leaves_all_leases_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let clock = ManualClock::default();
    let before = store(&path, clock.clone());
    two_jobs(&before).await;
    clock.reboot();
    let first = store(&path, clock.clone());
    let [of_this_boot, _] = two_jobs(&first).await;
    let second = store(&path, clock.clone());
    assert_eq!(abandoned(&second).await.len(), 2, "those of the boot before");
    assert!(second.apply(of_this_boot, Op::Abandon).await.is_err(), "a live lease protects");
}

/// A machine that does not name its boots.
struct Nameless(ManualClock);

impl Clock for Nameless {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn steady(&self) -> Timestamp {
        self.0.steady()
    }
}

#[tokio::test]
async fn where_boots_have_no_names_no_lease_outlasts_the_longest_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let clock = ManualClock::default();
    clock.advance(Lease::MAX * 30);
    let before = store(&path, Nameless(clock.clone()));
    let mut handles = two_jobs(&before).await;
    let neighbour = store(&path, Nameless(clock.clone()));
    assert!(abandoned(&neighbour).await.is_empty());
    drop((before, neighbour));
    clock.reboot();
    handles.sort();
    assert_eq!(abandoned(&store(&path, Nameless(clock))).await, handles);
}
