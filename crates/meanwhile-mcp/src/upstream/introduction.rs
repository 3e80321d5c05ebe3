//! Who the server is and who asks it: of which era it is, what a client has said of itself, and what a later process of it is
//! told anew.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use meanwhile_core::Json;

use super::connection::{Connection, Reply};
use super::memory::with_elicitation;
use super::modern::Discovered;
use super::probe::{Found, Verdict, probe};
use super::{Upstream, UpstreamError, listen};
use crate::message::Answer;
use crate::revision::Era;

/// How long a server that was started again may take to initialize. It has done so before, for a client that waited.
const INITIALIZE_AGAIN: Duration = Duration::from_secs(60);

impl Upstream {
    /// Introduces the client, with the parameters of its `initialize`, and returns what a legacy server would answer. A modern one
    /// is not told: it hears who asks with each request. That is done once; whoever introduces another client later gets what was
    /// answered then.
    ///
    /// # Errors
    /// [`UpstreamError`], if there is no server, or it went before it answered.
    pub async fn initialize(self: &Arc<Self>, params: Json) -> Result<Answer, UpstreamError> {
        let mut known = self.introduced.lock().await;
        if let Some(result) = &*known {
            return Ok(Answer::Result(result.clone()));
        }
        let connection = self.connect().await?;
        let answer = match connection.discovered() {
            Some(discovered) => {
                self.memory.initialize_with(params);
                Answer::Result(discovered.to_initialize_result(&self.launch.name))
            }
            None => self.introduce_to_legacy(&connection, with_elicitation(params)).await?,
        };
        if let Answer::Result(result) = &answer {
            *known = Some(result.clone());
        }
        Ok(answer)
    }

    /// Asks what seems to be a legacy server, and if it goes then, once more one that has not been asked before who it is: some
    /// answer that, and go because of it all the same.
    async fn introduce_to_legacy(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        params: Json,
    ) -> Result<Answer, UpstreamError> {
        let mut answer = self.introduce(connection, params.clone()).await;
        if answer.is_err() && !self.is_known() && !self.is_remote() && !self.stopped.is_cancelled() {
            *self.verdict() = Verdict::Known(Era::Legacy);
            let connection = self.connect().await?;
            answer = self.introduce(&connection, params).await;
        }
        if let Err(error) = &answer {
            self.went_unintroduced(error);
        }
        answer
    }

    /// Asks it.
    async fn introduce(&self, connection: &Arc<Connection>, params: Json) -> Result<Answer, UpstreamError> {
        let refused =
            match connection.request("initialize", Some(params.clone())).await.reply().await.answer() {
                Ok(Answer::Result(result)) => {
                    *self.verdict() = Verdict::Known(Era::Legacy);
                    self.launch.record.shows_legacy(true);
                    self.launch.record.came_up();
                    connection.late.forget();
                    self.memory.initialize_with(params);
                    return Ok(Answer::Result(result));
                }
                refused @ (Ok(Answer::Error(_)) | Err(UpstreamError::Refused { .. })) => refused,
                lost => return lost,
            };
        if self.is_modern_after_all(connection).await {
            self.memory.initialize_with(params);
            let discovered = connection.discovered();
            let result = discovered.map(|said| said.to_initialize_result(&self.launch.name));
            return result.map_or(refused, |result| Ok(Answer::Result(result)));
        }
        self.launch.record.shows_legacy(false);
        *self.verdict() = self.launch.verdict();
        if self.launch.is_remote() {
            // Perhaps it was not itself; it is asked again who it is.
            connection.stop().await;
        }
        refused
    }

