//! Several servers as one: the router in front of their gateways.
//!
//! Tools and prompts are shown as `SERVER__NAME`, resources go by their URIs to whoever has them, and our own tools are there
//! once, for all servers of a principal share their jobs. A server that is down is left out, and takes nobody with it.

mod listen;
mod lists;
mod member;
mod names;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use meanwhile_core::Json;
use serde_json::{Value, json};

use self::member::{Again, Member, News};
use crate::gateway::ReplyTo;
use crate::http::{Conversation, Endpoint, Principal};
use crate::message::{Answer, Fields, INVALID_PARAMS, Id, METHOD_NOT_FOUND, Message, error, to_json};
use crate::modern;
use crate::revision::Revision;
use crate::transport::Outbound;
use crate::words;

/// Several servers as one.
pub struct Hub {
    servers: Vec<Behind>,
    shared: Mutex<HashMap<Principal, Arc<HubConversation>>>,
}

/// One of the servers, for all clients.
struct Behind {
    name: String,
    endpoint: Arc<dyn Endpoint>,
    /// It has not introduced itself in time to whoever came last: the next one does not wait for it.
    is_slow_to_begin: Arc<AtomicBool>,
}

impl Hub {
    /// The servers by their names.
    #[must_use]
    pub fn new(servers: Vec<(String, Arc<dyn Endpoint>)>) -> Arc<Hub> {
        let behind = |(name, endpoint)| Behind { name, endpoint, is_slow_to_begin: Arc::default() };
        Arc::new(Hub { servers: servers.into_iter().map(behind).collect(), shared: Mutex::default() })
    }

    /// The servers as all have them who begin no session.
    fn members(&self, who: &Principal) -> Vec<Arc<Member>> {
        let member = |Behind { name, endpoint, is_slow_to_begin }: &Behind| {
            Member::new(name, endpoint.shared(who), None, is_slow_to_begin)
        };
        self.servers.iter().map(member).collect()
    }
}

impl Endpoint for Hub {
    /// The servers' own endpoints end what is idle. What nobody speaks to is made again at need.
    fn end_the_idle(&self) {
        lock(&self.shared).retain(|_, hub| Arc::strong_count(hub) > 1);
    }

    fn converse(&self, who: &Principal, down: Outbound) -> Arc<dyn Conversation> {
        let member = |Behind { name, endpoint, is_slow_to_begin }: &Behind| {
            let (endpoint, who, down) = (endpoint.clone(), who.clone(), down.clone());
            let begin = move || endpoint.converse(&who, down.clone());
            Member::new(name, begin(), Some(Again::new(begin)), is_slow_to_begin)
        };
        let members = self.servers.iter().map(member).collect();
        Arc::new(HubConversation::new(members, down))
    }

    fn shared(&self, who: &Principal) -> Arc<dyn Conversation> {
        let mut shared = lock(&self.shared);
        let known = shared.entry(who.clone());
        known
            .and_modify(|hub| {
                // A server that never came up may do so now.
                let mut members = self.members(who);
                let mut is_same = true;
                for (old, new) in hub.members.iter().zip(&mut members) {
                    if Arc::ptr_eq(&old.conversation(), &new.conversation()) {
                        *new = old.clone();
                    } else {
                        is_same = false;
                    }
                }
                if !is_same {
                    let (down, _) = Outbound::channel();
                    *hub = Arc::new(HubConversation::new(members, down));
                }
            })
            .or_insert_with(|| {
                let (down, _) = Outbound::channel();
                Arc::new(HubConversation::new(self.members(who), down))
            })
            .clone()
    }
}

/// One client and all servers.
struct HubConversation {
    members: Vec<Arc<Member>>,
    news: Arc<News>,
    /// Who has a resource, or a template of resources, by its URI.
    uris: Mutex<HashMap<String, usize>>,
}

/// A request of the client.
struct Request {
    id: Id,
    method: String,
    params: Fields,
    extra: Fields,
    is_modern: bool,
}

impl Request {
    fn message(&self) -> Message {
        let params = (!self.params.is_empty()).then(|| self.params.to_json());
        Message::Request {
            id: self.id.clone(),
            method: self.method.clone(),
            params,
            extra: self.extra.clone(),
        }
    }
}

