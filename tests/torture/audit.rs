//! The reckoning: once the storm is over, every promise is looked into.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use crate::client::{Stage, poll};
use crate::ledger::{Job, Ledger, Outcome};
use crate::place::{GLANCE, Start};
use crate::session::{Heard, Leave, Session};

/// How long after the storm the last job may take to end: the longest lingering, a lease, and pauses of a commit that failed.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// How long after that the last process may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How often a call that is safe to repeat is tried for each time that it was asked for, as `engine::ATTEMPTS_MAX` has it.
const ATTEMPTS_MAX: usize = 3;

/// Polls every handle until its job has ended, and returns how long after the storm the last one did.
pub(crate) async fn settle(stage: &Stage) -> Duration {
    let began = Instant::now();
    let mut session = Session::start(&stage.place, &Start { handle_mode: false, linger: "1s", stays: true });
    if !matches!(session.initialize().await, Heard::Result(_)) {
        stage.ledger().violation(format!("the last session did not begin: {:?}", session.stderr()));
        return began.elapsed();
    }
    let mut last = Duration::ZERO;
    let unfinished = stage.ledger().handles(true);
    for handle in unfinished {
        while poll(&mut session, stage, &handle, 500).await
            && stage.ledger().jobs[&handle].outcome.is_none()
            && began.elapsed() < SETTLED_WITHIN
        {}
        last = began.elapsed();
    }
    // What ended in the storm is seen to have stayed as it was.
    let all = stage.ledger().handles(false);
    for handle in all {
        poll(&mut session, stage, &handle, 0).await;
    }
    let unfinished = stage.ledger().handles(true);
    for handle in unfinished {
        let events = events(stage, &handle).await;
        stage.ledger().violation(format!("{handle} has not ended within {SETTLED_WITHIN:?}:\n{events}"));
    }
    nothing_is_at_work(stage, began).await;
    drop(session.leave(Leave::Politely).await.wait().await);
    last
}

/// Also what no client was told of ends, as long as there is a session that can take it up.
async fn nothing_is_at_work(stage: &Stage, began: Instant) {
    loop {
        let output = stage.place.jobs(&["list", "--status", "working"]).output().await;
        let listed = String::from_utf8_lossy(&output.expect("meanwhile runs").stdout).into_owned();
        if listed == "No jobs.\n" {
            return;
        }
        if began.elapsed() > SETTLED_WITHIN {
            return stage.ledger().violation(format!("still at work after {SETTLED_WITHIN:?}:\n{listed}"));
        }
        tokio::time::sleep(GLANCE).await;
    }
}

