//! What happened to a job: the append-only log that explains it afterwards.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::job::Progress;

/// Who caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The agent, through one of our tools or by calling the tool itself.
    Agent,
    /// The person, from a terminal or through the client's own cancel button.
    User,
    /// The tool that does the work.
    Tool,
    /// Meanwhile itself.
    System,
}

/// One entry of a job's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the log of its job, from 1.
    pub seq: u32,
    /// When it was written, by the store's clock.
    pub at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// The job was written down.
    Created,
    /// A later call with the same arguments, or a retry of the same call, was answered with this job.
    Joined,
    /// An attempt began.
    Started {
        /// Which attempt, from 1.
        attempt: u64,
        /// The peer that runs it.
        peer: String,
    },
    /// The tool reported progress.
    Progress(Progress),
    /// Somebody asked for the job to be cancelled.
    CancelRequested,
    /// Held in the queue.
    Paused,
    /// Let go again.
    Resumed,
    /// The attempt was lost and the job goes back to the queue, because running it again is safe.
    Retried {
        /// Why the attempt was lost.
        reason: String,
    },
    /// The tool asked, and waits for the answers.
    Asked {
        /// The new questions.
        keys: Vec<String>,
    },
    /// Questions were answered.
    Answered {
        /// Which.
        keys: Vec<String>,
    },
    /// Questions went without an answer: the tool no longer wants to know, nobody answered in time, or the attempt is over.
    Withdrawn {
        /// Which.
        keys: Vec<String>,
    },
    /// The work goes on at the upstream as a task of its own, which another attempt can find again.
    Attached,
    /// The tool answered.
    Completed {
        /// Size of the answer in bytes.
        bytes: u64,
    },
    /// There is no answer.
    Failed {
        /// Why.
        message: String,
    },
    /// The job was cancelled.
    Cancelled {
        /// What is known of the work itself.
        message: String,
    },
    /// The agent was told, unasked, that the job has ended.
    Announced,
    /// The agent has taken the result.
    Collected,
    /// The result's time to live ran out.
    Expired,
    /// Something worth knowing that changed nothing.
    Noted {
        /// What it was.
        message: String,
    },
}
