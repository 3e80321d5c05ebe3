//! A call of the client that is not answered yet: how it is cancelled, how it is handed off, and how its own retry finds it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use meanwhile_core::{Call, Progress};
use serde_json::value::RawValue;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::reply::ReplyTo;
use super::{Gateway, InFlight, lock};
use crate::clients;
use crate::message::{Fields, Message};

pub(super) struct OpenCall {
    /// Where its answer goes, and what it reports until then.
    reply: ReplyTo,
    began: Instant,
    /// Its work is to stop.
    pub(super) cancel: CancellationToken,
    /// Nobody waits for it any more, but its work goes on: it becomes a job.
    pub(super) hand_off: CancellationToken,
    /// By what a repeat of it is known. Set once it is known, and only for a call that may become a job.
    keys: OnceLock<[Option<String>; 2]>,
    /// Resolves when it has been answered, or has become a job.
    landed: CancellationToken,
}

impl OpenCall {
    pub(super) fn new(reply: ReplyTo) -> OpenCall {
        OpenCall {
            reply,
            began: Instant::now(),
            cancel: CancellationToken::new(),
            hand_off: CancellationToken::new(),
            keys: OnceLock::new(),
            landed: CancellationToken::new(),
        }
    }

    /// From now on it may become a job.
    pub(super) fn may_become_a_job(&self, call: &Call) {
        // Called once for each call.
        let _ = self.keys.set([call.join_key.clone(), call.retry_key.clone()]);
    }

    pub(super) fn lands_when_dropped(&self) -> DropGuard {
        self.landed.clone().drop_guard()
    }

    /// While the client still waits inline it sees the progress it asked for, word for word, under its own token.
    pub(super) fn forward_progress(&self, token: Option<&RawValue>, progress: &Progress) {
        let Some((token, report)) = token.zip(progress.verbatim.as_deref()) else { return };
        let Ok(mut fields) = Fields::parse(report) else { return };
        fields.set("progressToken", token.to_owned());
        let message = Message::notification("notifications/progress", fields.to_json());
        self.reply.tell_soon(message.to_line());
    }

    fn is_handed_off_as(&self, call: &Call) -> bool {
        let Some([join, retry]) = self.keys.get() else { return false };
        let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        self.hand_off.is_cancelled() && (same(join, &call.join_key) || same(retry, &call.retry_key))
    }
}

impl Gateway {
    /// The client takes a call back. If it has only waited long enough, it has taught us its limit, and the work goes on as a
    /// job that a retry joins; else the work is to stop.
    pub(super) fn take_back(&self, call: &OpenCall, reason: &str) {
        if !clients::speaks_of_a_time_out(reason) {
            return call.cancel.cancel();
        }
        let waited: Duration = call.began.elapsed();
        tracing::info!(
            ?waited,
            reason,
            "the client has given up a call; it is not made to wait so long again"
        );
        lock(&self.client).gave_up_after(waited);
        match call.keys.get() {
            Some(_) => call.hand_off.cancel(),
            None => call.cancel.cancel(),
        }
    }

    /// A retry may come before the call that it repeats has become a job: then it waits for that. Returns whether the client
    /// still wants it.
    pub(super) async fn wait_for_hand_off(&self, open: &OpenCall, call: &Call) -> bool {
        let landed = {
            let in_flight = lock(&self.in_flight);
            in_flight.values().find_map(|request| match request {
                InFlight::Here(open) if open.is_handed_off_as(call) => Some(open.landed.clone()),
                _ => None,
            })
        };
        let Some(landed) = landed else { return true };
        tokio::select! {
            () = landed.cancelled() => true,
            () = open.cancel.cancelled() => false,
            () = open.hand_off.cancelled() => false,
        }
    }
}
