//! `subscriptions/listen`: what a client of the modern era is told unasked, and only for as long as it listens.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/subscriptions>.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use meanwhile_core::{Handle, Job, Json};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;

use super::caller::Caller;
use super::open_call::OpenCall;
use super::reply::{ReplyTo, protocol_error};
use super::session::Introduction;
use super::{Gateway, InFlight, lock};
use crate::message::{Answer, Fields, INVALID_PARAMS, Id, Message, to_json};
use crate::modern::{SUBSCRIPTION_ID, needs_tasks};
use crate::upstream::Connection;

/// How many tasks and how many resources one subscription may name; the others are not accepted.
const NAMED_MAX: usize = 1000;

/// Who listens.
#[derive(Default)]
pub(super) struct Listeners {
    open: Mutex<HashMap<u64, Listener>>,
    next: AtomicU64,
}

struct Listener {
    id: Json,
    reply: ReplyTo,
    wants: Wants,
}

#[derive(Clone, Default)]
struct Wants {
    /// The kinds of lists, by the names that the request has for them.
    lists: HashSet<&'static str>,
    resources: HashSet<String>,
    tasks: Option<Vec<String>>,
}

/// What is listed, the notification that it has changed, and what a request calls that.
pub(crate) const LISTS: [(&str, &str, &str); 3] = [
    ("tools", "notifications/tools/list_changed", "toolsListChanged"),
    ("prompts", "notifications/prompts/list_changed", "promptsListChanged"),
    ("resources", "notifications/resources/list_changed", "resourcesListChanged"),
];

/// One of the things that can be listened to, if it is asked for.
fn wanted<T: DeserializeOwned>(notifications: &Fields, name: &str, what: &str) -> Result<Option<T>, String> {
    let Some(given) = notifications.get(name) else { return Ok(None) };
    serde_json::from_str(given.get()).map_err(|_| format!("`notifications/{name}`: must be {what}"))
}

impl Wants {
    /// What is asked for, as far as the server tells of it.
    fn read(notifications: &Fields, server: &Introduction) -> Result<Wants, String> {
        let mut wants = Wants::default();
        for (what, _, name) in LISTS {
            let is_wanted = wanted(notifications, name, "true or false")?.unwrap_or(false);
            if is_wanted && server.announces(what, "listChanged") {
                wants.lists.insert(name);
            }
        }
        let uris: Option<Vec<String>> = wanted(notifications, "resourceSubscriptions", "a list of URIs")?;
        if server.announces("resources", "subscribe") {
            wants.resources.extend(uris.into_iter().flatten().take(NAMED_MAX));
        }
        wants.tasks = wanted(notifications, "taskIds", "a list of ids")?;
        Ok(wants)
    }

    fn includes(&self, method: &str, params: Option<&Fields>) -> bool {
        if method == "notifications/resources/updated" {
            let uri = params.and_then(|params| params.read::<String>("uri"));
            return uri.is_some_and(|uri| self.resources.contains(&uri));
        }
        LISTS.iter().any(|(_, known, name)| *known == method && self.lists.contains(name))
    }
}

