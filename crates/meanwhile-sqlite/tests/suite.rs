//! The promises of every store.

#![expect(clippy::unwrap_used, reason = "what these functions expect is what is tested")]

use std::sync::Arc;

use meanwhile_core::Store;
use meanwhile_core::testing::ManualClock;
use meanwhile_sqlite::SqliteStore;

fn open(clock: ManualClock) -> (Arc<dyn Store>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Arc::new(SqliteStore::new(folder.path().join("jobs.db"), Arc::new(clock))), folder)
}

meanwhile_core::store_suite!(open);
