//! What was asked for and what was promised, by whichever client: the books that must balance at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

/// One tool call that clients made, perhaps again and again, under one token.
#[derive(Debug, Default)]
pub(crate) struct Call {
    /// Running it again is safe.
    pub(crate) safe: bool,
    pub(crate) ms: u64,
    pub(crate) bytes: usize,
    /// How often it was asked for and may thus have run: what joined, or was refused, does not count.
    pub(crate) asked: usize,
    pub(crate) answered: bool,
}

/// One handle that a client was given.
#[derive(Debug, Default)]
pub(crate) struct Job {
    pub(crate) token: String,
    pub(crate) cancel_asked: bool,
    /// It ended before the tool was called.
    pub(crate) unstarted: bool,
    /// Its end says that the process which ran it is gone.
    pub(crate) lost_with_its_keeper: bool,
    pub(crate) outcome: Option<Outcome>,
    /// Since when that is known.
    known: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Completed,
    Cancelled,
    Interrupted,
    /// It failed in another way.
    Failed,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) calls: BTreeMap<String, Call>,
    pub(crate) jobs: BTreeMap<String, Job>,
    pub(crate) counts: BTreeMap<String, usize>,
    pub(crate) violations: Vec<String>,
    /// What is worth a look, and may still be right.
    pub(crate) oddities: Vec<String>,
    /// The processes that the run itself has killed, frozen or denied their disk.
    pub(crate) hurt: BTreeSet<i32>,
    /// When a process was frozen that may have held the store's lock: then nobody could renew a lease.
    pub(crate) frozen: Vec<Range<Timestamp>>,
}

impl Ledger {
    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// A call that nobody has made before.
    pub(crate) fn new_call(&mut self, safe: bool, ms: u64, bytes: usize) -> String {
        let token = format!("token-{:06}", self.calls.len());
        self.calls.insert(token.clone(), Call { safe, ms, bytes, ..Call::default() });
        token
    }

    fn call(&mut self, token: &str) -> &mut Call {
        self.calls.get_mut(token).expect("a call of ours")
    }

    /// The call as it is sent, which counts as asked for from here on.
    pub(crate) fn asks(&mut self, token: &str) -> (&'static str, Value) {
        self.count("calls");
        let call = self.call(token);
        call.asked += 1;
        let tool = if call.safe { "safe_effect" } else { "effect" };
        (tool, json!({"token": token, "ms": call.ms, "bytes": call.bytes}))
    }

    /// A result of `tools/call`.
    pub(crate) fn called(&mut self, token: &str, result: &Value) {
        let structured = &result["structuredContent"];
        if let Some(handle) = structured["handle"].as_str() {
            self.acknowledged(token, handle, structured["joined"] == true);
        } else if is_answer(result, token) {
            self.count("inline answers");
            self.call(token).answered = true;
        } else {
            self.trouble(&format!("call of {token}"), &text(result));
        }
    }

    fn acknowledged(&mut self, token: &str, handle: &str, joined: bool) {
        self.count(if joined { "handles joined" } else { "handles" });
        let known = self.jobs.get(handle).map(|job| job.token.clone());
        match known {
            Some(other) if other != token => {
                self.violation(format!("{handle} of {other} was given to {token} as well"));
            }
            Some(_) if !joined => self.violation(format!("{handle} of {token} was given as new twice")),
            _ => {}
        }
        if joined {
            self.call(token).asked -= 1;
        }
        let job = Job { token: token.to_owned(), ..Job::default() };
        self.jobs.entry(handle.to_owned()).or_insert(job);
    }

    /// A JSON-RPC error for a `tools/call` of the upstream.
    pub(crate) fn refused(&mut self, token: &str, error: &Value) {
        let message = error["message"].as_str().unwrap_or_default();
        self.trouble(&format!("call of {token}"), message);
        if message.ends_with("nothing was started") {
            self.call(token).asked -= 1;
        }
    }

