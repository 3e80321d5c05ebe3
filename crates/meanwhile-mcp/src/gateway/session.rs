//! `initialize` and `tools/list`: what the client is told of the upstream, and of us.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::Json;

use serde_json::json;

use super::caller::Caller;
use super::reply::{ReplyTo, gone};
use super::{Gateway, lock};
use crate::catalog::{Catalog, append};
use crate::message::{Answer, Fields, Id, Message, to_json};
use crate::revision::Revision;
use crate::upstream::{Reply, UpstreamError};
use crate::words;

/// How long a call waits for the upstream's tools to be known.
const CATALOG_PATIENCE: Duration = Duration::from_secs(2);
/// How many pages of tools an upstream may have.
const PAGES_MAX: usize = 1000;

impl Gateway {
    /// Sends a request of the client to the upstream in its turn, and answers with what `answer` makes of the reply.
    async fn ask<F: Future<Output = Answer> + Send + 'static>(
        self: &Arc<Self>,
        id: Id,
        method: &'static str,
        params: Option<Json>,
        reply: ReplyTo,
        answer: impl FnOnce(Arc<Self>, Result<Answer, UpstreamError>) -> F + Send + 'static,
    ) {
        let gateway = self.clone();
        let turn = async move {
            let sent = match gateway.upstream.connect().await {
                Ok(connection) => Ok(connection.request(method, params).await),
                Err(error) => Err(error),
            };
            let tracker = gateway.requests.clone();
            tracker.spawn(async move {
                let replied = match sent {
                    Ok(waiting) => waiting.reply().await.answer(),
                    Err(error) => Err(error),
                };
                reply.send(id, answer(gateway, replied).await).await;
            });
        };
        self.lane.send(self.requests.track_future(turn)).await;
    }

    pub(super) async fn initialize(self: &Arc<Self>, id: Id, params: Option<Json>, reply: ReplyTo) {
        let mut asked =
            params.as_ref().and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let name: String = asked.read("protocolVersion").unwrap_or_default();
        let revision = Revision::negotiate(&name);
        let caller = Caller::legacy(&asked, revision);
        lock(&self.patience).remove(&caller.name);
        *lock(&self.client) = Some(Arc::new(caller));
        // The upstream is asked for what the client speaks, so that its answers are shaped for that client.
        if name != revision.name() {
            asked.set("protocolVersion", to_json(revision.name()));
        }
        let gateway = self.clone();
        let turn = async move {
            let answer = match gateway.introduced_with(asked.to_json(), false).await {
                Ok(introduction) => {
                    let outstanding = gateway.count_outstanding().await;
                    Answer::Result(introduction.initialized(revision, outstanding))
                }
                Err(answer) => answer,
            };
            reply.send(id, answer).await;
        };
        self.lane.send(self.requests.track_future(turn)).await;
    }

    /// What the upstream has said of itself, if it has been asked.
    pub(super) fn known_introduction(&self) -> Option<Arc<Introduction>> {
        self.introduction.try_lock().ok()?.clone()
    }

    /// What the upstream says of itself. The first client of the modern era has it asked, in our name.
    pub(super) async fn introduction(self: &Arc<Self>, caller: &Caller) -> Result<Arc<Introduction>, Answer> {
        let mut capabilities = json!({});
        if caller.capabilities.sampling {
            capabilities["sampling"] = json!({});
        }
        if caller.capabilities.roots {
            capabilities["roots"] = json!({});
        }
        if caller.capabilities.form {
            capabilities["elicitation"] = json!({});
        }
        let client = json!({"name": if caller.name.is_empty() { "meanwhile" } else { &caller.name },
            "version": env!("CARGO_PKG_VERSION")});
        let params = json!({"protocolVersion": Revision::LATEST_LEGACY.name(), "capabilities": capabilities,
            "clientInfo": client});
        let introduction = self.introduced_with(to_json(&params), true).await?;
        if !self.upstream.is_initialized() {
            let message = Message::Notification {
                method: "notifications/initialized".to_owned(),
                params: None,
                extra: Fields::default(),
            };
            let is_told = self.upstream.remember(self.party, &message);
            if is_told && let Ok(connection) = self.upstream.connect().await {
                connection.send(message).await;
            }
        }
        self.take_up_what_was_left();
        Ok(introduction)
    }

    /// Introduces us to the upstream, once; whoever comes later is told what it said then. `is_modern`: of the era of who asks.
    async fn introduced_with(&self, params: Json, is_modern: bool) -> Result<Arc<Introduction>, Answer> {
        let mut known = self.introduction.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        match self.upstream.initialize(params).await {
            Ok(Answer::Result(result)) => {
                let introduction =
                    Introduction::read(&result, &self.settings.launch.name).map(Arc::new).map_err(|why| {
                        gone(is_modern, &format!("what the MCP server says of itself cannot be read: {why}"))
                    })?;
                *known = Some(introduction.clone());
                Ok(introduction)
            }
            Ok(error) => Err(error),
            Err(error) => {
                if self.never_came_up() {
                    self.hopeless.cancel();
                }
                Err(gone(is_modern, &error.to_string()))
            }
        }
    }

    /// The server can take calls now, and so what earlier sessions have left for it.
    pub(super) fn take_up_what_was_left(&self) {
        if self.upstream.is_initialized() {
            self.engine.keep_up();
        }
    }

    pub(super) async fn list_tools(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        id: Id,
        params: Option<Json>,
        reply: ReplyTo,
    ) {
        let from_start = !params.as_ref().is_some_and(|params| params.get().contains("\"cursor\""));
        self.ask(id, "tools/list", params, reply, async move |gateway, replied| {
            let result = match replied {
                Ok(Answer::Result(result)) => result,
                Ok(error) => return error,
                Err(error) => return gone(caller.is_modern(), &error.to_string()),
            };
            let Ok(mut page) = Fields::parse(result.get()) else { return Answer::Result(result) };
            let Some(tools) = page.read::<Vec<Json>>("tools") else { return Answer::Result(result) };
            let is_last = page.get("nextCursor").is_none();
            if from_start && !is_last {
                gateway.learn_all_names().await;
            }
            page.set("tools", to_json(&gateway.shown(&caller, &tools, from_start, is_last)));
            Answer::Result(page.to_json())
        })
        .await;
    }

    /// What is shown of the first page speaks of our tools by names that a later page may have.
    async fn learn_all_names(&self) {
        let is_known = {
            let known = lock(&self.catalog);
            known.catalog.is_some() && !known.stale
        };
        if !is_known {
            self.learn_tools().await;
        }
    }

    /// One page as the client sees it; ours stand behind the last one.
    fn shown(&self, caller: &Caller, tools: &[Json], from_start: bool, is_last: bool) -> Vec<Json> {
        let mut known = lock(&self.catalog);
        let mut catalog = match &known.catalog {
            Some(catalog) if !(from_start && is_last) => Catalog::clone(catalog),
            _ => Catalog::default(),
        };
        let mut shown = catalog.add_page(tools, &self.settings.rules, caller.revision.has_core_tasks());
        if is_last {
            shown.extend(words::tools(|name| catalog.our_name(name)).iter().map(to_json));
        }
        if is_last || known.catalog.is_some() {
            known.catalog = Some(Arc::new(catalog));
            known.stale &= !is_last;
            self.listed.notify_waiters();
        }
        shown
    }

    async fn list_page(&self, params: Option<Json>) -> Option<Fields> {
        let connection = self.upstream.connect().await.ok()?;
        match connection.request("tools/list", params).await.reply().await {
            Reply::Answer(Answer::Result(result), _) => Fields::parse(result.get()).ok(),
            _ => None,
        }
    }

    /// What is known of the upstream's tools. They are asked for if the client has not listed them, or they have changed; but
    /// a server that does not say holds up nothing for long: it then judges its calls itself.
    pub(super) async fn catalog(self: &Arc<Self>) -> Arc<Catalog> {
        let listed = {
            let mut known = lock(&self.catalog);
            if (known.catalog.is_none() || known.stale) && !std::mem::replace(&mut known.asking, true) {
                let gateway = self.clone();
                tokio::spawn(async move { gateway.learn_tools().await });
            }
            if let Some(catalog) = &known.catalog {
                return catalog.clone();
            }
            self.listed.notified()
        };
        let _ = tokio::time::timeout(CATALOG_PATIENCE, listed).await;
        lock(&self.catalog).catalog.clone().unwrap_or_default()
    }

    /// Whether the upstream is known to have a tool of this name.
    pub(crate) fn has_tool(&self, name: &str) -> bool {
        lock(&self.catalog).catalog.as_ref().is_some_and(|catalog| catalog.get(name).is_some())
    }

    /// The `inputSchema` of one of the upstream's tools.
    pub async fn tool_schema(self: &Arc<Self>, name: &str) -> Option<Json> {
        self.catalog().await.get(name)?.schema().cloned()
    }

    async fn learn_tools(&self) {
        lock(&self.catalog).stale = false;
        let learnt = self.list_all().await;
        let mut known = lock(&self.catalog);
        known.asking = false;
        if let Some(catalog) = learnt {
            known.catalog = Some(Arc::new(catalog));
        }
        self.listed.notify_waiters();
    }

    async fn list_all(&self) -> Option<Catalog> {
        let mut catalog = Catalog::default();
        let mut cursor: Option<Json> = None;
        for _ in 0..PAGES_MAX {
            let params = cursor.take().map(|cursor| {
                let mut params = Fields::default();
                params.set("cursor", cursor);
                params.to_json()
            });
            let page = self.list_page(params).await?;
            let tools = page.read::<Vec<Json>>("tools").unwrap_or_default();
            catalog.add_page(&tools, &self.settings.rules, false);
            match page.get("nextCursor") {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        Some(catalog)
    }
}

/// What the upstream has said of itself, as an `initialize` result.
#[derive(Default)]
pub(super) struct Introduction {
    pub(super) fields: Fields,
    /// Its name and version.
    pub(super) server: Option<Json>,
    pub(super) has_tools: bool,
    /// Whether it sends log messages.
    pub(super) logs: bool,
}

impl Introduction {
    fn read(result: &Json, server: &str) -> serde_json::Result<Introduction> {
        let fields = Fields::parse(result.get())?;
        let theirs: String = fields.read("protocolVersion").unwrap_or_default();
        if Revision::from_name(&theirs).is_none() {
            tracing::warn!(
                server,
                revision = theirs,
                "the MCP server speaks a revision that is unknown here; trying all the same"
            );
        }
        let capabilities = fields.read::<Fields>("capabilities").unwrap_or_default();
        Ok(Introduction {
            server: fields.get("serverInfo").map(ToOwned::to_owned),
            has_tools: capabilities.get("tools").is_some(),
            logs: capabilities.get("logging").is_some(),
            fields,
        })
    }

    /// Whether it says of `what` it has (`tools`, `prompts`, `resources`) that it can do this: `listChanged`, `subscribe`.
    pub(super) fn announces(&self, what: &str, can: &str) -> bool {
        let capabilities = self.fields.read::<Fields>("capabilities").unwrap_or_default();
        capabilities.read::<Fields>(what).and_then(|of| of.read(can)).unwrap_or(false)
    }

    /// Its instructions with ours behind them. Without tools we add nothing.
    pub(super) fn instructions(&self, outstanding: usize) -> Option<Json> {
        let theirs = self.fields.get("instructions");
        if !self.has_tools {
            return theirs.map(ToOwned::to_owned);
        }
        let ours = words::instructions(outstanding);
        let whole: String = self.fields.read("instructions").unwrap_or_default();
        if let (theirs, Some(_)) = words::split_instructions(&whole) {
            // It is such a gateway itself, and has said so.
            return Some(to_json(&format!("{theirs}\n\n{ours}").trim_start()));
        }
        Some(theirs.and_then(|theirs| append(theirs, &ours)).unwrap_or_else(|| to_json(&ours)))
    }

    /// What a client is told that introduces itself by `initialize`: its revision, our instructions, and the tasks that we
    /// make of every tool's calls.
    fn initialized(&self, revision: Revision, outstanding: usize) -> Json {
        let mut fields = self.fields.clone();
        fields.set("protocolVersion", to_json(revision.name()));
        if let Some(instructions) = self.instructions(outstanding) {
            fields.set("instructions", instructions);
        }
        let mut capabilities: Fields = fields.read("capabilities").unwrap_or_default();
        let had_tasks = capabilities.take("tasks").is_some();
        let has_tasks = self.has_tools && revision.has_core_tasks();
        if has_tasks {
            capabilities.set(
                "tasks",
                to_json(&json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}})),
            );
        }
        if has_tasks || had_tasks {
            fields.set("capabilities", capabilities.to_json());
        }
        fields.to_json()
    }
}
