//! What stands behind the face: two servers of few words, and both of them as one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use meanwhile_core::testing::{MemoryStore, TokioClock};
use meanwhile_mcp::fuzzing;
use meanwhile_mcp::gateway::ReplyTo;
use meanwhile_mcp::http::{Access, Conversation, Endpoint, Guard, Limits, Principal, Server, Tokens};
use meanwhile_mcp::hub::Hub;
use meanwhile_mcp::message::{Answer, Id, METHOD_NOT_FOUND, Message, error, to_json};
use meanwhile_mcp::transport::Outbound;
use serde_json::json;
use serde_json::value::RawValue;

use crate::script::{Script, TOKEN};

pub(crate) const BODY_MAX: usize = 64 * 1024;
/// Asked by the server, and not answered.
const QUESTION: u64 = 7;

pub(crate) fn router(script: &Script<'_>) -> Router {
    let one = || -> Arc<dyn Endpoint> { Arc::new(Stub::new(script)) };
    let (files, web) = (one(), one());
    let hub = Hub::new(vec![("files".to_owned(), files.clone()), ("web".to_owned(), web.clone())]);
    let endpoints: HashMap<String, Arc<dyn Endpoint>> =
        HashMap::from([(String::new(), hub as _), ("files".to_owned(), files), ("web".to_owned(), web)]);
    let tokens = || Tokens::parse(&format!("ann: {TOKEN}")).expect("a token");
    let access = Access {
        open: (!script.needs_token).then(|| Principal::local("me")),
        tokens: script.needs_token.then(tokens),
        oauth: None,
    };
    let long = Duration::from_secs(3600);
    let limits = Limits {
        body: BODY_MAX,
        requests: 4,
        streams: 3,
        sessions: 3,
        session_idle: long,
        server_idle: long,
    };
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::default())));
    fuzzing::router(&Server::new(endpoints, Guard::default(), access, limits, store))
}

struct Stub {
    schema: Option<Box<RawValue>>,
    shared: Arc<dyn Conversation>,
}

impl Stub {
    fn new(script: &Script<'_>) -> Stub {
        let schema = script.schema.and_then(|schema| RawValue::from_string(schema.to_owned()).ok());
        let shared = Talk { schema: schema.clone(), down: None, held: Mutex::default() };
        Stub { schema, shared: Arc::new(shared) }
    }
}

impl Endpoint for Stub {
    fn converse(&self, _: &Principal, down: Outbound) -> Arc<dyn Conversation> {
        Arc::new(Talk { schema: self.schema.clone(), down: Some(down), held: Mutex::default() })
    }

    fn shared(&self, _: &Principal) -> Arc<dyn Conversation> {
        self.shared.clone()
    }

    fn end_the_idle(&self) {}
}

/// One conversation.
struct Talk {
    schema: Option<Box<RawValue>>,
    down: Option<Outbound>,
    /// What is not answered.
    held: Mutex<Vec<ReplyTo>>,
}

#[async_trait::async_trait]
impl Conversation for Talk {
    async fn receive(&self, message: Message, reply: ReplyTo) {
        let Message::Request { id, method, .. } = message else {
            // Something is said unasked.
            if let Some(down) = &self.down {
                let said = Message::notification("notifications/tools/list_changed", to_json(&json!({})));
                down.send(said.to_line()).await;
            }
            return;
        };
        match method.as_str() {
            "hold" | "subscriptions/listen" => self.held.lock().expect("no panic").push(reply),
            "drop" => drop(reply),
            _ => self.answer(id, &method, &reply).await,
        }
    }

    async fn mirroring_schema(&self, _: &str) -> Option<Box<RawValue>> {
        self.schema.clone()
    }

    fn has_asked(&self, id: &Id) -> bool {
        *id == Id::from(QUESTION)
    }

    fn is_answering(&self, _: &Id) -> bool {
        false
    }

    fn has_tool(&self, name: &str) -> bool {
        name == "copy"
    }

    fn touch(&self) {}

    fn close(&self) {
        self.held.lock().expect("no panic").clear();
    }

    async fn end(&self) {
        self.close();
    }
}

impl Talk {
    async fn answer(&self, id: Id, method: &str, reply: &ReplyTo) {
        let result = match method {
            "initialize" => json!({
                "protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "stub", "version": "1"},
            }),
            "tools/list" => json!({"tools": [{"name": "copy", "inputSchema": {"type": "object"}}]}),
            "tools/call" => {
                let progress = json!({"progressToken": 1, "progress": 1});
                reply
                    .tell(Message::notification("notifications/progress", to_json(&progress)).to_line())
                    .await;
                json!({"content": [{"type": "text", "text": "two\nlines"}]})
            }
            "ping" => json!({}),
            _ => {
                let answer = Answer::Error(error(METHOD_NOT_FOUND, "there is no such method"));
                return fuzzing::answer(reply, id, answer).await;
            }
        };
        fuzzing::answer(reply, id, Answer::Result(to_json(&result))).await;
    }
}
