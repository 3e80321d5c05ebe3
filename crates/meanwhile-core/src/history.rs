//! How long the calls of a tool take: what its suggested next poll and its inline budget are made of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::{Job, Status};
use crate::machine::Op;

/// Each bucket ends this much later than the one before it.
const FACTOR: f64 = 1.25;

/// The bucket of everything that takes longer than about a day. The first one ends at a millisecond.
const LAST: u8 = 83;

/// Fewer calls than this say nothing.
const CALLS_MIN: u64 = 3;

/// Past this many calls all counts are halved, so that what a tool did long ago is forgotten.
const CALLS_MAX: u64 = 1000;

/// How long calls took: a histogram whose buckets grow by a quarter, from a millisecond to more than a day.
///
/// As JSON it is an object of the buckets that are not empty, `{"34": 12, "35": 3}`: bucket `n` counts what took at most
/// 1.25ⁿ ms, and more than the bucket before it.
///
/// ```
/// # use std::time::Duration;
/// # use meanwhile_core::Durations;
/// let mut durations = Durations::default();
/// for seconds in [1, 2, 2, 60] {
///     durations.record(Duration::from_secs(seconds));
/// }
/// assert!(durations.quantile(0.5).unwrap() < Duration::from_secs(3));
/// assert!(durations.chance_within(Duration::from_secs(10)).unwrap() > 0.7);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<u8, u32>")]
pub struct Durations(BTreeMap<u8, u32>);

impl From<BTreeMap<u8, u32>> for Durations {
    fn from(counts: BTreeMap<u8, u32>) -> Durations {
        let mut durations = Durations::default();
        durations.merge(&Durations(counts));
        durations
    }
}

impl Durations {
    /// Counts one call.
    pub fn record(&mut self, took: Duration) {
        self.add(bucket(took), 1);
        self.forget();
    }

    /// Counts all calls of `other` as well.
    pub fn merge(&mut self, other: &Durations) {
        for (bucket, count) in &other.0 {
            self.add(*bucket, *count);
        }
        self.forget();
    }

    /// How many calls are remembered.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().map(|count| u64::from(*count)).sum()
    }

    /// The time within which this share of the calls (0 to 1) was done; `None` if too few are known to say.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.enough()?;
        let wanted = share.clamp(0.0, 1.0) * count;
        let mut before = 0.0;
        for (bucket, held) in &self.0 {
            let held = f64::from(*held);
            if before + held >= wanted {
                let part = ((wanted - before) / held).clamp(0.0, 1.0);
                return Some(millis(start(*bucket) + part * (end(*bucket) - start(*bucket))));
            }
            before += held;
        }
        self.0.keys().next_back().map(|last| millis(end(*last)))
    }

    /// The share of the calls (0 to 1) that were done within `wait`; `None` if too few are known to say.
    #[must_use]
    pub fn chance_within(&self, wait: Duration) -> Option<f64> {
        let count = self.enough()?;
        let wait = wait.as_secs_f64() * 1000.0;
        let within = |(bucket, held): (&u8, &u32)| {
            let (start, end) = (start(*bucket), end(*bucket));
            f64::from(*held) * ((wait - start) / (end - start)).clamp(0.0, 1.0)
        };
        Some((self.0.iter().map(within).sum::<f64>() / count).clamp(0.0, 1.0))
    }

    fn enough(&self) -> Option<f64> {
        let count = self.count();
        (count >= CALLS_MIN).then_some(count as f64)
    }

    fn add(&mut self, bucket: u8, count: u32) {
        let held = self.0.entry(bucket.min(LAST)).or_default();
        *held = held.saturating_add(count);
    }

    fn forget(&mut self) {
        while self.count() > CALLS_MAX {
            self.0.values_mut().for_each(|count| *count /= 2);
        }
        self.0.retain(|_, count| *count > 0);
    }
}

/// What `op`, which has just been done to `job`, teaches about its tool: how long a call took that completed. One that had to
/// wait for somebody's answers teaches nothing, nor does one whose work began before its attempt.
#[must_use]
pub fn lesson(op: &Op, job: &Job) -> Option<Duration> {
    let has_answered = matches!(op, Op::Finish { .. }) && job.status == Status::Completed;
    let was_found_again = job.attempt > 1 && job.upstream_task.is_some();
    let teaches = has_answered && job.questions == 0 && !was_found_again;
    job.started_at.zip(job.finished_at).filter(|_| teaches).map(|(start, end)| end.since(start))
}

fn bucket(took: Duration) -> u8 {
    let millis = (took.as_secs_f64() * 1000.0).max(1.0);
    // A float becomes the nearest number of a type, never nonsense.
    ((millis.ln() / FACTOR.ln()).ceil() as u8).min(LAST)
}