async fn events(stage: &Stage, handle: &str) -> String {
    let output = stage.place.jobs(&["events", handle]).output().await.expect("meanwhile runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until every process of the run is gone.
pub(crate) async fn all_gone(stage: &Stage) {
    stage.all_parted().await;
    for left in stage.place.emptied(GONE_WITHIN).await {
        let what = format!("{:?} {:?} is still there: {}", left.role, left.pid, left.command());
        stage.ledger().violation(what);
        left.kill();
    }
}

/// Counts the jobs that were taken from a process which nobody had hurt, while nobody was frozen: a machine under load may
/// let a lease run out, but that should be rare.
pub(crate) async fn needless_losses(stage: &Stage) {
    let suspects: Vec<String> = {
        let ledger = stage.ledger();
        let lost = |job: &Job| job.lost_with_its_keeper || ledger.calls[&job.token].safe;
        ledger.jobs.iter().filter(|(_, job)| lost(job)).map(|(handle, _)| handle.clone()).collect()
    };
    for handle in suspects {
        let output = stage.place.jobs(&["events", &handle, "--json"]).output().await.expect("meanwhile runs");
        let told: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let unhurt = |(keeper, at): &(i32, Timestamp)| {
            let ledger = stage.ledger();
            !ledger.hurt.contains(keeper) && !ledger.frozen.iter().any(|frozen| frozen.contains(at))
        };
        if let Some((keeper, _)) = robbed(&told).into_iter().find(unhurt) {
            let told = events(stage, &handle).await;
            let mut ledger = stage.ledger();
            ledger.count("taken from a keeper that nobody had hurt");
            ledger.oddities.push(format!("{handle} was taken from {keeper}, which nobody had hurt:\n{told}"));
        }
    }
}

/// The process ids of those that a job was taken from, and when.
fn robbed(events: &[Value]) -> Vec<(i32, Timestamp)> {
    let mut robbed = Vec::new();
    let mut holder: Option<i32> = None;
    for event in events {
        if let Some(peer) = event["peer"].as_str() {
            holder = peer.split(':').next().and_then(|pid| pid.parse().ok());
        }
        let why = event["reason"].as_str().or(event["message"].as_str()).unwrap_or_default();
        if why.starts_with("the peer that ran it is gone")
            || why.starts_with("the process that ran it is gone")
        {
            robbed.extend(holder.zip(event["at"].as_str().and_then(|at| at.parse().ok())));
        }
    }
    robbed
}

/// Compares what was promised with what the upstreams did.
pub(crate) async fn balance(stage: &Stage) {
    let effects = effects(&stage.place.log());
    stage.ledger().counts.insert("effects".to_owned(), effects.values().sum());
    stage.ledger().counts.insert("effects of different calls".to_owned(), effects.len());
    let doubtful = {
        let mut ledger = stage.ledger();
        let mut doubtful = too_many(&ledger, &effects);
        doubtful.extend(wrong_ends(&ledger, &effects));
        let again = ledger.calls.iter().filter(|(token, call)| ran(&effects, token) > call.asked).count();
        ledger.counts.insert("safe calls that were run again".to_owned(), again);
        doubtful
    };
    for (token, what) in doubtful {
        let mut report = what;
        for handle in handles_of(stage, &token) {
            report += &format!("\n{handle}\n{}", events(stage, &handle).await);
        }
        stage.ledger().violation(report);
    }
}

fn handles_of(stage: &Stage, token: &str) -> Vec<String> {
    let ledger = stage.ledger();
    ledger.jobs.iter().filter(|(_, job)| job.token == token).map(|(handle, _)| handle.clone()).collect()
}

fn effects(log: &str) -> BTreeMap<String, usize> {
    let mut effects = BTreeMap::new();
    for token in log.lines().filter_map(|line| line.strip_prefix("effect ")) {
        *effects.entry(token.to_owned()).or_default() += 1;
    }
    effects
}

fn ran(effects: &BTreeMap<String, usize>, token: &str) -> usize {
    effects.get(token).copied().unwrap_or(0)
}

/// Calls that ran more often than somebody wanted them to.
fn too_many(ledger: &Ledger, effects: &BTreeMap<String, usize>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (token, call) in &ledger.calls {
        let unstarted = ledger.jobs.values().filter(|job| job.token == *token && job.unstarted).count();
        let wanted = call.asked - unstarted;
        let most = if call.safe { wanted * ATTEMPTS_MAX } else { wanted };
        let ran = ran(effects, token);
        if ran > most {
            let what = format!("{token} ran {ran} times, and was to run {most} times at most: {call:?}");
            found.push((token.clone(), what));
        }
    }
    found
}

/// Answers without work, and cancellations that nobody asked for.
fn wrong_ends(ledger: &Ledger, effects: &BTreeMap<String, usize>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (token, call) in ledger.calls.iter().filter(|(token, call)| call.answered && ran(effects, token) == 0)
    {
        found.push((token.clone(), format!("{token} was answered and never ran: {call:?}")));
    }
    for (handle, job) in &ledger.jobs {
        let wrong = match job.outcome {
            Some(Outcome::Completed) => ran(effects, &job.token) == 0,
            Some(Outcome::Cancelled) => !job.cancel_asked && !job.unstarted,
            _ => false,
        };
        if wrong {
            found.push((job.token.clone(), format!("{handle} cannot be {:?}: {job:?}", job.outcome)));
        }
    }
    found
}
