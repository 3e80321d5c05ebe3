//! A call of the client that is not answered yet: how it is cancelled, how it is handed off, and how its own retry finds it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use meanwhile_core::{Call, Json, Progress, Signal};
use serde_json::value::RawValue;

use super::caller::Caller;
use super::reply::ReplyTo;
use super::{Gateway, Settings, lock};
use crate::catalog::{Tool, join_key, retry_key};
use crate::clients;
use crate::message::{Fields, Message};
use crate::rules::Face;

pub(super) struct OpenCall {
    /// Who waits for it.
    pub(super) caller: Arc<Caller>,
    /// Where its answer goes, and what it reports until then.
    reply: ReplyTo,
    pub(super) began: Instant,
    /// Its work is to stop.
    pub(super) cancel: Signal,
    /// Nobody waits for it any more, but its work goes on: it becomes a job.
    pub(super) hand_off: Signal,
    /// What is called. Set once that is known to be right.
    asked: OnceLock<Asked>,
    /// It has been answered, or has become a job.
    landed: Signal,
}

/// What a client asks of a tool.
pub(super) struct Asked {
    pub(super) tool: Arc<Tool>,
    /// The parameters, word for word.
    pub(super) request: Json,
    pub(super) meta: Fields,
    arguments: Option<Json>,
    call: OnceLock<Call>,
}

impl Asked {
    /// `fields` are those of the parameters `request`.
    pub(super) fn new(tool: Arc<Tool>, request: Json, mut fields: Fields) -> Asked {
        let meta = fields.read::<Fields>("_meta").unwrap_or_default();
        Asked { tool, request, meta, arguments: fields.take("arguments"), call: OnceLock::new() }
    }

    /// As a job, and by what a repeat of it is known. Made at the first question: most calls end before there is one.
    pub(super) fn call(&self, settings: &Settings) -> &Call {
        self.call.get_or_init(|| {
            let launch = &settings.launch;
            let arguments = self.arguments.as_ref().map_or("{}", |arguments| arguments.get());
            let same = self.may_become_a_job().then(|| join_key(launch, &self.tool.name, arguments));
            let conversation = clients::conversation(&self.meta);
            let retry_key = clients::call_id(&self.meta)
                .zip(same.as_deref())
                .map(|(id, same)| retry_key(same, conversation.as_deref(), &id));
            Call {
                scope: settings.scope.clone(),
                server: launch.name.clone(),
                tool: self.tool.name.clone(),
                request: self.request.clone(),
                join_key: same.filter(|_| self.tool.treatment.joins),
                retry_key,
                conversation,
            }
        })
    }

    pub(super) fn may_become_a_job(&self) -> bool {
        self.tool.treatment.face != Face::Inline
    }
}

impl OpenCall {
    pub(super) fn new(caller: Arc<Caller>, reply: ReplyTo) -> OpenCall {
        OpenCall {
            caller,
            reply,
            began: Instant::now(),
            cancel: Signal::default(),
            hand_off: Signal::default(),
            asked: OnceLock::new(),
            landed: Signal::default(),
        }
    }

    /// Where its answer goes.
    pub(super) fn clone_way(&self) -> ReplyTo {
        self.reply.clone()
    }

    /// From now on it is known what is called.
    pub(super) fn asks(&self, asked: Asked) -> &Asked {
        self.asked.get_or_init(|| asked)
    }

    /// While the client still waits inline it sees the progress it asked for, word for word, under its own token.
    pub(super) fn forward_progress(&self, token: Option<&RawValue>, progress: &Progress) {
        let Some((token, report)) = token.zip(progress.verbatim.as_deref()) else { return };
        let Ok(mut fields) = Fields::parse(report) else { return };
        fields.set("progressToken", token.to_owned());
        let message = Message::notification("notifications/progress", fields.to_json());
        self.reply.tell_soon(message.to_line());
    }

    fn is_handed_off_as(&self, call: &Call, settings: &Settings) -> bool {
        let Some(own) = self.asked.get().filter(|_| self.hand_off.is_raised()) else { return false };
        let own = own.call(settings);
        let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        same(&own.join_key, &call.join_key) || same(&own.retry_key, &call.retry_key)
    }
}

/// A call on its way: when this is dropped, it has landed.
pub(super) struct OnItsWay {
    gateway: Arc<Gateway>,
    open: Arc<OpenCall>,
}

impl OnItsWay {
    pub(super) fn new(gateway: &Arc<Gateway>, open: &Arc<OpenCall>) -> OnItsWay {
        OnItsWay { gateway: gateway.clone(), open: open.clone() }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if self.open.hand_off.is_raised() {
            lock(&self.gateway.given_up).retain(|call| !Arc::ptr_eq(call, &self.open));
        }
        self.open.landed.raise();
    }
}

impl Gateway {
    /// The client takes a call back. If it has only waited long enough, it has taught us its limit, and the work goes on as a
    /// job that a retry joins; else the work is to stop.
    pub(super) fn take_back(&self, call: &Arc<OpenCall>, reason: &str) {
        if !clients::speaks_of_a_time_out(reason) {
            return call.cancel.raise();
        }
        let waited: Duration = call.began.elapsed();
        tracing::info!(
            server = self.settings.launch.name,
            ?waited,
            reason,
            "the client has given up a call; it is not made to wait so long again"
        );
        self.gave_up(&call.caller, waited);
        if !call.asked.get().is_some_and(Asked::may_become_a_job) {
            return call.cancel.raise();
        }
        if !call.hand_off.is_raised() {
            lock(&self.given_up).push(call.clone());
            call.hand_off.raise();
        }
    }

    /// A retry may come before the call that it repeats has become a job: then it waits for that. Returns whether the client
    /// still wants it.
    pub(super) async fn wait_for_hand_off(&self, open: &OpenCall, asked: &Asked) -> bool {
        let first = {
            let given_up = lock(&self.given_up);
            let same =
                |call: &&Arc<OpenCall>| call.is_handed_off_as(asked.call(&self.settings), &self.settings);
            given_up.iter().find(same).cloned()
        };
        let Some(first) = first else { return true };
        tokio::select! {
            () = first.landed.raised() => true,
            () = open.cancel.raised() => false,
            () = open.hand_off.raised() => false,
        }
    }
}