#[async_trait::async_trait]
impl Conversation for HubConversation {
    async fn receive(&self, message: Message, reply: ReplyTo) {
        match message {
            Message::Request { id, method, params, extra } => {
                let is_modern = modern::meta(params.as_ref()).is_some();
                let params = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
                let reply =
                    if is_modern { reply.modern(Some(to_json(&introduction())), &method) } else { reply };
                self.request(Request { id, method, params, extra, is_modern }, reply).await;
            }
            Message::Response { ref id, .. } => {
                let asked = self.members.iter().find(|member| member.conversation().has_asked(id));
                match asked {
                    Some(member) => member.conversation().receive(message, reply).await,
                    None => tracing::warn!(%id, "an answer of the client to no request; it is ignored"),
                }
            }
            // Each knows whether it concerns it.
            message @ Message::Notification { .. } => {
                let told = self.conversations();
                let told = told.iter().map(|member| member.receive(message.clone(), reply.clone()));
                join_all(told).await;
            }
        }
    }

    async fn mirroring_schema(&self, tool: &str) -> Option<Json> {
        let (member, name) = self.owner(tool).await?;
        self.members[member].conversation().mirroring_schema(&name).await
    }

    fn has_asked(&self, id: &Id) -> bool {
        self.members.iter().any(|member| member.conversation().has_asked(id))
    }

    fn is_answering(&self, id: &Id) -> bool {
        self.members.iter().any(|member| member.conversation().is_answering(id))
    }

    fn has_tool(&self, _name: &str) -> bool {
        false
    }

    fn touch(&self) {
        self.members.iter().for_each(|member| member.conversation().touch());
    }

    fn close(&self) {
        for member in &self.members {
            member.conversation().close();
        }
    }

    async fn end(&self) {
        let last: Vec<_> = self.members.iter().map(|member| member.last_conversation()).collect();
        join_all(last.iter().map(|member| member.end())).await;
    }
}

impl HubConversation {
    fn new(members: Vec<Arc<Member>>, down: Outbound) -> HubConversation {
        HubConversation { members, news: News::new(down), uris: Mutex::default() }
    }

    fn conversations(&self) -> Vec<Arc<dyn Conversation>> {
        self.members.iter().map(|member| member.conversation()).collect()
    }

    /// Asks all servers the same, at once.
    async fn hear_all(&self, method: &str, params: &Fields) -> Vec<Arc<Vec<Json>>> {
        join_all(self.members.iter().map(|member| member.hear(method, params, &self.news))).await
    }

