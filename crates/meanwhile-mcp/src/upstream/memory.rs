//! What the client has told a server: a later process of it must know it too, and a modern server hears it with each request.

use std::sync::{Mutex, MutexGuard, PoisonError};

use meanwhile_core::Json;
use tokio::sync::watch;

use super::tasks::Support;
use crate::message::{Answer, Fields, Id, Message, to_json};

/// How many resource subscriptions are renewed after a restart.
const SUBSCRIPTIONS_MAX: usize = 1000;

/// What a server was told, whichever process or session of it there is at the moment.
#[derive(Debug)]
pub(super) struct Memory {
    told: Mutex<Told>,
    /// Which of its tools the server takes as tasks.
    tasks: Mutex<Support>,
    /// Moves when the resources that are subscribed to change.
    subscribed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Told {
    initialize: Option<Json>,
    initialized: Option<Message>,
    log_level: Option<Json>,
    subscriptions: Vec<Json>,
}

/// Who asks, as a modern server hears it with each request.
#[derive(Debug, Default)]
pub(super) struct Asker {
    pub(super) info: Option<Json>,
    pub(super) capabilities: Option<Fields>,
    pub(super) log_level: Option<Json>,
}

impl Memory {
    pub(super) fn new() -> Memory {
        Memory { told: Mutex::default(), tasks: Mutex::default(), subscribed: watch::Sender::new(0) }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn initialize_with(&self, params: Json) {
        self.told().initialize = Some(params);
    }

    /// Takes note of what the server's answers say of its tasks.
    pub(super) fn learn(&self, method: &str, answer: &Answer) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).learn(method, answer);
    }

    pub(super) fn takes_as_task(&self, tool: &str) -> bool {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).takes(tool)
    }

    pub(super) fn is_initialized(&self) -> bool {
        self.told().initialized.is_some()
    }

    pub(super) fn asker(&self) -> Asker {
        let told = self.told();
        let said = told.initialize.as_ref().and_then(|params| Fields::parse(params.get()).ok());
        let said = said.unwrap_or_default();
        let level =
            told.log_level.as_ref().and_then(|params| Fields::parse(params.get()).ok()?.take("level"));
        Asker {
            info: said.get("clientInfo").map(ToOwned::to_owned),
            capabilities: said.read("capabilities"),
            log_level: level,
        }
    }

    pub(super) fn remember(&self, message: &Message) {
        match message {
            Message::Notification { method, .. } if method == "notifications/initialized" => {
                self.told().initialized = Some(message.clone());
            }
            Message::Request { method, params, .. } => self.remember_request(method, params.as_ref()),
            _ => {}
        }
    }

    pub(super) fn remember_request(&self, method: &str, params: Option<&Json>) {
        let Some(params) = params else { return };
        match method {
            "logging/setLevel" => self.told().log_level = Some(params.clone()),
            "resources/subscribe" => self.subscribe(params, true),
            "resources/unsubscribe" => self.subscribe(params, false),
            _ => {}
        }
    }

    fn subscribe(&self, params: &Json, on: bool) {
        let named = uri(params);
        let mut told = self.told();
        let before = told.subscriptions.len();
        let held = told.subscriptions.iter().any(|held| uri(held) == named);
        if on && !held && before < SUBSCRIPTIONS_MAX {
            told.subscriptions.push(params.clone());
        } else if !on {
            told.subscriptions.retain(|held| uri(held) != named);
        }
        if told.subscriptions.len() != before {
            self.subscribed.send_modify(|version| *version += 1);
        }
    }

    /// Moves when [`Memory::resources`] changes.
    pub(super) fn watch_resources(&self) -> watch::Receiver<u64> {
        self.subscribed.subscribe()
    }

    /// The resources that are subscribed to, by their URI.
    pub(super) fn resources(&self) -> Vec<String> {
        self.told().subscriptions.iter().filter_map(uri).collect()
    }

    /// With what a new process, or session, of a legacy server is initialized, and what it must be told after that.
    pub(super) fn replay(&self) -> Option<(Json, Vec<Message>)> {
        let request = |method: &str, params: &Json| Message::Request {
            id: Id::from(0),
            method: method.to_owned(),
            params: Some(params.clone()),
            extra: Fields::default(),
        };
        let told = self.told();
        let mut rest: Vec<Message> = told.initialized.iter().cloned().collect();
        rest.extend(told.log_level.iter().map(|params| request("logging/setLevel", params)));
        rest.extend(told.subscriptions.iter().map(|params| request("resources/subscribe", params)));
        Some((told.initialize.clone()?, rest))
    }
}

fn uri(params: &Json) -> Option<String> {
    Fields::parse(params.get()).ok()?.read("uri")
}

/// An `initialize` that also declares what we can do for a server whatever its client can: a tool that asks becomes a job, and
/// the question is answered there.
pub(super) fn with_elicitation(params: Json) -> Json {
    let Ok(mut fields) = Fields::parse(params.get()) else { return params };
    let mut capabilities: Fields = fields.read("capabilities").unwrap_or_default();
    if capabilities.get("elicitation").is_some() {
        return params;
    }
    capabilities.set("elicitation", to_json(&serde_json::json!({})));
    fields.set("capabilities", capabilities.to_json());
    fields.to_json()
}
