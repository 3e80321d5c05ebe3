//! Lists of what all servers have, and who has what.

use meanwhile_core::Json;

use super::member::{Member, kind};
use super::{HubConversation, Request, lock, names};
use crate::catalog::is_ours;
use crate::gateway::ReplyTo;
use crate::message::{Answer, Fields, INVALID_PARAMS, error, to_json};
use crate::words;

/// Of so many resources it is remembered who has them.
const URIS_MAX: usize = 100_000;

impl HubConversation {
    /// The list of all servers that are there, on one page.
    pub(super) async fn list(&self, request: Request, reply: ReplyTo) {
        let Some((field, key)) = kind(&request.method) else { return };
        if request.params.get("cursor").is_some_and(|cursor| cursor.get() != "null") {
            let refused =
                error(INVALID_PARAMS, "`cursor`: there is only one page, and no cursor was given out");
            return reply.send(request.id, Answer::Error(refused)).await;
        }
        let mut all: Vec<Json> = Vec::new();
        let mut has_ours = false;
        for (member, items) in self.hear_all(&request.method, &request.params).await.iter().enumerate() {
            for item in items.iter() {
                if field == "tools" && is_ours(item) {
                    has_ours = true;
                } else if key == "name" {
                    all.extend(self.renamed(member, item));
                } else {
                    self.remember(member, key, item);
                    all.push(item.clone());
                }
            }
        }
        if has_ours {
            // Once for all servers, and under their own names: nobody is in their way here.
            all.extend(words::tools(str::to_owned).iter().map(to_json));
        }
        let mut result = Fields::default();
        result.set(field, to_json(&all));
        reply.send(request.id, Answer::Result(result.to_json())).await;
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
            let items = self.members[member].hear(method, &Fields::default(), &self.news).await;
            let own = items.iter().filter_map(name_of).find(|own| names::shown(server, own) == shown);
            if let Some(own) = own {
                return Some((member, own));
            }
        }
        Some((member, name.to_owned()))
    }

    /// A server through whose gateway jobs are reached, which all of them see: one that is not waited for might keep us waiting.
    pub(super) fn of_jobs(&self) -> usize {
        self.members.iter().position(|member| !member.is_late()).unwrap_or_default()
    }

    /// A server through whose gateway our tools are reached, and how this one is called there.
    pub(super) fn of_ours(&self, name: &str) -> (usize, String) {
        let free = |is_late: bool| {
            let fits = |member: &Member| member.is_late() == is_late && !member.conversation().has_tool(name);
            self.members.iter().position(|member| fits(member))
        };
        let free = free(false).or_else(|| free(true));
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
            let key = if method == "resources/list" { "uri" } else { "uriTemplate" };
            for (member, items) in self.hear_all(method, &params).await.iter().enumerate() {
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
