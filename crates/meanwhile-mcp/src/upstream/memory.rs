//! What the client has told a server: a later process of it must know it too, and a modern server hears it with each request.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use meanwhile_core::Json;
use tokio::sync::watch;

use super::parties::Party;
use super::tasks::Support;
use crate::message::{Answer, Fields, Id, Message, to_json};
use crate::modern::severity;

/// How many resource subscriptions are renewed after a restart.
const SUBSCRIPTIONS_MAX: usize = 1000;
/// The severity from which on one hears of a server's doings who has not said what to hear: `info`.
const USUAL_LEVEL: usize = 1;

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
    /// From which level on each of those who have said so wants to hear log messages.
    levels: Vec<Level>,
    subscriptions: Vec<Subscription>,
}

/// What somebody has said of log messages.
#[derive(Debug)]
struct Level {
    by: Option<Party>,
    severity: usize,
    /// The parameters of its `logging/setLevel`.
    params: Json,
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

    /// `party` as a server hears of it; `None`, all of them as one.
    pub(super) fn asker(&self, party: Option<Party>) -> Asker {
        let told = self.told();
        let said = told.initialize.as_ref().and_then(|params| Fields::parse(params.get()).ok());
        let said = said.unwrap_or_default();
        let level = match party {
            Some(_) => told.level_of(party),
            None => told.lowest_level(),
        };
        let level = level.and_then(|level| Fields::parse(level.params.get()).ok()?.take("level"));
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
            "logging/setLevel" => self.told().set_level(party, params),
            "resources/subscribe" => self.subscribe(party, params),
            "resources/unsubscribe" => return self.unsubscribe(party, params),
            _ => {}
        }
        true
    }

    /// What the server is to be told when somebody says this with `logging/setLevel`: what those want who want to hear most.
    pub(super) fn level_for_all(&self, params: Option<Json>) -> Option<Json> {
        let is_known = params.as_ref().and_then(level).is_some();
        let lowest = self.told().lowest_level().map(|level| level.params.clone());
        if is_known { lowest.or(params) } else { params }
    }

    /// From which severity on a party wants to hear log messages, if it has said so.
    pub(super) fn wants_logs_from(&self, party: Party) -> Option<usize> {
        self.told().level_of(Some(party)).map(|level| level.severity)
    }

    /// Whether a log message of this level is for a party: it is no concern of others, nor of the server, who shares it.
    pub(super) fn hears(&self, party: Party, level: &str) -> bool {
        let told = self.told();
        // What others have made the server say is not for one who has said nothing.
        let usual = if told.levels.is_empty() { 0 } else { USUAL_LEVEL };
        let least = told.level_of(Some(party)).map_or(usual, |level| level.severity);
        severity(level).is_none_or(|severity| severity >= least)
    }

    /// Whether a party is subscribed to this resource, or to one that it is a part of.
    pub(super) fn follows(&self, party: Party, resource: &str) -> bool {
        let told = self.told();
        let mut held = told.subscriptions.iter().filter(|held| held.by.contains(&Some(party)));
        held.any(|held| uri(&held.params).is_some_and(|uri| is_part_of(resource, &uri)))
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

    /// A party has gone. Returns what the server is to be told of that: the methods and their parameters.
    pub(super) fn forget(&self, party: Party) -> Vec<(&'static str, Json)> {
        let ended = self.let_go(Some(party), |_| true);
        let mut tell: Vec<_> = ended.into_iter().map(|params| ("resources/unsubscribe", params)).collect();
        let mut told = self.told();
        let before = told.lowest_level().map(|level| level.severity);
        told.levels.retain(|level| level.by != Some(party));
        if let Some(level) = told.lowest_level().filter(|level| Some(level.severity) != before) {
            tell.push(("logging/setLevel", level.params.clone()));
        }
        tell
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
        rest.extend(told.lowest_level().map(|level| request("logging/setLevel", &level.params)));
        rest.extend(told.subscriptions.iter().map(|held| request("resources/subscribe", &held.params)));
        Some((told.initialize.clone()?, rest))
    }
}

