//! What is not ours, passed both ways with nothing but its id changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meanwhile_core::{Actor, Handle, Json, Op};

use super::reply::{ReplyTo, protocol_error};
use super::{Gateway, InFlight, lock};
use crate::message::{Answer, Fields, Id, Message, UPSTREAM_GONE, to_json};
use crate::upstream::{Connection, Inbox, Reply};

const CANCELLED: &str = "notifications/cancelled";
/// From this many open questions of servers on it is looked for such as can be forgotten.
const ASKED_MANY: usize = 256;

impl Gateway {
    /// Passes a request on, in its turn.
    pub(super) async fn pass_request(
        self: &Arc<Self>,
        id: Id,
        method: String,
        params: Option<Json>,
        extra: Fields,
        reply: ReplyTo,
    ) {
        let gateway = self.clone();
        let turn = async move { gateway.pass_in_turn(id, method, params, extra, reply).await };
        self.lane.send(self.requests.track_future(turn)).await;
    }

    async fn pass_in_turn(
        self: Arc<Self>,
        id: Id,
        method: String,
        params: Option<Json>,
        extra: Fields,
        reply: ReplyTo,
    ) {
        let connection = match self.upstream.connect().await {
            Ok(connection) => connection,
            Err(error) => return reply.send(id, protocol_error(UPSTREAM_GONE, &error.to_string())).await,
        };
        let waiting = connection.forward(&method, params.clone(), extra).await;
        let request = Message::Request { id: id.clone(), method, params, extra: Fields::default() };
        self.upstream.remember(&request);
        lock(&self.in_flight).insert(id.clone(), InFlight::Passed(connection, waiting.id()));
        let tracker = self.requests.clone();
        tracker.spawn(async move {
            let sent_as = waiting.id();
            let (answer, extra) = match waiting.reply().await {
                Reply::Answer(answer, extra) => (answer, extra),
                Reply::Lost(reason) => {
                    let why = format!("{reason}; it is started again at the next request");
                    (protocol_error(UPSTREAM_GONE, &why), Fields::default())
                }
            };
            self.landed(&id, |request| matches!(request, InFlight::Passed(_, passed) if *passed == sent_as));
            reply.respond(id, answer, extra).await;
        });
    }

    /// Forgets a request that was answered, unless the client has used its id again for another one.
    pub(super) fn landed(&self, id: &Id, is_same: impl FnOnce(&InFlight) -> bool) {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.get(id).is_some_and(is_same) {
            in_flight.remove(id);
        }
    }

    pub(super) async fn notification(self: &Arc<Self>, method: String, params: Option<Json>, extra: Fields) {
        if method == CANCELLED {
            return self.cancel(params, extra).await;
        }
        let gateway = self.clone();
        let turn = async move {
            let message = Message::Notification { method, params, extra };
            gateway.upstream.remember(&message);
            if let Ok(connection) = gateway.upstream.connect().await {
                connection.send(message.to_line()).await;
            }
            // The server can take calls now, and so what earlier sessions have left for it.
            if gateway.ledger.is_in_use() && gateway.upstream.is_initialized() {
                gateway.engine.keep_up();
            }
        };
        self.lane.send(self.requests.track_future(turn)).await;
    }

    /// A cancellation goes where its request went, and not before it.
    async fn cancel(self: &Arc<Self>, params: Option<Json>, extra: Fields) {
        let fields = params.and_then(|params| Fields::parse(params.get()).ok());
        let Some((mut fields, id)) = fields.and_then(|fields| {
            let id = Id::read(fields.get("requestId")?)?;
            Some((fields, id))
        }) else {
            tracing::warn!("a cancellation without a requestId is ignored");
            return;
        };
        if let Some(InFlight::Here(call)) = lock(&self.in_flight).get(&id) {
            let reason: String = fields.read("reason").unwrap_or_default();
            return self.take_back(call, &reason);
        }
        let gateway = self.clone();
        self.lane
            .send(async move {
                let passed = match lock(&gateway.in_flight).get(&id) {
                    Some(InFlight::Passed(connection, passed)) => Some((connection.clone(), *passed)),
                    _ => None,
                };
                let Some((connection, passed)) = passed else {
                    tracing::debug!(%id, "a cancellation of what has been answered already");
                    return;
                };
                fields.set("requestId", to_json(&passed));
                let params = Some(fields.to_json());
                let message = Message::Notification { method: CANCELLED.to_owned(), params, extra };
                connection.send(message.to_line()).await;
            })
            .await;
    }

    /// The client's answer to a request of the server.
    pub(super) async fn pass_answer(&self, id: &Id, answer: Answer, extra: Fields) {
        let asked = id.number().and_then(|id| lock(&self.asked).remove(&id));
        let Some((connection, id)) = asked else {
            tracing::warn!(%id, "an answer of the client to no request; it is ignored");
            return;
        };
        connection.answer(id, answer, extra).await;
    }
}

#[async_trait::async_trait]
impl Inbox for Gateway {
    async fn receive(&self, from: &Arc<Connection>, _about: Option<u64>, message: Message) {
        let message = match message {
            Message::Request { id, method, params, extra } => {
                let ours = self.next_asked.fetch_add(1, Ordering::Relaxed);
                let mut asked = lock(&self.asked);
                if asked.len() >= ASKED_MANY {
                    // Questions of a server that is gone, which nobody can answer any more.
                    asked.retain(|_, (server, _)| !server.is_closed());
                }
                asked.insert(ours, (from.clone(), id));
                drop(asked);
                Message::Request { id: Id::from(ours), method, params, extra }
            }
            Message::Notification { method, params, extra } => {
                if method == "notifications/tools/list_changed" {
                    lock(&self.catalog).stale = true;
                }
                let params = if method == CANCELLED { self.withdrawn(from, params) } else { params };
                Message::Notification { method, params, extra }
            }
            response @ Message::Response { .. } => response,
        };
        self.down.send(message.to_line()).await;
    }

    fn late_answer(&self, handle: Handle) {
        let store = self.engine.store().clone();
        tokio::spawn(async move {
            let message = "it answered after it had been cancelled: the work was not stopped".to_owned();
            // A call that was cancelled before it became a job has no job to say this of.
            if let Ok(Some(_)) = store.job(handle).await {
                let _ = store.apply(handle, Op::Note { by: Actor::Tool, message }).await;
            }
        });
    }
}

impl Gateway {
    /// A server takes a request of its own back: the client knows it under our id.
    fn withdrawn(&self, from: &Arc<Connection>, params: Option<Json>) -> Option<Json> {
        let mut fields = Fields::parse(params.as_ref()?.get()).ok()?;
        let id = Id::read(fields.get("requestId")?)?;
        let mut asked = lock(&self.asked);
        let ours = asked
            .iter()
            .find(|(_, (to, theirs))| Arc::ptr_eq(to, from) && *theirs == id)
            .map(|(ours, _)| *ours);
        let Some(ours) = ours else { return params };
        asked.remove(&ours);
        fields.set("requestId", to_json(&ours));
        Some(fields.to_json())
    }
}
