//! Requests of the modern era: each says itself who asks, and nothing is known from one to the next.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::Json;
use serde_json::json;

use super::Gateway;
use super::caller::Caller;
use super::reply::{ReplyTo, protocol_error};
use super::session::Introduction;
use crate::catalog::Catalog;
use crate::message::{Answer, Fields, INTERNAL_ERROR, Id, METHOD_NOT_FOUND, to_json};
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

/// How long a request about a task waits for the server to introduce itself, which only adorns its answer.
const OF_A_TASK: Duration = Duration::from_secs(1);

/// How long others do that are about jobs, but whose meaning may depend on what the server has.
const OF_JOBS: Duration = Duration::from_secs(10);

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
            let patience = gateway.patience_for(&request);
            let said = gateway.introduction_within(patience.unwrap_or(Duration::MAX), &request.caller).await;
            let introduction = match said {
                Some(Err(answer)) if patience.is_none() => return reply.send(request.id, answer).await,
                Some(Ok(introduction)) => introduction,
                _ => Arc::default(),
            };
            gateway.dispatch_modern(&introduction, request, reply).await;
        });
    }

    /// What the upstream says of itself, if it does so in time. It is asked to the end all the same.
    async fn introduction_within(
        self: &Arc<Self>,
        patience: Duration,
        caller: &Arc<Caller>,
    ) -> Option<Result<Arc<Introduction>, Answer>> {
        let (gateway, caller) = (self.clone(), caller.clone());
        let said = async move {
            // Whoever waits for another one's question need not ask as well.
            if let Some(known) = gateway.introduction.lock().await.clone() {
                return Ok(known);
            }
            let asked = tokio::spawn(async move { gateway.introduction(&caller).await });
            asked.await.unwrap_or_else(|_| Err(protocol_error(INTERNAL_ERROR, "this gateway is ending")))
        };
        tokio::time::timeout(patience, said).await.ok()
    }

    /// How long a request about jobs waits for the server: they are in the store, whether there is a server or not. `None` for
    /// all others.
    fn patience_for(&self, request: &ModernRequest) -> Option<Duration> {
        let params = request.params.as_ref().and_then(|params| Fields::parse(params.get()).ok());
        let params = params.unwrap_or_default();
        match request.method.as_str() {
            "tasks/get" | "tasks/update" | "tasks/cancel" => Some(OF_A_TASK),
            "tools/call" => {
                let name: String = params.read("name")?;
                self.own_tool(&name, &Catalog::default()).map(|_| OF_JOBS)
            }
            "subscriptions/listen" => params.read::<Fields>("notifications")?.get("taskIds").map(|_| OF_JOBS),
            _ => None,
        }
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
