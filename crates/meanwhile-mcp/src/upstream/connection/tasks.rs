//! Calls that have become tasks of the server.

use std::sync::Arc;

use meanwhile_core::{Json, RunContext};
use tokio::sync::{Notify, oneshot};

use super::{CANCELLED, Connection};
use crate::message::{Answer, Fields, Id, Message};
use crate::revision::Era;
use crate::upstream::parties::Party;

/// A call that has become a task of the server: what is said of it is heard as long as this is there.
pub(in crate::upstream) struct Kept {
    connection: Arc<Connection>,
    id: u64,
    task: String,
    wake: Arc<Notify>,
}

impl Kept {
    pub(in crate::upstream) fn id(&self) -> u64 {
        self.id
    }

    /// Resolves when the server says that the task has changed.
    pub(in crate::upstream) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.connection.waiters().unfollow(self.id, &self.task);
    }
}

/// Tasks of the server.
impl Connection {
    /// Whether a call of this tool is to be a task, as the legacy revision has them.
    pub(crate) fn takes_as_task(&self, tool: &str) -> bool {
        self.era() == Era::Legacy && self.memory.takes_as_task(tool)
    }

    /// Goes on hearing what is said of a call that has become a task, or of a task that was found again.
    pub(in crate::upstream) fn keep(
        self: &Arc<Self>,
        party: Party,
        call: Option<u64>,
        task: &str,
        context: RunContext,
    ) -> Kept {
        let id = call.unwrap_or_else(|| self.next_id());
        let wake = self.waiters().follow(party, id, task, context);
        Kept { connection: self.clone(), id, task: task.to_owned(), wake }
    }

    /// A question of a task: its id, where its answer comes, and how it is passed on.
    pub(in crate::upstream) fn question(
        &self,
        about: u64,
        method: &str,
        params: Option<Json>,
    ) -> (Id, oneshot::Receiver<Answer>, Message) {
        let (id, answer) = self.waiters().question(about, method);
        let method = method.to_owned();
        (id.clone(), answer, Message::Request { id, method, params, extra: Fields::default() })
    }

    pub(in crate::upstream) async fn pass_question(self: &Arc<Self>, about: u64, question: Message) {
        self.pass_in(Some(about), question).await;
    }

    /// Nobody wants to know the answer to this question any more.
    pub(in crate::upstream) async fn withdraw(self: &Arc<Self>, about: u64, question: Id) {
        self.waiters().withdraw(&question);
        let mut fields = Fields::default();
        fields.set("requestId", question.to_json());
        self.pass_in(Some(about), Message::notification(CANCELLED, fields.to_json())).await;
    }
}