/// In milliseconds.
fn start(bucket: u8) -> f64 {
    if bucket == 0 { 0.0 } else { end(bucket - 1) }
}

/// In milliseconds.
fn end(bucket: u8) -> f64 {
    FACTOR.powi(i32::from(bucket.min(LAST)))
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis / 1000.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_millis(millis: &[u64]) -> Durations {
        let mut durations = Durations::default();
        millis.iter().for_each(|millis| durations.record(Duration::from_millis(*millis)));
        durations
    }

    #[test]
    fn too_few_calls_say_nothing() {
        let durations = of_millis(&[5, 5]);
        assert_eq!((durations.quantile(0.5), durations.chance_within(Duration::MAX)), (None, None));
        assert_eq!(durations.count(), 2);
        assert!(of_millis(&[5, 5, 5]).quantile(0.5).is_some());
    }

    #[test]
    fn the_shortest_and_the_longest_have_their_buckets() {
        let mut durations = Durations::default();
        for took in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            durations.record(took);
        }
        assert_eq!(serde_json::to_string(&durations).unwrap(), r#"{"0":2,"83":1}"#);
        assert!(end(LAST - 1) > 24.0 * 3600.0 * 1000.0, "a day has a bucket of its own");
        assert!(durations.quantile(1.0).unwrap() > Duration::from_secs(24 * 3600));
        assert!(durations.quantile(0.0).unwrap() < Duration::from_millis(1));
        assert_eq!(durations.chance_within(Duration::MAX), Some(1.0));
        assert_eq!(durations.chance_within(Duration::ZERO), Some(0.0));
    }

    #[test]
    fn what_a_tool_did_long_ago_is_forgotten() {
        let mut durations = of_millis(&[10; 1000]);
        assert_eq!(durations.count(), 1000);
        durations.record(Duration::from_secs(100));
        assert_eq!(durations.count(), 500, "one call that stands alone goes with the half");
        (0..2000).for_each(|_| durations.record(Duration::from_secs(100)));
        assert!(durations.quantile(0.3).unwrap() > Duration::from_secs(50));
        let mut both = durations.clone();
        (0..20).for_each(|_| both.merge(&durations));
        assert!(both.count() <= CALLS_MAX);
    }

    #[test]
    fn counts_that_nobody_could_have_counted_are_borne() {
        let text = format!(r#"{{"0":0,"3":{0},"4":{0},"255":{0}}}"#, u32::MAX);
        let mut durations: Durations = serde_json::from_str(&text).unwrap();
        durations.merge(&durations.clone());
        assert!(durations.count() <= CALLS_MAX);
        for share in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 0.5, 1.0, 7.0, f64::INFINITY] {
            assert!(durations.quantile(share).is_some());
        }
        assert!(durations.chance_within(Duration::from_millis(2)).unwrap() < 1.0);
    }

    /// Not shorter than a bucket is wide.
    fn some_calls() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![2..100u64, 100..10_000u64, 10_000..86_000_000u64], 3..200)
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_no_more_than_a_bucket(mut millis in some_calls(), share in 0.01..1.0f64) {
            let durations = of_millis(&millis);
            millis.sort_unstable();
            let place = (share * millis.len() as f64).ceil() as usize;
            let exact = millis[place.max(1) - 1] as f64 / 1000.0;
            let told = durations.quantile(share).unwrap().as_secs_f64();
            prop_assert!(told <= exact * 1.2501 && told >= exact / 1.2501, "{told} for {exact}");
        }

        #[test]
        fn a_chance_is_the_quantile_turned_round(millis in some_calls(), share in 0.01..1.0f64) {
            let durations = of_millis(&millis);
            let chance = durations.chance_within(durations.quantile(share).unwrap()).unwrap();
            prop_assert!((chance - share).abs() < 1e-6, "{chance} for {share}");
        }

        #[test]
        fn a_longer_wait_is_never_a_smaller_chance(millis in some_calls(), wait in 0..90_000_000u64, more in 0..9999u64) {
            let durations = of_millis(&millis);
            let chance = |millis| durations.chance_within(Duration::from_millis(millis)).unwrap();
            prop_assert!(chance(wait) <= chance(wait + more) + 1e-12);
        }

        #[test]
        fn merging_is_recording_both(one in some_calls(), other in some_calls()) {
            let mut merged = of_millis(&one);
            merged.merge(&of_millis(&other));
            prop_assert_eq!(&merged, &of_millis(&[one, other].concat()));
            let text = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(serde_json::from_str::<Durations>(&text).unwrap(), merged);
        }
    }
}
