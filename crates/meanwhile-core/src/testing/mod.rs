//! For tests: the in-memory store, a clock that tokio's paused time drives, and the suite every store must pass.

mod memory;
pub mod suite;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

pub use memory::MemoryStore;

use crate::clock::{Clock, Timestamp};

/// A clock that stands still until it is told to move.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    wall: AtomicI64,
    steady: AtomicI64,
    boots: AtomicU32,
}

impl Default for ManualClock {
    fn default() -> Self {
        let (wall, steady) = (AtomicI64::new(1_700_000_000_000_000), AtomicI64::new(5_000_000));
        ManualClock(Arc::new(Hands { wall, steady, boots: AtomicU32::new(1) }))
    }
}

impl ManualClock {
    /// Time goes by.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).expect("a test's step fits");
        self.0.wall.fetch_add(by, Ordering::SeqCst);
        self.0.steady.fetch_add(by, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock, forward or back by so many microseconds.
    pub fn jump_wall(&self, micros: i64) {
        self.0.wall.fetch_add(micros, Ordering::SeqCst);
    }

    /// The machine starts again, which takes no time: the steady clock begins anew.
    pub fn reboot(&self) {
        self.0.boots.fetch_add(1, Ordering::SeqCst);
        self.0.steady.store(1_000_000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.wall.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Timestamp {
        Timestamp(self.0.steady.load(Ordering::SeqCst))
    }

    fn boot(&self) -> String {
        format!("boot {}", self.0.boots.load(Ordering::SeqCst))
    }
}

/// A clock that goes with tokio's, so that `tokio::time::pause` drives it.
#[derive(Debug)]
pub struct TokioClock(tokio::time::Instant);

impl Default for TokioClock {
    fn default() -> Self {
        TokioClock(tokio::time::Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000_000).after(self.0.elapsed())
    }
}
