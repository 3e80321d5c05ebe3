//! `initialize` and `tools/list`: what the client is told of the upstream, and of us.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::Json;

use super::reply::{ReplyTo, protocol_error};
use super::{Gateway, lock};
use crate::catalog::{Catalog, append};
use crate::clients::{Patience, Profile};
use crate::message::{Answer, Fields, Id, UPSTREAM_GONE, to_json};
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
        *lock(&self.revision) = Some(revision);
        let client = asked.read::<Fields>("clientInfo").and_then(|info| info.read::<String>("name"));
        *lock(&self.client) = Patience::of(Profile::of(&client.unwrap_or_default()));
        // The upstream is asked for what the client speaks, so that its answers are shaped for that client.
        if name != revision.name() {
            asked.set("protocolVersion", to_json(revision.name()));
        }
        let params = Some(asked.to_json());
        let again = params.clone();
        self.ask(id, "initialize", params, reply, async move |gateway, replied| match replied {
            Ok(Answer::Result(result)) => {
                gateway.upstream.remember_initialize(again);
                Answer::Result(introduce(&result, revision, gateway.count_outstanding().await))
            }
            Ok(error) => error,
            Err(error) => {
                if gateway.never_came_up() {
                    gateway.hopeless.cancel();
                }
                protocol_error(UPSTREAM_GONE, &error.to_string())
            }
        })
        .await;
    }

    pub(super) async fn list_tools(self: &Arc<Self>, id: Id, params: Option<Json>, reply: ReplyTo) {
        let from_start = !params.as_ref().is_some_and(|params| params.get().contains("\"cursor\""));
        self.ask(id, "tools/list", params, reply, async move |gateway, replied| {
            let result = match replied {
                Ok(Answer::Result(result)) => result,
                Ok(error) => return error,
                Err(error) => return protocol_error(UPSTREAM_GONE, &error.to_string()),
            };
            let Ok(mut page) = Fields::parse(result.get()) else { return Answer::Result(result) };
            let Some(tools) = page.read::<Vec<Json>>("tools") else { return Answer::Result(result) };
            let is_last = page.get("nextCursor").is_none();
            if from_start && !is_last {
                gateway.learn_all_names().await;
            }
            page.set("tools", to_json(&gateway.shown(&tools, from_start, is_last)));
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
    fn shown(&self, tools: &[Json], from_start: bool, is_last: bool) -> Vec<Json> {
        let mut known = lock(&self.catalog);
        let mut catalog = match &known.catalog {
            Some(catalog) if !(from_start && is_last) => Catalog::clone(catalog),
            _ => Catalog::default(),
        };
        let mut shown = catalog.add_page(tools, &self.settings.rules);
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
            catalog.add_page(&page.read::<Vec<Json>>("tools").unwrap_or_default(), &self.settings.rules);
            match page.get("nextCursor") {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        Some(catalog)
    }
}

/// The upstream's `initialize` result with the client's revision and our instructions. Without tools we add nothing.
fn introduce(result: &Json, revision: Revision, outstanding: usize) -> Json {
    let Ok(mut fields) = Fields::parse(result.get()) else { return result.clone() };
    let theirs: String = fields.read("protocolVersion").unwrap_or_default();
    if Revision::from_name(&theirs).is_none() {
        tracing::warn!(
            revision = theirs,
            "the MCP server speaks a revision that is unknown here; trying all the same"
        );
    }
    fields.set("protocolVersion", to_json(revision.name()));
    let has_tools =
        fields.read::<Fields>("capabilities").is_some_and(|capabilities| capabilities.get("tools").is_some());
    if has_tools {
        let ours = words::instructions(outstanding);
        let instructions = fields
            .get("instructions")
            .and_then(|theirs| append(theirs, &ours))
            .unwrap_or_else(|| to_json(&ours));
        fields.set("instructions", instructions);
    }
    fields.to_json()
}
