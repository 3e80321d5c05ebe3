//! Lists of what all servers have, and who has what.

use meanwhile_core::Json;

use super::{HubConversation, Request, lock, names};
use crate::gateway::ReplyTo;
use crate::message::{Answer, Fields, to_json};

/// How many pages of a list a server may have.
const PAGES_MAX: usize = 1000;
/// Of so many resources it is remembered who has them.
const URIS_MAX: usize = 100_000;

/// What a list holds, and by what its items are known.
fn kind(method: &str) -> (&'static str, &'static str) {
    match method {
        "tools/list" => ("tools", "name"),
        "prompts/list" => ("prompts", "name"),
        "resources/list" => ("resources", "uri"),
        _ => ("resourceTemplates", "uriTemplate"),
    }
}

impl HubConversation {
    /// The list of all servers that are there, on one page.
    pub(super) async fn list(&self, request: Request, reply: ReplyTo) {
        let (field, key) = kind(&request.method);
        let asks = (0..self.members.len()).map(|member| self.items(member, &request.method, &request.params));
        let mut all: Vec<Json> = Vec::new();
        let mut ours: Vec<Json> = Vec::new();
        for (member, items) in futures_util::future::join_all(asks).await.into_iter().enumerate() {
            let (items, own) = if field == "tools" { apart(items) } else { (items, vec![]) };
            if ours.is_empty() {
                ours = own.iter().map(under_its_base).collect();
            }
            for item in items {
                if key == "name" {
                    all.extend(self.renamed(member, &item));
                } else {
                    self.remember(member, key, &item);
                    all.push(item);
                }
            }
        }
        all.extend(ours);
        let mut result = Fields::default();
        result.set(field, to_json(&all));
        reply.send(request.id, Answer::Result(result.to_json())).await;
    }

    /// All that one server lists, page by page; nothing if it does not answer.
    async fn items(&self, member: usize, method: &str, params: &Fields) -> Vec<Json> {
        let (field, _) = kind(method);
        let mut params = params.clone();
        params.take("cursor");
        let mut items = Vec::new();
        let pages = async {
            for _ in 0..PAGES_MAX {
                let page = self.ask(&self.members[member], method, &params).await;
                let Ok(page) = page.map(|page| Fields::parse(page.get()).unwrap_or_default()) else { return };
                items.extend(page.read::<Vec<Json>>(field).unwrap_or_default());
                match page.get("nextCursor") {
                    Some(cursor) => params.set("cursor", cursor.to_owned()),
                    None => return,
                }
            }
        };
        if tokio::time::timeout(super::PATIENCE, pages).await.is_err() {
            tracing::info!(
                server = self.members[member].name,
                method,
                "a server is left out: it does not answer"
            );
        }
        items
    }

    fn renamed(&self, member: usize, item: &Json) -> Option<Json> {
        let mut fields = Fields::parse(item.get()).ok()?;
        let name: String = fields.read("name")?;
        fields.set("name", to_json(&names::shown(&self.members[member].name, &name)));
        Some(fields.to_json())
    }

    fn remember(&self, member: usize, key: &str, item: &Json) {
        let uri = Fields::parse(item.get()).ok().and_then(|fields| fields.read::<String>(key));
        let mut uris = lock(&self.uris);
        if let Some(uri) = uri
            && uris.len() < URIS_MAX
        {
            // The first that lists it has it.
            uris.entry(uri).or_insert(member);
        }
    }

    /// Whose tool or prompt a name is, and how it is called there.
    pub(super) async fn owner(&self, shown: &str) -> Option<(usize, String)> {
        let (server, name) = names::split(shown)?;
        let member = self.members.iter().position(|member| member.name == server)?;
        if !names::is_cut(shown) {
            return Some((member, name.to_owned()));
        }
        for method in ["tools/list", "prompts/list"] {
            let items = self.items(member, method, &Fields::default()).await;
            let own = items.iter().filter_map(name_of).find(|own| names::shown(server, own) == shown);
            if let Some(own) = own {
                return Some((member, own));
            }
        }
        Some((member, name.to_owned()))
    }

    /// A server through whose gateway our tools are reached, and how this one is called there.
    pub(super) fn of_ours(&self, name: &str) -> (usize, String) {
        let free = self.members.iter().position(|member| !member.conversation.has_tool(name));
        // Where each has one of that name itself, ours has another.
        free.map_or_else(|| (0, format!("meanwhile_{name}")), |member| (member, name.to_owned()))
    }

    /// Who has a resource: who has listed it, or a template that it begins like, or whoever has it now.
    pub(super) async fn holder(&self, uri: &str, request: &Request) -> Option<usize> {
        if let Some(member) = self.known_holder(uri) {
            return Some(member);
        }
        let mut params = Fields::default();
        if let Some(meta) = request.params.get("_meta") {
            params.set("_meta", meta.to_owned());
        }
        for method in ["resources/list", "resources/templates/list"] {
            let (_, key) = kind(method);
            let asks = (0..self.members.len()).map(|member| self.items(member, method, &params));
            for (member, items) in futures_util::future::join_all(asks).await.into_iter().enumerate() {
                items.iter().for_each(|item| self.remember(member, key, item));
            }
        }
        self.known_holder(uri).or((self.members.len() == 1).then_some(0))
    }

    fn known_holder(&self, uri: &str) -> Option<usize> {
        let uris = lock(&self.uris);
        if let Some(member) = uris.get(uri) {
            return Some(*member);
        }
        let templates = uris.iter().filter_map(|(known, member)| {
            let (fixed, _) = known.split_once('{')?;
            (!fixed.is_empty() && uri.starts_with(fixed)).then_some((fixed.len(), *member))
        });
        templates.max().map(|(_, member)| member)
    }
}

fn name_of(item: &Json) -> Option<String> {
    Fields::parse(item.get()).ok()?.read("name")
}

/// A server's tools, and ours behind them.
fn apart(mut items: Vec<Json>) -> (Vec<Json>, Vec<Json>) {
    let called: Vec<String> = items.iter().map(|item| name_of(item).unwrap_or_default()).collect();
    let ours = items.split_off(items.len() - names::count_ours(&called));
    (items, ours)
}

/// One of ours under its own name: nobody is in its way here.
fn under_its_base(item: &Json) -> Json {
    let Ok(mut fields) = Fields::parse(item.get()) else { return item.clone() };
    if let Some(base) = name_of(item).as_deref().and_then(names::base) {
        fields.set("name", to_json(base));
    }
    fields.to_json()
}
