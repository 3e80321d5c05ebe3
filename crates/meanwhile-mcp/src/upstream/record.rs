//! What a server has shown of itself in this process, to whichever session: of which era it is, and whether it comes up. Each
//! session begins anew, and would else ask again, and start again what has just failed for another one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::UpstreamError;

/// The first pause before a dead server is started again; it doubles with each start that fails.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long a server is left alone that has failed so many times on end.
pub(super) fn pause_after(failures: u32) -> Duration {
    let Some(doubled) = failures.checked_sub(1) else { return Duration::ZERO };
    PAUSE_FIRST.saturating_mul(1 << doubled.min(16)).min(PAUSE_MAX)
}

#[derive(Debug, Default)]
pub(super) struct Record {
    /// Whether it is known for a legacy server. One that does not answer the question would be waited for each time.
    is_legacy: AtomicBool,
    failures: Mutex<Option<Failures>>,
}

/// The starts that have failed since one worked.
#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
    why: UpstreamError,
    /// When the next start may be.
    next: Instant,
}

impl Record {
    pub(super) fn is_legacy(&self) -> bool {
        self.is_legacy.load(Ordering::Relaxed)
    }

    /// It has taken, or refused, what only a legacy server takes.
    pub(super) fn shows_legacy(&self, is_legacy: bool) {
        self.is_legacy.store(is_legacy, Ordering::Relaxed);
    }

    /// A start that was begun then has failed. Those that were under way at once are one failure: none knew of the other.
    pub(super) fn failed(&self, began: Instant, why: UpstreamError) {
        let (now, mut failures) = (Instant::now(), self.failures());
        let known = failures.as_ref();
        if known.is_some_and(|known| began < known.last) {
            return;
        }
        let count = known.map_or(1, |known| known.count.saturating_add(1));
        *failures = Some(Failures { count, last: now, why, next: now + pause_after(count) });
    }

    /// It has said who it is.
    pub(super) fn came_up(&self) {
        *self.failures() = None;
    }

    /// Why it is not started now, if it is not.
    pub(super) fn held_off(&self) -> Option<UpstreamError> {
        let failures = self.failures();
        let failures = failures.as_ref()?;
        let left = failures.next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(UpstreamError::HeldOff { why: failures.why.to_string(), seconds: left.as_secs() + 1 })
    }

    /// Takes the turn to start it. While it is not known whether that works the others leave it alone for another pause.
    pub(super) fn take_turn(&self) -> Result<(), UpstreamError> {
        if let Some(error) = self.held_off() {
            return Err(error);
        }
        if let Some(failures) = &mut *self.failures() {
            failures.next = Instant::now() + pause_after(failures.count);
        }
        Ok(())
    }

    /// When it may be started again.
    pub(super) fn next_start(&self) -> Option<Instant> {
        self.failures().as_ref().map(|failures| failures.next)
    }

    fn failures(&self) -> MutexGuard<'_, Option<Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> UpstreamError {
        UpstreamError::Lost { reason: "it ended".to_owned() }
    }

    #[test]
    fn the_pauses_grow_and_have_an_end() {
        let pauses = [0, 1, 2, 3, 9, 10, u32::MAX].map(|failures| pause_after(failures).as_millis());
        assert_eq!(pauses, [0, 100, 200, 400, 25_600, 30_000, 30_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_after_a_start_that_failed_is_told_why_and_one_of_them_tries_again() {
        let record = Record::default();
        for failures in 1..=3 {
            let began = Instant::now();
            assert!(record.take_turn().is_ok(), "try {failures}");
            record.failed(began, lost());
            let refused = record.take_turn().expect_err("too soon").to_string();
            assert!(refused.starts_with("it ended before it answered"), "{refused}");
            tokio::time::advance(pause_after(failures)).await;
        }
        assert!(record.take_turn().is_ok());
        assert!(record.take_turn().is_err(), "somebody is at it");
        record.came_up();
        assert!(record.take_turn().is_ok() && record.take_turn().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn starts_that_fail_at_once_are_one_failure() {
        let (record, began) = (Record::default(), Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..10 {
            record.failed(began, lost());
        }
        tokio::time::advance(pause_after(1)).await;
        assert!(record.take_turn().is_ok());
    }
}