impl Gateway {
    pub(super) async fn listen(
        self: &Arc<Self>,
        server: &Introduction,
        caller: Arc<Caller>,
        id: Id,
        params: Option<Json>,
        reply: ReplyTo,
    ) {
        let params = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let Some(notifications) = params.read::<Fields>("notifications") else {
            let why = "`notifications`: an object that says what is to be told";
            return reply.send(id, protocol_error(INVALID_PARAMS, why)).await;
        };
        let wants = match Wants::read(&notifications, server) {
            Ok(wants) => wants,
            Err(why) => return reply.send(id, protocol_error(INVALID_PARAMS, &why)).await,
        };
        if wants.tasks.as_ref().is_some_and(|tasks| !tasks.is_empty()) && !caller.capabilities.tasks {
            return reply.send(id, Answer::Error(needs_tasks())).await;
        }
        let open = Arc::new(OpenCall::new(caller, reply.clone()));
        lock(&self.in_flight).insert(id.clone(), InFlight::Here(open.clone()));
        let gateway = self.clone();
        // Nobody waits for its end, so it is not counted among the requests that are to be answered.
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = gateway.tell_listener(&id, wants, &reply) => true,
                () = gateway.closing.cancelled() => true,
                () = open.cancel.raised() => false,
                () = reply.closed() => false,
            };
            gateway.landed(&id, |request| matches!(request, InFlight::Here(_)));
            if ended {
                let subscription = reply.known_as(id.clone()).to_json();
                reply
                    .send(id, Answer::Result(to_json(&json!({"_meta": {SUBSCRIPTION_ID: subscription}}))))
                    .await;
            }
        });
    }

    async fn tell_listener(self: &Arc<Self>, id: &Id, wants: Wants, reply: &ReplyTo) {
        let subscription = reply.known_as(id.clone()).to_json();
        let mut accepted = Fields::default();
        for list in &wants.lists {
            accepted.set(list, to_json(&true));
        }
        if !wants.resources.is_empty() {
            accepted.set("resourceSubscriptions", to_json(&wants.resources));
        }
        let mut jobs = Vec::new();
        if let Some(ids) = &wants.tasks {
            jobs = self.own_jobs(ids).await;
            accepted.set("taskIds", to_json(&jobs.iter().map(|job| job.handle).collect::<Vec<Handle>>()));
        }
        let _listening = Listening::begin(self, &subscription, &wants, reply);
        let mut acknowledgement = Fields::default();
        acknowledgement.set("notifications", accepted.to_json());
        tell(reply, "notifications/subscriptions/acknowledged", acknowledgement, &subscription).await;
        self.watch_resources(&wants.resources).await;
        let mut followed = JoinSet::new();
        for job in jobs {
            followed.spawn(self.clone().follow_task(job.handle, subscription.clone(), reply.clone()));
        }
        std::future::pending::<()>().await;
    }

    /// Those of these jobs that are in this scope and still there.
    async fn own_jobs(&self, ids: &[String]) -> Vec<Job> {
        let mut jobs = Vec::new();
        for handle in ids.iter().take(NAMED_MAX).filter_map(|id| id.parse::<Handle>().ok()) {
            if let Ok(Some(job)) = self.engine.store().job(handle).await
                && job.scope == self.settings.scope
                && job.expired_at.is_none()
            {
                jobs.push(job);
            }
        }
        jobs
    }

    /// Tells how a task stands, and again at every change, until it has ended.
    async fn follow_task(self: Arc<Self>, handle: Handle, subscription: Json, reply: ReplyTo) {
        let store = self.engine.store().clone();
        // Subscribed before the first look, so that nothing falls between.
        let mut changes = store.changes().of(handle);
        let mut told = None;
        loop {
            let Ok(Some(job)) = store.job(handle).await else { return };
            let news = (job.status, job.message.clone(), job.progress.clone(), job.open.clone());
            if told.as_ref() != Some(&news) {
                let Ok(task) = self.detailed(&job).await else { return };
                tell(&reply, "notifications/tasks", task, &subscription).await;
                told = Some(news);
            }
            if job.status.is_terminal() {
                return;
            }
            changes.changed().await;
        }
    }

    /// The server is asked to tell of these resources too.
    async fn watch_resources(&self, uris: &HashSet<String>) {
        for uri in uris {
            let Ok(connection) = self.upstream.connect().await else { return };
            self.tell_of_resource(&connection, "resources/subscribe", uri).await;
        }
    }

    /// A resource that nobody listens for any more.
    async fn unwatch_resources(&self, uris: HashSet<String>) {
        for uri in uris {
            let is_wanted = lock(&self.listeners.open).values().any(|one| one.wants.resources.contains(&uri));
            let Some(connection) = self.upstream.running().filter(|_| !is_wanted) else { continue };
            self.tell_of_resource(&connection, "resources/unsubscribe", &uri).await;
        }
    }

    async fn tell_of_resource(&self, server: &Arc<Connection>, method: &str, uri: &str) {
        let params = Some(to_json(&json!({"uri": uri})));
        drop(self.upstream.pass(server, self.party, method, params, Fields::default(), drop).await);
    }

    /// Brings a notification of the server to those who listen for it.
    pub(super) async fn tell_listeners(&self, method: &str, params: Option<&Json>) {
        let fields = params.and_then(|params| Fields::parse(params.get()).ok());
        let told: Vec<(ReplyTo, Json)> = lock(&self.listeners.open)
            .values()
            .filter(|listener| listener.wants.includes(method, fields.as_ref()))
            .map(|listener| (listener.reply.clone(), listener.id.clone()))
            .collect();
        for (reply, subscription) in told {
            tell(&reply, method, fields.clone().unwrap_or_default(), &subscription).await;
        }
    }
}

/// A listener while it listens.
struct Listening {
    gateway: Arc<Gateway>,
    key: u64,
}

impl Listening {
    fn begin(gateway: &Arc<Gateway>, id: &Json, wants: &Wants, reply: &ReplyTo) -> Listening {
        let key = gateway.listeners.next.fetch_add(1, Ordering::Relaxed);
        let listener = Listener { id: id.clone(), reply: reply.clone(), wants: wants.clone() };
        lock(&gateway.listeners.open).insert(key, listener);
        Listening { gateway: gateway.clone(), key }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let gone = lock(&self.gateway.listeners.open).remove(&self.key);
        if let Some(Listener { wants: Wants { resources, .. }, .. }) = gone
            && !resources.is_empty()
        {
            let gateway = self.gateway.clone();
            tokio::spawn(async move { gateway.unwatch_resources(resources).await });
        }
    }
}

async fn tell(reply: &ReplyTo, method: &str, mut params: Fields, subscription: &Json) {
    let mut meta: Fields = params.read("_meta").unwrap_or_default();
    meta.set(SUBSCRIPTION_ID, subscription.clone());
    params.set("_meta", meta.to_json());
    reply.tell(Message::notification(method, params.to_json()).to_line()).await;
}