    async fn request(&self, request: Request, reply: ReplyTo) {
        match request.method.as_str() {
            "initialize" if !request.is_modern => self.initialize(request, reply).await,
            "ping" if !request.is_modern => reply.send(request.id, Answer::Result(to_json(&json!({})))).await,
            "server/discover" => self.discover(request, reply).await,
            "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => {
                self.list(request, reply).await;
            }
            "tools/call" | "prompts/get" => self.by_name(request, reply).await,
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                let uri = request.params.read::<String>("uri").unwrap_or_default();
                self.by_uri(request, &uri, reply).await;
            }
            "completion/complete" => self.complete(request, reply).await,
            "logging/setLevel" if !request.is_modern => self.set_level(&request, reply).await,
            "subscriptions/listen" => self.listen(request, reply).await,
            // All see the same jobs.
            method if method.starts_with("tasks/") => self.pass(self.of_jobs(), request, reply).await,
            _ if self.members.len() == 1 => self.pass(0, request, reply).await,
            method => {
                let why = format!(
                    "`{method}` cannot be told to belong to one of several servers; ask the server at /mcp/NAME"
                );
                reply.send(request.id, Answer::Error(error(METHOD_NOT_FOUND, &why))).await;
            }
        }
    }

    async fn pass(&self, member: usize, request: Request, reply: ReplyTo) {
        self.members[member].conversation().receive(request.message(), reply).await;
    }

    async fn initialize(&self, request: Request, reply: ReplyTo) {
        let asked: String = request.params.read("protocolVersion").unwrap_or_default();
        let mut result = self.introduced(&request).await;
        result["protocolVersion"] = json!(Revision::negotiate(&asked).name());
        result["serverInfo"] = introduction();
        reply.send(request.id, Answer::Result(to_json(&result))).await;
    }

    async fn discover(&self, request: Request, reply: ReplyTo) {
        let mut result = self.introduced(&request).await;
        result["supportedVersions"] = json!([Revision::LATEST.name()]);
        reply.send(request.id, Answer::Result(to_json(&result))).await;
    }

    /// What all servers that are there can do, and how they say to be used.
    async fn introduced(&self, request: &Request) -> Value {
        let mut capabilities = json!({"tools": {"listChanged": true}});
        let (mut instructions, mut ours) = (Vec::new(), None);
        let said = self.hear_all(&request.method, &request.params).await;
        for (member, answer) in self.members.iter().zip(said) {
            let Some(answer) = answer.first() else { continue };
            let said: Value = serde_json::from_str(answer.get()).unwrap_or_default();
            names::unite(&mut capabilities, &said["capabilities"]);
            let text = said["instructions"].as_str().unwrap_or_default();
            let (theirs, mine) = words::split_instructions(text);
            ours = ours.or(mine.map(str::to_owned));
            if !theirs.is_empty() {
                instructions.push(format!("{}: {theirs}", member.name));
            }
        }
        instructions.push(ours.unwrap_or_else(|| words::instructions(0)));
        json!({"capabilities": capabilities, "instructions": instructions.join("\n\n")})
    }

    async fn set_level(&self, request: &Request, reply: ReplyTo) {
        let level: String = request.params.read("level").unwrap_or_default();
        if modern::severity(&level).is_none() {
            let why = format!("`level`: must be one of {}", modern::LEVELS.join(", "));
            return reply.send(request.id.clone(), Answer::Error(error(INVALID_PARAMS, &why))).await;
        }
        let told = self.members.iter().map(|member| {
            let (of, params) = (member.clone(), request.params.clone());
            let told = tokio::spawn(async move { of.set_level(params).await });
            tokio::time::timeout(member.patience(), told)
        });
        join_all(told).await;
        reply.send(request.id.clone(), Answer::Result(to_json(&json!({})))).await;
    }

    async fn by_name(&self, mut request: Request, reply: ReplyTo) {
        let name: String = request.params.read("name").unwrap_or_default();
        let is_tool = request.method == "tools/call";
        if is_tool && names::is_ours(&name) {
            let (member, own) = self.of_ours(&name);
            request.params.set("name", to_json(&own));
            return self.pass(member, request, reply).await;
        }
        let Some((member, own)) = self.owner(&name).await else {
            let what = if is_tool { "tool" } else { "prompt" };
            let why = format!(
                "there is no {what} `{}` here; those of a server are named SERVER__NAME",
                words::clip(&name)
            );
            return reply.send(request.id, Answer::Error(error(INVALID_PARAMS, &why))).await;
        };
        request.params.set("name", to_json(&own));
        self.pass(member, request, reply).await;
    }

    async fn complete(&self, mut request: Request, reply: ReplyTo) {
        let mut reference: Fields = request.params.read("ref").unwrap_or_default();
        if let Some(uri) = reference.read::<String>("uri") {
            return self.by_uri(request, &uri, reply).await;
        }
        let name: String = reference.read("name").unwrap_or_default();
        let Some((member, own)) = self.owner(&name).await else {
            let why = format!("there is no prompt `{}` here", words::clip(&name));
            return reply.send(request.id, Answer::Error(error(INVALID_PARAMS, &why))).await;
        };
        reference.set("name", to_json(&own));
        request.params.set("ref", reference.to_json());
        self.pass(member, request, reply).await;
    }

    async fn by_uri(&self, request: Request, uri: &str, reply: ReplyTo) {
        match self.holder(uri, &request).await {
            Some(member) => self.pass(member, request, reply).await,
            None => {
                let why = format!("none of the servers here has a resource {}", words::clip(uri));
                reply.send(request.id, Answer::Error(error(INVALID_PARAMS, &why))).await;
            }
        }
    }
}

/// What we call ourselves where there is no one server to name.
fn introduction() -> Value {
    json!({"name": "meanwhile", "version": env!("CARGO_PKG_VERSION")})
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
