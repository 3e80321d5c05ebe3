//! A request that has been sent: how its answer is waited for, and how it is taken back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meanwhile_core::{Handle, Json};
use tokio::sync::oneshot;

use super::{CANCELLED, Connection, Wire};
use crate::message::{self, Answer, Fields, INTERNAL_ERROR, Id, Message, to_json};
use crate::revision::Era;
use crate::upstream::UpstreamError;
use crate::upstream::modern::Interim;
use crate::upstream::waiters::{Cancel, Open, Signs};

/// What came of a request.
#[derive(Debug)]
pub enum Reply {
    /// The answer, and what else its envelope held.
    Answer(Answer, Fields),
    /// What the server asks before it answers, for the client itself, which knows rounds of questions.
    Round(Box<Round>),
    /// The request has not reached the server, or the server has not taken it; the text says why.
    Refused(String),
    /// The server is gone, or what it was to answer through; the text says how.
    Lost(String),
}

impl Reply {
    /// The answer, where nothing else of it counts.
    ///
    /// # Errors
    /// If the server was lost before it answered.
    pub fn answer(self) -> Result<Answer, UpstreamError> {
        match self {
            Reply::Answer(answer, _) => Ok(answer),
            Reply::Round(round) => Ok(Answer::Result(round.result)),
            Reply::Refused(reason) => Err(UpstreamError::Refused { reason }),
            Reply::Lost(reason) => Err(UpstreamError::Lost { reason }),
        }
    }

    pub(super) fn plain(answer: Answer) -> Reply {
        Reply::Answer(answer, Fields::default())
    }
}

/// A round of questions, as an answer of the request that it interrupts.
pub struct Round {
    /// As it came.
    pub result: Json,
    /// The rest of the envelope.
    pub extra: Fields,
    interim: Interim,
    /// The request as it was, and where its answer comes if it goes on.
    open: Open,
    reply: oneshot::Receiver<Reply>,
}

impl Round {
    pub(in crate::upstream) fn new(
        result: Json,
        extra: Fields,
        interim: Interim,
        open: Open,
        reply: oneshot::Receiver<Reply>,
    ) -> Round {
        Round { result, extra, interim, open, reply }
    }
}

impl std::fmt::Debug for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Round").field("interim", &self.interim).finish_non_exhaustive()
    }
}

/// A request that has been sent.
#[derive(Debug)]
pub struct Waiting {
    pub(super) connection: Arc<Connection>,
    pub(super) id: u64,
    pub(super) reply: oneshot::Receiver<Reply>,
    pub(super) signs: Arc<Signs>,
}

impl Waiting {
    /// Our id of the request.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The connection it went to.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the answer, as long as it takes.
    pub async fn reply(mut self) -> Reply {
        self.next_reply().await
    }

    /// As [`Waiting::reply`], for who may give up in between. Not to be called again after it has returned.
    pub async fn next_reply(&mut self) -> Reply {
        match (&mut self.reply).await {
            Ok(reply) => reply,
            Err(_) => self.connection.lost(),
        }
    }

    /// Nobody is there to whom a round of this request could go: what it asks is asked as what other servers ask, and the answer
    /// is waited for anew.
    #[must_use]
    pub(crate) async fn ask_here(self, round: Round) -> Waiting {
        let Round { interim, open, reply, .. } = round;
        let next = self.connection.waiters().go_on_with(self.id, open, interim);
        // What was asked is lost with the server.
        if self.connection.is_closed() {
            self.connection.waiters().forget(self.id);
        }
        self.connection.go_on(next).await;
        Waiting { reply, ..self }
    }

    /// Tells the server that nobody wants the answer any more.
    pub async fn cancel(&self, reason: &str) {
        let mut fields = Fields::default();
        fields.set("requestId", to_json(&self.id));
        fields.set("reason", to_json(reason));
        self.connection.cancel(self.id, fields).await;
    }

    /// Nobody wants the answer any more, whatever it is.
    pub(in crate::upstream) async fn end(self, reason: &str) {
        self.cancel(reason).await;
        self.connection.waiters().forget(self.id);
    }

    /// Whether the server has reported progress after it was told to stop.
    #[must_use]
    pub fn went_on(&self) -> bool {
        self.signs.went_on.load(Ordering::Relaxed)
    }

    /// Gives the request up, but goes on listening for an answer that comes all the same.
    pub fn give_up(self, handle: Handle) {
        self.connection.waiters().give_up(self.id, handle);
    }
}

/// Taking back.
impl Connection {
    /// Whether a request is taken back by closing the stream of its response.
    fn closes_streams(&self) -> bool {
        matches!(self.wire, Wire::Http(_)) && self.era() == Era::Modern
    }

    /// The client's own words for it, with our id of the request.
    pub(super) async fn cancel_by(self: &Arc<Self>, params: Option<&Json>) {
        let fields = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let Some(id) = fields.get("requestId").and_then(Id::read).and_then(|id| id.number()) else { return };
        self.cancel(id, fields).await;
    }

    /// Tells the server that nobody wants the answer of a request any more, and those whom it asked for its sake.
    async fn cancel(self: &Arc<Self>, id: u64, mut fields: Fields) {
        let cancel = self.waiters().cancel(id);
        let told = |fields: &Fields| Message::notification(CANCELLED, fields.to_json());
        match cancel {
            Cancel::Sent(sent_as) if self.closes_streams() => {
                if let Wire::Http(http) = &self.wire {
                    http.hang_up(sent_as);
                }
                self.lose(sent_as, "was told to stop: its stream was closed");
            }
            Cancel::Sent(sent_as) => {
                fields.set("requestId", to_json(&sent_as));
                self.write(&told(&fields)).await;
            }
            Cancel::Asking(open, questions) => {
                let stopped = message::error(INTERNAL_ERROR, "cancelled while it waited for an answer");
                let _ = open.reply.send(Reply::plain(Answer::Error(stopped)));
                for question in questions {
                    fields.set("requestId", question.to_json());
                    self.pass_in(Some(id), told(&fields)).await;
                }
            }
            Cancel::Gone => {}
        }
    }
}
