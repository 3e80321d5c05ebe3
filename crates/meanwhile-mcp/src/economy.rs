//! What waiting is worth: how long a call is waited for inline, when a poll is worth repeating, how eager polling is slowed,
//! and when a job has been silent for too long. All of it is pure, and goes by how long the tool's calls took before.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use meanwhile_core::{Durations, Handle, Job, Progress, Status, Timestamp};

/// How long a call is waited for, unless its user has said so, or its tool's history.
pub const INLINE_BUDGET: Duration = Duration::from_secs(2);
/// Fewer calls than this decide nothing about a budget.
const CALLS_MIN: u64 = 5;
/// A call that ends in time less often than this is not waited for.
const HOPELESS: f64 = 0.1;
/// So many times what nearly all calls of a tool took it is waited for, and no longer: then the call is not one of those.
const TIMES_USUAL: u32 = 2;
/// What is left of the client's patience for the answer's own way.
const SHARE: f64 = 0.9;

/// A poll that waits less than this is eager.
pub const EAGER: Duration = Duration::from_secs(1);
/// So many eager polls of an unchanged job are answered at once.
const EAGER_FREE: u32 = 2;
/// A slowed poll waits at most so long.
const SLOWED_MAX: Duration = Duration::from_secs(10);
/// Of how many jobs the eager polls are counted; the oldest are forgotten.
const COUNTED_MAX: usize = 256;

/// A job without any sign of life for this long is silent, unless its tool is known to take longer.
pub const SILENCE: Duration = Duration::from_secs(10 * 60);

/// How long a call is waited for before it becomes a job: not at all where its tool's history says that it would be in
/// vain, else as long as its user has set, or else longer than usual, if the client survives it, where the call will most likely
/// end by then.
#[must_use]
pub fn inline_budget(history: &Durations, set: Option<Duration>, survives: Duration) -> Duration {
    let budget = set.unwrap_or(INLINE_BUDGET);
    if history.count() < CALLS_MIN {
        return budget;
    }
    let most = survives.mul_f64(SHARE);
    match (history.chance_within(survives), history.quantile(0.9)) {
        (Some(chance), _) if chance < HOPELESS => Duration::ZERO,
        (_, Some(nearly_all)) if set.is_none() && nearly_all <= most => {
            most.min(budget.max(TIMES_USUAL * nearly_all))
        }
        _ => budget,
    }
}

/// When it is worth asking again: what most calls of the tool had left at this point, else what is left by the job's own
/// progress, or half of what it has taken so far.
#[must_use]
pub fn poll_after(job: &Job, history: &Durations, now: Timestamp) -> Duration {
    let so_far = job.ran_for(now);
    let usual =
        history.quantile(0.75).and_then(|usual| usual.checked_sub(so_far)).filter(|left| !left.is_zero());
    let left = usual.unwrap_or_else(|| match &job.progress {
        Some(Progress { progress, total: Some(total), .. }) if *progress > 0.0 && total > progress => {
            so_far.mul_f64(((total - progress) / progress).min(1000.0))
        }
        _ => so_far / 2,
    });
    Duration::from_secs(left.as_secs().clamp(2, 60))
}

/// For how long a running job may show no sign of life before it is called silent.
#[must_use]
pub fn silence_allowed(history: &Durations) -> Duration {
    history.quantile(0.99).map_or(SILENCE, |longest| SILENCE.max(3 * longest))
}

/// Whether a job has been silent for too long. One that waits for its turn, or is held, has nothing to say.
#[must_use]
pub fn is_silent(job: &Job, history: &Durations, now: Timestamp) -> bool {
    job.status == Status::Working && now.since(job.updated_at) > silence_allowed(history)
}

/// What a poll would say of a job that is new: no time is part of it, for time always passes.
#[must_use]
pub fn news(job: &Job) -> String {
    let progress =
        job.progress.as_ref().map(|progress| (progress.progress, progress.total, &progress.message));
    format!("{} {} {:?} {progress:?}", job.status.name(), job.attempt, job.message)
}

/// Counts polls that do not wait, of jobs that do not change.
#[derive(Debug, Default)]
pub struct EagerPolls {
    counted: HashMap<Handle, (String, u32)>,
    order: VecDeque<Handle>,
}