    /// What says of a job where it stands, alone or as one of several, to whom has asked at that time.
    pub(crate) fn standing(&mut self, handle: &str, structured: &Value, asked: Instant) {
        let outcome = match (structured["status"].as_str(), structured["reason"].as_str()) {
            (Some("working"), _) => None,
            (Some("completed"), _) => Some(Outcome::Completed),
            (Some("cancelled"), _) => Some(Outcome::Cancelled),
            (Some("failed"), Some("interrupted")) => Some(Outcome::Interrupted),
            (Some("failed"), Some(_)) => Some(Outcome::Failed),
            // In what way is said by a poll only.
            (Some("failed"), None) => return,
            _ => {
                return self.violation(format!("{handle} is said to be {structured}"));
            }
        };
        self.stands(handle, outcome, structured, asked);
    }

    /// The answer of `poll_result` for one handle, to whom has asked at that time.
    pub(crate) fn polled(&mut self, handle: &str, result: &Value, asked: Instant) {
        let token = self.jobs[handle].token.clone();
        let structured = &result["structuredContent"];
        if structured["status"].is_string() && structured["preview"] != true {
            return self.standing(handle, structured, asked);
        }
        if is_answer(result, &token) || (structured["preview"] == true && names(result, &token)) {
            return self.stands(handle, Some(Outcome::Completed), structured, asked);
        }
        self.trouble(&format!("poll of {handle}"), &text(result));
    }

    fn stands(&mut self, handle: &str, outcome: Option<Outcome>, said: &Value, asked: Instant) {
        let Some(job) = self.jobs.get_mut(handle) else { return };
        let Some(outcome) = outcome else {
            // What was asked before may be answered after.
            if job.known.is_some_and(|known| known < asked) {
                let was = job.outcome.clone();
                self.violation(format!("{handle} was {was:?} and then unfinished: {said}"));
            }
            return;
        };
        if let Some(was) = &job.outcome {
            if *was != outcome {
                let was = was.clone();
                self.violation(format!("{handle} was {was:?} and then {outcome:?}: {said}"));
            }
            return;
        }
        let why = said["status_message"].as_str().unwrap_or_default();
        job.unstarted = why.starts_with("never started") || why == "cancelled before it started";
        job.lost_with_its_keeper = why.starts_with("the process that ran it is gone");
        job.outcome = Some(outcome.clone());
        job.known = Some(Instant::now());
        self.count(format!("ended {outcome:?}"));
        if outcome == Outcome::Failed || outcome == Outcome::Interrupted {
            self.trouble(handle, why);
        }
    }

    /// Something that is no answer. There are reasons for that here, but not for everything.
    pub(crate) fn trouble(&mut self, whose: &str, text: &str) {
        const REASONS: [(&str, &str); 10] = [
            ("the process that ran it is gone", "its keeper was gone"),
            ("the process that ran it was stopped", "its keeper stopped lingering"),
            ("the process that held it in its queue is gone", "its keeper was gone, it was queued"),
            ("never started", "never started"),
            ("did not initialize", "the upstream died while it was starting"),
            ("the MCP server", "its upstream died"),
            ("could not be kept", "the disk was full, and its large answer is lost"),
            ("the disk failed", "the disk was full"),
            ("the disk is full", "the disk was full"),
            ("cannot be made", "the disk was full"),
        ];
        match REASONS.iter().find(|(needle, _)| text.contains(needle)) {
            Some((_, why)) => self.count(format!("because {why}")),
            None => self.violation(format!("{whose}: nothing explains `{text}`")),
        }
    }

    /// All handles, or only those of jobs that are not known to have ended.
    pub(crate) fn handles(&self, only_unfinished: bool) -> Vec<String> {
        let wanted = self.jobs.iter().filter(|(_, job)| !only_unfinished || job.outcome.is_none());
        wanted.map(|(handle, _)| handle.clone()).collect()
    }
}

/// All text of a result.
pub(crate) fn text(result: &Value) -> String {
    let blocks = result["content"].as_array().into_iter().flatten();
    blocks.filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// Whether it is the upstream's own answer to that call, and to no other.
fn is_answer(result: &Value, token: &str) -> bool {
    result["isError"] != true && text(result).starts_with(&format!("done {token} "))
}

fn names(result: &Value, token: &str) -> bool {
    text(result).contains(&format!("done {token} "))
}
