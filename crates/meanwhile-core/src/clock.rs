//! Time, passed in: the only place of the crate that reads the system's clocks is [`SystemClock`].
//!
//! There are two. The **wall** clock says when something happened, for people, and may jump: somebody sets it, or the
//! network does. The **steady** clock never jumps, but means nothing beyond one boot of one machine. Leases go by it, so that
//! a jump of the wall clock neither frees a live one nor holds a dead one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: microseconds since the Unix epoch, or by the steady clock since some fixed point of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every other.
    pub const MIN: Timestamp = Timestamp(i64::MIN);

    /// This much later. Saturates at the end of time instead of wrapping.
    #[must_use]
    pub fn after(self, wait: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This much earlier. Saturates at the beginning of time instead of wrapping.
    #[must_use]
    pub fn before(self, wait: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to here; zero if `earlier` is in fact later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.0 / 1000
    }
}

/// One instant by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When it is: for everything that is told, and for what is kept for days.
    pub wall: Timestamp,
    /// How far the steady clock is: for leases alone.
    pub steady: Timestamp,
}

/// Where the time comes from. A store has one, and the expiry of leases and results goes by it.
pub trait Clock: Send + Sync + 'static {
    /// The time now, by the wall clock.
    fn now(&self) -> Timestamp;

    /// The time since some fixed point of this boot. It never jumps, and stands still while the machine sleeps.
    /// All processes of one boot agree on it.
    fn steady(&self) -> Timestamp {
        self.now()
    }

    /// A name for this boot of the machine: with another one the steady clock began anew. Empty if it cannot be known.
    fn boot(&self) -> String {
        String::new()
    }

    /// Now, by both clocks.
    fn moment(&self) -> Moment {
        Moment { wall: self.now(), steady: self.steady() }
    }
}

/// The system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    #[cfg(unix)]
    fn steady(&self) -> Timestamp {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Timestamp(since_boot.tv_sec.saturating_mul(1_000_000).saturating_add(since_boot.tv_nsec / 1000))
    }

    /// Linux names its boots; elsewhere it cannot be known.
    fn boot(&self) -> String {
        let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        name.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_clock_never_goes_back_and_means_a_time_of_this_boot() {
        let (one, other) = (SystemClock.moment(), SystemClock.moment());
        assert!(one.steady <= other.steady);
        assert_eq!(SystemClock.boot(), SystemClock.boot());
        #[cfg(target_os = "linux")]
        assert!(!SystemClock.boot().is_empty() && one.steady < one.wall);
    }

    #[test]
    fn times_stop_at_the_ends_of_time() {
        assert_eq!(Timestamp(5).after(Duration::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp(-9).before(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp(5).since(Timestamp(6)), Duration::ZERO);
    }
}
