//! Samples, and what is said of them.

use std::time::Duration;

/// A handful of measurements of the same thing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Adds a time, in microseconds.
    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1e6);
    }

    pub(crate) fn extend(&mut self, others: &Samples) {
        self.0.extend_from_slice(&others.0);
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    /// The least and the most.
    pub(crate) fn range(&self) -> String {
        format!("{:.0} to {:.0}", self.quantile(0.0), self.quantile(1.0))
    }

    /// The smallest sample that is not below a share of them; 0 without samples.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// The median and the slow end of each round. Their medians are told, so that one bad moment of the machine is not.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    medians: Samples,
    slow: Samples,
}

impl Rounds {
    pub(crate) fn add(&mut self, round: &Samples) {
        self.medians.add(round.median());
        self.slow.add(round.p99());
    }

    pub(crate) fn p50(&self) -> f64 {
        self.medians.median()
    }

    pub(crate) fn p99(&self) -> f64 {
        self.slow.median()
    }

    /// How far the rounds were apart: two moods of the machine show here, where a median hides one of them.
    pub(crate) fn range_of_p50(&self) -> String {
        format!("{} µs", self.medians.range())
    }
}

/// Microseconds, to be read.
pub(crate) fn micros(time: f64) -> String {
    match time.abs() {
        size if size < 100.0 => format!("{time:.1} µs"),
        size if size < 10_000.0 => format!("{time:.0} µs"),
        _ => format!("{:.1} ms", time / 1e3),
    }
}

/// Microseconds on top of others.
pub(crate) fn added(time: f64) -> String {
    format!("{}{}", if time < 0.0 { "" } else { "+" }, micros(time))
}

/// A rate by the second.
pub(crate) fn per_second(rate: f64) -> String {
    format!("{rate:.0}/s")
}