    /// Reaches the server, and finds out of which era it is.
    pub(super) async fn start(&self) -> Result<Arc<Connection>, UpstreamError> {
        let connection = self.reach()?;
        let verdict = *self.verdict();
        let found = match verdict {
            Verdict::Known(Era::Legacy) => Found::Legacy,
            Verdict::SeemsLegacy => {
                *self.verdict() = Verdict::Open;
                Found::Legacy
            }
            Verdict::Open | Verdict::Known(Era::Modern) => match probe(&connection, &self.stopped).await {
                // If it does not say so again it is asked all the same.
                Found::Legacy if verdict == Verdict::Known(Era::Modern) => {
                    Found::Modern(Discovered::default())
                }
                Found::Legacy => {
                    if !self.is_remote() {
                        *self.verdict() = Verdict::SeemsLegacy;
                    }
                    Found::Legacy
                }
                found => found,
            },
        };
        match found {
            Found::Modern(discovered) => {
                self.found_modern(&connection, discovered);
                Ok(connection)
            }
            Found::Legacy => self.introduce_again(connection).await,
            Found::Gone(_) if self.stopped.is_cancelled() => {
                connection.stop().await;
                Err(UpstreamError::Ending)
            }
            Found::Gone(reason) if self.launch.is_remote() => {
                connection.stop().await;
                Err(unreachable(&self.launch.name, &reason))
            }
            // It may have gone because of the question. That it is a legacy one is known once it has been initialized.
            Found::Gone(_) => self.introduce_again(self.reach()?).await,
        }
    }

    fn found_modern(&self, connection: &Arc<Connection>, discovered: Discovered) {
        *self.verdict() = Verdict::Known(Era::Modern);
        self.launch.record.came_up();
        connection.be_modern(discovered);
        tokio::spawn(listen::hold(connection.clone()));
    }

    /// Whether a server that has refused `initialize` was only slow to say that it is a modern one.
    async fn is_modern_after_all(&self, connection: &Arc<Connection>) -> bool {
        let Some(discovered) = connection.late.word().await else { return false };
        tracing::info!(server = self.launch.name, "the MCP server is of the modern era after all");
        self.found_modern(connection, discovered);
        true
    }

    /// Tells a legacy server what the process before it was told.
    async fn introduce_again(&self, connection: Arc<Connection>) -> Result<Arc<Connection>, UpstreamError> {
        let Some((initialize, rest)) = self.memory.replay() else { return Ok(connection) };
        let mut waiting = connection.request("initialize", Some(initialize)).await;
        let reply = tokio::select! {
            reply = waiting.next_reply() => reply,
            () = self.stopped.cancelled() => Reply::Lost("this gateway is ending".to_owned()),
            () = tokio::time::sleep(INITIALIZE_AGAIN) => Reply::Lost(format!("no answer in {INITIALIZE_AGAIN:?}")),
        };
        let reason = match reply {
            Reply::Answer(Answer::Result(_), _) => {
                connection.late.forget();
                self.launch.record.came_up();
                for message in rest {
                    connection.replay(message).await;
                }
                return Ok(connection);
            }
            Reply::Answer(Answer::Error(_), _) | Reply::Refused(_)
                if self.is_modern_after_all(&connection).await =>
            {
                return Ok(connection);
            }
            Reply::Answer(Answer::Error(error), _) => format!("it answered {}", error.get()),
            Reply::Round(_) => "it asks something".to_owned(),
            Reply::Refused(reason) | Reply::Lost(reason) => reason,
        };
        connection.stop().await;
        Err(UpstreamError::Initialize { command: self.launch.name.clone(), reason })
    }

    fn is_known(&self) -> bool {
        matches!(*self.verdict(), Verdict::Known(_))
    }

    pub(super) fn verdict(&self) -> MutexGuard<'_, Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason may say itself which server cannot be reached.
fn unreachable(server: &str, reason: &str) -> UpstreamError {
    let reason = reason.strip_prefix(&format!("the MCP server `{server}` ")).unwrap_or(reason);
    let reason = reason.strip_prefix("cannot be reached: ").unwrap_or(reason).to_owned();
    UpstreamError::Unreachable { server: server.to_owned(), reason }
}
