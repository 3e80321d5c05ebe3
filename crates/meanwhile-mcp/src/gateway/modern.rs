//! Requests of the modern era: each says itself who asks, and nothing is known from one to the next.

use std::sync::Arc;

use meanwhile_core::Json;
use serde_json::json;

use super::Gateway;
use super::caller::Caller;
use super::reply::{ReplyTo, protocol_error};
use super::session::Introduction;
use crate::message::{Answer, Fields, Id, METHOD_NOT_FOUND, to_json};
use crate::modern::{LEVELS, TASKS, needs_tasks};
use crate::revision::Revision;

/// What the revision has taken away.
const GONE: [&str; 8] = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/result",
    "tasks/list",
    "notifications/initialized",
];

/// A request of the modern era.
pub(super) struct ModernRequest {
    pub(super) caller: Arc<Caller>,
    pub(super) id: Id,
    pub(super) method: String,
    pub(super) params: Option<Json>,
    pub(super) extra: Fields,
}

impl Gateway {
    pub(super) async fn modern_request(self: &Arc<Self>, request: ModernRequest, reply: ReplyTo) {
        if GONE.contains(&request.method.as_str()) {
            let why = format!("`{}` is no method of {}", request.method, Revision::LATEST.name());
            return reply.send(request.id, protocol_error(METHOD_NOT_FOUND, &why)).await;
        }
        if let Some(introduction) = self.known_introduction() {
            return self.dispatch_modern(&introduction, request, reply).await;
        }
        let gateway = self.clone();
        self.requests.spawn(async move {
            match gateway.introduction(&request.caller).await {
                Ok(introduction) => gateway.dispatch_modern(&introduction, request, reply).await,
                Err(answer) => reply.send(request.id, answer).await,
            }
        });
    }

    async fn dispatch_modern(
        self: &Arc<Self>,
        introduction: &Introduction,
        request: ModernRequest,
        reply: ReplyTo,
    ) {
        let ModernRequest { caller, id, method, params, extra } = request;
        let reply = reply.modern(introduction.server.clone(), &method);
        match method.as_str() {
            "server/discover" => {
                let outstanding = self.count_outstanding().await;
                reply.send(id, Answer::Result(discovered(introduction, outstanding))).await;
            }
            "tools/list" => self.list_tools(caller, id, params, reply).await,
            "tools/call" => {
                self.hear_logs(introduction, &caller).await;
                self.call_tool(caller, id, params, extra, reply).await;
            }
            "tasks/get" | "tasks/update" | "tasks/cancel" if !caller.capabilities.tasks => {
                reply.send(id, Answer::Error(needs_tasks())).await;
            }
            "tasks/get" => self.get_extension_task(id, params, reply).await,
            "tasks/update" => self.update_task(id, params, reply).await,
            "tasks/cancel" => self.cancel_extension_task(id, params, reply).await,
            "subscriptions/listen" => self.listen(introduction, caller, id, params, reply).await,
            _ => {
                self.hear_logs(introduction, &caller).await;
                self.pass_request(caller, id, method, params, extra, reply).await;
            }
        }
    }

    /// A server that has to be told once for all from which level on it logs is told what this request wants, if that is more
    /// than any before it. Of what it then says each request hears what that request wants.
    async fn hear_logs(&self, introduction: &Introduction, caller: &Caller) {
        let Some(level) = caller.log_level.filter(|_| introduction.logs && !self.upstream.is_modern()) else {
            return;
        };
        if self.upstream.wants_logs_from(self.party).is_some_and(|least| least <= level) {
            return;
        }
        if let Ok(connection) = self.upstream.connect().await {
            let (method, params) = ("logging/setLevel", to_json(&json!({"level": LEVELS[level]})));
            let extra = Fields::default();
            drop(self.upstream.pass(&connection, self.party, method, Some(params), extra, drop).await);
        }
    }
}

/// What `server/discover` answers, made from what the server said in `initialize`.
fn discovered(introduction: &Introduction, outstanding: usize) -> Json {
    let mut result = Fields::default();
    result.set("supportedVersions", to_json(&[Revision::LATEST.name()]));
    let mut capabilities: Fields = introduction.fields.read("capabilities").unwrap_or_default();
    capabilities.take("tasks");
    if introduction.has_tools {
        let mut extensions: Fields = capabilities.read("extensions").unwrap_or_default();
        extensions.set(TASKS, to_json(&json!({})));
        capabilities.set("extensions", extensions.to_json());
    }
    result.set("capabilities", capabilities.to_json());
    if let Some(instructions) = introduction.instructions(outstanding) {
        result.set("instructions", instructions);
    }
    result.to_json()
}
