//! `initialize` and `tools/list`: what the client is told of the upstream, and of us.

use std::sync::Arc;

use meanwhile_core::Json;

use super::reply::{ReplyTo, protocol_error, verbatim};
use super::{Gateway, lock};
use crate::catalog::Catalog;
use crate::message::{Answer, Fields, Id, UPSTREAM_GONE, to_json};
use crate::revision::Revision;
use crate::upstream::Reply;
use crate::words;

/// How many pages of tools an upstream may have.
const PAGES_MAX: usize = 1000;

impl Gateway {
    /// Answers a request in a task of its own.
    pub(super) fn spawn<F: Future<Output = Answer> + Send + 'static>(
        self: &Arc<Self>,
        id: Id,
        reply: ReplyTo,
        work: impl FnOnce(Arc<Self>) -> F,
    ) {
        let work = work(self.clone());
        self.requests.spawn(async move { reply.send(id, work.await).await });
    }

    pub(super) async fn initialize(self: Arc<Self>, params: Option<Json>) -> Answer {
        let mut asked =
            params.as_ref().and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let name: String = asked.read("protocolVersion").unwrap_or_default();
        let revision = Revision::negotiate(&name);
        *lock(&self.revision) = Some(revision);
        // The upstream is asked for what the client speaks, so that its answers are shaped for that client.
        let params = if name == revision.name() {
            params
        } else {
            asked.set("protocolVersion", to_json(revision.name()));
            Some(asked.to_json())
        };
        match self.upstream.initialize(params).await {
            Ok(Answer::Result(result)) => verbatim(introduce(&result, revision)),
            Ok(error) => error,
            Err(error) => protocol_error(UPSTREAM_GONE, &error.to_string()),
        }
    }

    pub(super) async fn list_tools(self: Arc<Self>, params: Option<Json>) -> Answer {
        match self.list_page(params.clone()).await {
            Ok(mut page) => {
                let Some(tools) = page.read::<Vec<Json>>("tools") else { return verbatim(page.to_json()) };
                let from_start = !params.is_some_and(|params| params.get().contains("\"cursor\""));
                let is_last = page.get("nextCursor").is_none();
                page.set("tools", to_json(&self.shown(&tools, from_start, is_last)));
                verbatim(page.to_json())
            }
            Err(answer) => answer,
        }
    }

    /// One page as the client sees it; ours stand behind the last one.
    fn shown(&self, tools: &[Json], from_start: bool, is_last: bool) -> Vec<Json> {
        let mut known = lock(&self.catalog);
        let mut catalog = match &*known {
            Some(catalog) if !(from_start && is_last) => Catalog::clone(catalog),
            _ => Catalog::default(),
        };
        let mut shown = catalog.add_page(tools, &self.settings.rules);
        if is_last {
            shown.extend(words::tools(|name| catalog.our_name(name)).iter().map(to_json));
            *known = Some(Arc::new(catalog));
        } else if known.is_some() {
            *known = Some(Arc::new(catalog));
        }
        shown
    }

    async fn list_page(&self, params: Option<Json>) -> Result<Fields, Answer> {
        let gone = |why: String| protocol_error(UPSTREAM_GONE, &why);
        let connection = self.upstream.connect().await.map_err(|error| gone(error.to_string()))?;
        match connection.request("tools/list", params).await.reply().await {
            Reply::Answer(Answer::Result(result), _) => {
                Fields::parse(result.get()).map_err(|_| verbatim(result))
            }
            Reply::Answer(error, _) => Err(error),
            Reply::Lost(reason) => Err(gone(reason)),
        }
    }

    /// What is known of the upstream's tools; asked for if the client has not listed them.
    pub(super) async fn catalog(&self) -> Arc<Catalog> {
        if let Some(catalog) = lock(&self.catalog).clone() {
            return catalog;
        }
        let _one_at_a_time = self.listing.lock().await;
        if let Some(catalog) = lock(&self.catalog).clone() {
            return catalog;
        }
        let catalog = match self.list_all().await {
            Ok(catalog) => Arc::new(catalog),
            // Nothing is known then; the upstream judges the call itself, and it is asked again at the next one.
            Err(_) => return Arc::default(),
        };
        *lock(&self.catalog) = Some(catalog.clone());
        catalog
    }

    async fn list_all(&self) -> Result<Catalog, Answer> {
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
        Ok(catalog)
    }
}

/// The upstream's `initialize` result with the client's revision and our instructions. Without tools we add nothing.
fn introduce(result: &Json, revision: Revision) -> Json {
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
        let instructions = match fields.read::<String>("instructions") {
            Some(theirs) if !theirs.is_empty() => format!("{theirs}\n\n{}", words::instructions()),
            _ => words::instructions(),
        };
        fields.set("instructions", to_json(&instructions));
    }
    fields.to_json()
}