impl EagerPolls {
    /// Counts an eager poll of an unfinished job, and returns how long it is to wait for news.
    pub fn slowed(&mut self, job: &Job) -> Duration {
        let news = news(job);
        let known = self.counted.get(&job.handle).filter(|(before, _)| *before == news);
        let count = known.map_or(1, |(_, count)| count.saturating_add(1));
        if self.counted.insert(job.handle, (news, count)).is_none() {
            self.order.push_back(job.handle);
            if self.order.len() > COUNTED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.counted.remove(&oldest);
            }
        }
        match count.checked_sub(EAGER_FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => Duration::from_secs(1 << doublings.min(4)).min(SLOWED_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meanwhile_core::clock::Moment;
    use meanwhile_core::store::NewJob;
    use meanwhile_core::{Call, Policy};

    const SECOND: Duration = Duration::from_secs(1);
    const START: Timestamp = Timestamp(0);

    fn calls(seconds: &[u64]) -> Durations {
        let mut durations = Durations::default();
        seconds.iter().for_each(|seconds| durations.record(Duration::from_secs(*seconds)));
        durations
    }

    fn at(seconds: u32) -> Timestamp {
        START.after(seconds * SECOND)
    }

    /// A job that began at the start.
    fn job() -> Job {
        let call = Call {
            scope: "me".to_owned(),
            server: "studio".to_owned(),
            tool: "render".to_owned(),
            request: crate::message::to_json(&serde_json::json!({})),
            join_key: None,
            retry_key: None,
            conversation: None,
        };
        let policy = Policy { rerun: false, timeout: None, ttl: SECOND };
        let (handle, peer) = (Handle::random(), "peer".to_owned());
        let new = NewJob {
            handle,
            call,
            policy,
            peer,
            lease: SECOND,
            started_at: Some(START),
            lost: vec![],
            upstream_task: None,
            joins: false,
        };
        new.written(Moment { wall: START, steady: START }).0
    }

    #[test]
    fn a_budget_learns_both_ways_and_only_from_enough_calls() {
        let budget = |seconds: &[u64]| inline_budget(&calls(seconds), None, 25 * SECOND);
        assert_eq!(budget(&[]), 2 * SECOND);
        assert_eq!(budget(&[100, 100, 100, 100]), 2 * SECOND, "too few to say");
        assert_eq!(budget(&[100, 200, 300, 100, 90]), Duration::ZERO, "waiting is in vain");
        let nearly_all = calls(&[5, 6, 7, 8, 6]).quantile(0.9).unwrap();
        assert_eq!(budget(&[5, 6, 7, 8, 6]), 2 * nearly_all, "it will be done in time");
        assert_eq!(budget(&[15, 16, 17, 18, 16]), (25 * SECOND).mul_f64(0.9), "or its client is gone");
        assert_eq!(budget(&[0, 0, 0, 0, 0]), 2 * SECOND);
        assert_eq!(budget(&[1, 1, 60, 60, 60]), 2 * SECOND, "who knows");
        let set = |seconds: &[u64]| inline_budget(&calls(seconds), Some(SECOND), 25 * SECOND);
        assert_eq!(set(&[5, 6, 7, 8, 6]), SECOND, "it is the user's word");
        assert_eq!(set(&[100, 200, 300, 100, 90]), Duration::ZERO);
    }

    #[test]
    fn the_next_poll_is_suggested_by_history_then_by_progress_then_by_age() {
        let mut job = job();
        let usual = calls(&[40, 40, 40, 40]);
        let after = poll_after(&job, &usual, at(10));
        assert!((22..=35).contains(&after.as_secs()), "as finely as durations are remembered: {after:?}");
        assert!(poll_after(&job, &usual, at(36)) < 10 * SECOND);
        assert_eq!(poll_after(&job, &Durations::default(), at(10)).as_secs(), 5);
        assert_eq!(poll_after(&job, &usual, at(600)).as_secs(), 60, "longer than ever: by age");
        job.progress = Some(Progress { progress: 1.0, total: Some(4.0), ..Progress::default() });
        assert_eq!(poll_after(&job, &Durations::default(), at(10)).as_secs(), 30);
    }

    #[test]
    fn only_a_running_job_falls_silent_and_later_where_its_tool_takes_long() {
        let mut job = job();
        let none = Durations::default();
        assert!(!is_silent(&job, &none, at(599)) && is_silent(&job, &none, at(601)));
        let slow = calls(&[3600, 3600, 3600]);
        assert!(!is_silent(&job, &slow, at(2 * 3600)) && is_silent(&job, &slow, at(4 * 3600)));
        job.updated_at = at(300);
        assert!(!is_silent(&job, &none, at(601)), "it has shown a sign of life");
        job.status = Status::Queued;
        assert!(!is_silent(&job, &none, at(100_000)));
    }

    #[test]
    fn polls_that_do_not_wait_are_slowed_until_there_is_news() {
        let (mut polls, mut job) = (EagerPolls::default(), job());
        let mut seconds = |job: &Job| polls.slowed(job).as_secs();
        let slowed: Vec<u64> = (0..8).map(|_| seconds(&job)).collect();
        assert_eq!(slowed, [0, 0, 1, 2, 4, 8, 10, 10]);
        job.updated_at = at(5);
        assert_eq!(seconds(&job), 10, "time alone is no news");
        job.progress = Some(Progress { progress: 0.5, ..Progress::default() });
        assert_eq!(seconds(&job), 0);
    }

    #[test]
    fn only_so_many_jobs_are_counted() {
        let mut polls = EagerPolls::default();
        for _ in 0..3 * COUNTED_MAX {
            polls.slowed(&job());
        }
        assert!(polls.counted.len() <= COUNTED_MAX && polls.order.len() <= COUNTED_MAX);
    }
}
