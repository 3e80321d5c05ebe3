//! Who uses a server: one gateway, or several that share it. What the server says goes to those whom it concerns.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use meanwhile_core::Handle;

use super::Inbox;
use super::connection::{CANCELLED, Connection};
use crate::message::Message;

/// How long one of several holds up the others by not taking what all are told.
const SLOW: Duration = Duration::from_secs(1);

/// One of those who use a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Party(u64);

/// All of them.
#[derive(Default)]
pub(super) struct Parties {
    is_shared: bool,
    next: AtomicU64,
    present: Mutex<Vec<(Party, Weak<dyn Inbox>)>>,
}

impl Parties {
    pub(super) fn new(is_shared: bool) -> Parties {
        Parties { is_shared, ..Parties::default() }
    }

    /// Whether there may be more than one.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    pub(super) fn name(&self) -> Party {
        Party(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn join(&self, party: Party, inbox: Weak<dyn Inbox>) {
        self.lock().push((party, inbox));
    }

    pub(super) fn leave(&self, party: Party) {
        self.lock().retain(|(present, inbox)| *present != party && inbox.strong_count() > 0);
    }

    /// Brings a message of the server to whom it concerns.
    pub(super) async fn receive(&self, from: &Arc<Connection>, about: Option<u64>, message: Message) {
        let present = self.present();
        match (present.as_slice(), &message) {
            ([], _) => {}
            ([(_, only)], _) => only.receive(from, about, message).await,
            (several, Message::Notification { method, params, .. }) if method == CANCELLED => {
                let whose = several.iter().find(|(_, inbox)| inbox.has_question(from, params.as_ref()));
                if let Some((_, inbox)) = whose {
                    inbox.receive(from, about, message).await;
                }
            }
            (several, Message::Notification { method, .. }) => {
                let is_of_a_call = matches!(&**method, "notifications/progress" | "notifications/message");
                let whose = about.filter(|_| is_of_a_call).and_then(|id| find(several, from.party_of(id)?));
                match whose {
                    Some(inbox) => inbox.receive(from, about, message).await,
                    // Under a token that nobody has given it.
                    None if method == "notifications/progress" => {}
                    None => tell_all(several, from, about, &message).await,
                }
            }
            (several, Message::Request { id, method, .. }) => {
                let about = about.filter(|id| from.party_of(*id).is_some());
                if about.is_none() && !are_of_one_user(several, &from.parties_waiting()) {
                    tracing::warn!(
                        server = from.server(),
                        method,
                        "a shared server asks, and does not say whose call it is about; nobody is asked"
                    );
                    return several[0].1.decline(from, id.clone(), method).await;
                }
                // Of the call that was sent last, if it does not say; else it is for whoever was there first.
                let about = about.or_else(|| from.sent_last());
                let whose = about.and_then(|id| find(several, from.party_of(id)?));
                whose.unwrap_or(&several[0].1).receive(from, about, message).await;
            }
            (several, _) => several[0].1.receive(from, about, message).await,
        }
    }

    pub(super) fn late_answer(&self, handle: Handle) {
        // They share a store; one is enough to write it down.
        if let Some((_, inbox)) = self.present().first() {
            inbox.late_answer(handle);
        }
    }

    fn present(&self) -> Vec<(Party, Arc<dyn Inbox>)> {
        let present = self.lock();
        present.iter().filter_map(|(party, inbox)| Some((*party, inbox.upgrade()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Party, Weak<dyn Inbox>)>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(several: &[(Party, Arc<dyn Inbox>)], party: Party) -> Option<&Arc<dyn Inbox>> {
    several.iter().find(|(present, _)| *present == party).map(|(_, inbox)| inbox)
}

/// Whether those who wait for something, or if nobody does all who are there, are one user.
fn are_of_one_user(several: &[(Party, Arc<dyn Inbox>)], waiting: &[Party]) -> bool {
    let mut scopes = match waiting {
        [] => several.iter().map(|(_, inbox)| Some(inbox.scope())).collect::<Vec<_>>(),
        waiting => waiting.iter().map(|party| Some(find(several, *party)?.scope())).collect(),
    };
    scopes.dedup();
    matches!(scopes[..], [Some(_)])
}

async fn tell_all(
    several: &[(Party, Arc<dyn Inbox>)],
    from: &Arc<Connection>,
    about: Option<u64>,
    message: &Message,
) {
    join_all(several.iter().map(|(_, inbox)| async move {
        let told = inbox.receive(from, about, message.clone());
        if tokio::time::timeout(SLOW, told).await.is_err() {
            tracing::warn!(server = from.server(), "one of those who share the server does not listen");
        }
    }))
    .await;
}

#[cfg(test)]
mod tests {
    use super::super::connection::{Common, Wire};
    use super::super::memory::Memory;
    use super::*;
    use crate::message::{Fields, Id, to_json};
    use crate::transport::{Outbound, Outgoing};
    use meanwhile_core::Json;
    use serde_json::{Value, json};

    /// Keeps what it is told.
    #[derive(Default)]
    struct Ear {
        heard: Mutex<Vec<String>>,
        asked: Option<Json>,
        scope: &'static str,
    }

    #[async_trait::async_trait]
    impl Inbox for Ear {
        async fn receive(&self, _: &Arc<Connection>, about: Option<u64>, message: Message) {
            self.heard.lock().unwrap().push(format!("{about:?} {}", message.to_line()));
        }

        fn has_question(&self, _: &Arc<Connection>, params: Option<&Json>) -> bool {
            let named = params.and_then(|params| Fields::parse(params.get()).ok()?.take("requestId"));
            self.asked.is_some()
                && named.map(|id| id.get().to_owned()) == self.asked.as_ref().map(|id| id.get().to_owned())
        }

        fn scope(&self) -> &str {
            self.scope
        }

        async fn decline(&self, _: &Arc<Connection>, id: Id, method: &str) {
            self.heard.lock().unwrap().push(format!("declined {id} {method}"));
        }

        fn late_answer(&self, _: Handle) {}
    }

    impl Ear {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.heard.lock().unwrap())
        }
    }

    struct Stage {
        connection: Arc<Connection>,
        sent: Outgoing,
        ears: [Arc<Ear>; 2],
        parties: [Party; 2],
    }

    /// Two of one user, who share a server; the second was asked the question 7.
    fn stage() -> Stage {
        stage_of(["me", "me"])
    }

    fn stage_of(scopes: [&'static str; 2]) -> Stage {
        let shared = Arc::new(Parties::new(true));
        let mut asked = [None, Some(to_json(&7))].into_iter();
        let ears =
            scopes.map(|scope| Arc::new(Ear { asked: asked.next().flatten(), scope, ..Ear::default() }));
        let parties = ears.each_ref().map(|ear| {
            let (party, inbox) = (shared.name(), Arc::downgrade(ear));
            shared.join(party, inbox);
            party
        });
        let (out, sent) = Outbound::channel();
        let common = Common { memory: Arc::new(Memory::new()), parties: shared, spoke: Arc::default() };
        let connection = Connection::new("s", Wire::Lines(Mutex::new(Some(out))), common);
        Stage { connection, sent, ears, parties }
    }

    fn told(method: &str, params: &Value) -> Message {
        Message::notification(method, to_json(params))
    }

    #[tokio::test]
    async fn progress_reaches_only_whose_request_it_is_under_the_token_that_it_had() {
        let mut stage = stage();
        let params = || Some(to_json(&json!({"name": "x", "_meta": {"progressToken": 1}})));
        let mut waiting = Vec::new();
        let mut tokens = Vec::new();
        for party in stage.parties {
            let asked = stage.connection.forward(party, "prompts/get", params(), Fields::default(), drop);
            waiting.push(asked.await);
            let line: Value = serde_json::from_str(&stage.sent.next().await.unwrap()).unwrap();
            tokens.push(line["params"]["_meta"]["progressToken"].clone());
        }
        assert_ne!(tokens[0], tokens[1]);
        let progress = json!({"progressToken": tokens[1], "progress": 0.50});
        stage.connection.take(None, told("notifications/progress", &progress)).await;
        assert_eq!(stage.ears[0].take(), Vec::<String>::new());
        let heard = stage.ears[1].take();
        assert!(heard.len() == 1 && heard[0].contains(r#""progressToken":1"#), "{heard:?}");
        let foreign = json!({"progressToken": "else", "progress": 1});
        stage.connection.take(None, told("notifications/progress", &foreign)).await;
        assert!(stage.ears.iter().all(|ear| ear.take().is_empty()));
    }

    #[tokio::test]
    async fn a_question_goes_to_whom_it_is_about_or_who_called_last_and_is_taken_back_there() {
        let stage = stage();
        let mut waiting = Vec::new();
        for party in stage.parties {
            let asked = stage.connection.forward(party, "prompts/get", None, Fields::default(), drop);
            waiting.push(asked.await);
        }
        let question = || {
            let (id, method) = (Id::from(7), "roots/list".to_owned());
            Message::Request { id, method, params: None, extra: Fields::default() }
        };
        let heard = || stage.ears.each_ref().map(|ear| ear.take().len());
        stage.connection.take(Some(waiting[0].id()), question()).await;
        assert_eq!(heard(), [1, 0]);
        stage.connection.take(None, question()).await;
        assert_eq!(heard(), [0, 1]);
        for (id, expected) in [(7, [0, 1]), (8, [0, 0])] {
            stage.connection.take(None, told(CANCELLED, &json!({"requestId": id}))).await;
            assert_eq!(heard(), expected, "question {id}");
        }
    }

    #[tokio::test]
    async fn a_question_that_may_be_about_the_call_of_another_user_is_put_to_nobody() {
        let stage = stage_of(["me", "you"]);
        let question = || {
            let (id, method) = (Id::from(8), "roots/list".to_owned());
            Message::Request { id, method, params: None, extra: Fields::default() }
        };
        let heard = || stage.ears.each_ref().map(|ear| ear.take());
        let is_declined = || heard()[0] == ["declined 8 roots/list"];
        stage.connection.take(None, question()).await;
        assert!(is_declined(), "nobody waits for anything");
        let ask = |party| stage.connection.forward(party, "prompts/get", None, Fields::default(), drop);
        let yours = ask(stage.parties[1]).await;
        stage.connection.take(None, question()).await;
        assert_eq!(heard().map(|heard| heard.len()), [0, 1], "it can only be about that one");
        let _mine = ask(stage.parties[0]).await;
        stage.connection.take(None, question()).await;
        assert!(is_declined());
        stage.connection.take(Some(yours.id()), question()).await;
        assert_eq!(heard().map(|heard| heard.len()), [0, 1], "it says what it is about");
    }

    #[tokio::test]
    async fn changes_are_for_all_who_are_there() {
        let stage = stage();
        let changed = || told("notifications/tools/list_changed", &json!({}));
        let heard = || stage.ears.each_ref().map(|ear| ear.take().len());
        stage.connection.take(None, changed()).await;
        assert_eq!(heard(), [1, 1]);
    }
}
