//! What the client has told a server: a later process of it must know it too, and a modern server hears it with each request.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use meanwhile_core::Json;
use tokio::sync::watch;

use super::parties::Party;
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
    subscriptions: Vec<Subscription>,
}

/// A resource that is subscribed to.
#[derive(Debug)]
struct Subscription {
    params: Json,
    by: HashSet<Option<Party>>,
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

    /// Remembers what `party` says. Returns whether the server is to be told: not that it is initialized when it has been told
    /// that, and not to be silent of what another party wants to hear of.
    pub(super) fn remember(&self, party: Party, message: &Message) -> bool {
        match message {
            Message::Notification { method, .. } if method == "notifications/initialized" => {
                self.told().initialized.replace(message.clone()).is_none()
            }
            Message::Request { method, params, .. } => {
                self.remember_request(Some(party), method, params.as_ref())
            }
            _ => true,
        }
    }

    pub(super) fn remember_request(&self, party: Option<Party>, method: &str, params: Option<&Json>) -> bool {
        let Some(params) = params else { return true };
        match method {
            "logging/setLevel" => self.told().log_level = Some(params.clone()),
            "resources/subscribe" => self.subscribe(party, params),
            "resources/unsubscribe" => return self.unsubscribe(party, params),
            _ => {}
        }
        true
    }

    fn subscribe(&self, party: Option<Party>, params: &Json) {
        let named = uri(params);
        let mut told = self.told();
        if let Some(held) = told.subscriptions.iter_mut().find(|held| uri(&held.params) == named) {
            held.by.insert(party);
        } else if told.subscriptions.len() < SUBSCRIPTIONS_MAX {
            told.subscriptions.push(Subscription { params: params.clone(), by: HashSet::from([party]) });
            self.subscribed.send_modify(|version| *version += 1);
        }
    }

    /// Returns whether nobody holds it any more.
    fn unsubscribe(&self, party: Option<Party>, params: &Json) -> bool {
        let named = uri(params);
        self.let_go(party, |held| uri(&held.params) == named);
        !self.told().subscriptions.iter().any(|held| uri(&held.params) == named)
    }

    /// A party has gone. Returns the subscriptions that nobody holds any more.
    pub(super) fn forget(&self, party: Party) -> Vec<Json> {
        self.let_go(Some(party), |_| true)
    }

    fn let_go(&self, party: Option<Party>, which: impl Fn(&Subscription) -> bool) -> Vec<Json> {
        let mut told = self.told();
        let mut ended = Vec::new();
        told.subscriptions.retain_mut(|held| {
            let is_held = !which(held) || !held.by.remove(&party) || !held.by.is_empty();
            if !is_held {
                ended.push(held.params.clone());
            }
            is_held
        });
        if !ended.is_empty() {
            self.subscribed.send_modify(|version| *version += 1);
        }
        ended
    }

    /// Whether anybody wants to hear of a resource.
    pub(super) fn is_subscribed(&self) -> bool {
        !self.told().subscriptions.is_empty()
    }

    /// Moves when [`Memory::resources`] changes.
    pub(super) fn watch_resources(&self) -> watch::Receiver<u64> {
        self.subscribed.subscribe()
    }

    /// The resources that are subscribed to, by their URI.
    pub(super) fn resources(&self) -> Vec<String> {
        self.told().subscriptions.iter().filter_map(|held| uri(&held.params)).collect()
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
        rest.extend(told.subscriptions.iter().map(|held| request("resources/subscribe", &held.params)));
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