impl Told {
    fn set_level(&mut self, by: Option<Party>, params: &Json) {
        let Some(severity) = level(params) else { return };
        self.levels.retain(|level| level.by != by);
        self.levels.push(Level { by, severity, params: params.clone() });
    }

    fn level_of(&self, party: Option<Party>) -> Option<&Level> {
        self.levels.iter().find(|level| level.by == party)
    }

    fn lowest_level(&self) -> Option<&Level> {
        self.levels.iter().min_by_key(|level| level.severity)
    }
}

/// The severity that the parameters of a `logging/setLevel` name.
fn level(params: &Json) -> Option<usize> {
    severity(&Fields::parse(params.get()).ok()?.read::<String>("level")?)
}

/// Whether a resource is this one, or one below it.
fn is_part_of(resource: &str, whole: &str) -> bool {
    let rest = resource.strip_prefix(whole).filter(|_| !whole.is_empty());
    rest.is_some_and(|rest| rest.is_empty() || whole.ends_with('/') || rest.starts_with(['/', '?', '#']))
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

#[cfg(test)]
mod tests {
    use super::super::parties::Parties;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resource_concerns_whoever_is_subscribed_to_it_or_to_what_it_is_a_part_of() {
        let (memory, parties) = (Memory::new(), Parties::new(true));
        let [one, other] = [(); 2].map(|()| parties.name());
        let says = |party, method: &str, uri: &str| {
            memory.remember_request(Some(party), method, Some(&to_json(&json!({"uri": uri}))))
        };
        says(one, "resources/subscribe", "file:///a/");
        says(other, "resources/subscribe", "file:///b");
        let follow = |uri| [one, other].map(|party| memory.follows(party, uri));
        assert_eq!(follow("file:///a/secret"), [true, false]);
        assert_eq!(follow("file:///b"), [false, true]);
        assert_eq!([follow("file:///b/c"), follow("file:///bc")], [[false, true], [false, false]]);
        says(one, "resources/subscribe", "");
        assert_eq!(follow("file:///b"), [false, true], "nothing is below what has no name");
        says(other, "resources/subscribe", "file:///a/");
        assert!(!says(one, "resources/unsubscribe", "file:///a/"), "the other still wants to hear of it");
        assert_eq!(follow("file:///a/"), [false, true]);
    }

    #[test]
    fn the_server_is_told_the_lowest_level_and_each_party_hears_from_its_own_on() {
        let (memory, parties) = (Memory::new(), Parties::new(true));
        let [one, other, silent] = [(); 3].map(|()| parties.name());
        let says = |party, level: &str| {
            let params = to_json(&json!({"level": level}));
            memory.remember_request(Some(party), "logging/setLevel", Some(&params));
            memory.level_for_all(Some(params)).unwrap().get().to_owned()
        };
        assert!(memory.hears(silent, "debug"), "nobody has said anything");
        assert_eq!(says(one, "debug"), r#"{"level":"debug"}"#);
        assert_eq!(says(other, "error"), r#"{"level":"debug"}"#);
        assert_eq!(says(other, "loud"), r#"{"level":"loud"}"#, "for the server to refuse");
        let heard = |level| [one, other, silent].map(|party| memory.hears(party, level));
        assert_eq!(heard("debug"), [true, false, false]);
        assert_eq!(heard("warning"), [true, false, true]);
        assert_eq!(heard("critical"), [true, true, true]);
        let level = |party| memory.asker(party).log_level.map(|level| level.get().to_owned());
        assert_eq!(
            [Some(one), Some(other), Some(silent), None].map(level).map(Option::unwrap_or_default),
            [r#""debug""#, r#""error""#, "", r#""debug""#]
        );
        memory.initialize_with(to_json(&json!({})));
        let replayed = memory.replay().unwrap().1;
        assert!(
            matches!(&replayed[..], [Message::Request { params: Some(params), .. }] if params.get().contains("debug"))
        );
        let told = memory.forget(one);
        assert!(matches!(&told[..], [("logging/setLevel", params)] if params.get().contains("error")));
        assert!(memory.forget(silent).is_empty() && memory.forget(other).is_empty());
    }
}
