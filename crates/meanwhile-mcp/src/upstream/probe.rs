//! Which era a server is of: it is asked in the modern way, and what comes back tells.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/versioning>.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Reply, Waiting};
use super::http::DISCOVER;
use super::memory::Asker;
use super::modern::{self, Answering, Discovered};
use crate::revision::Era;

/// How long a server may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long its late word may be on its way when it has refused what only a legacy one takes.
const LATE: Duration = Duration::from_secs(1);

/// What is known of a server's era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be asked.
    Open,
    /// It did not know the question who it is, and has not been initialized since: it may go because of it, and the process after
    /// it is not asked.
    SeemsLegacy,
    /// It has shown it, or its user has said so.
    Known(Era),
}

/// What the probe has found.
pub(super) enum Found {
    Modern(Discovered),
    Legacy,
    /// The server is gone. Some legacy ones go when anything comes before `initialize`.
    Gone(String),
}

/// The answer of a server that was too slow with it, and is taken for a legacy one meanwhile. Some that speak both eras speak
/// from then on only the one that they were asked in first.
#[derive(Default)]
pub(super) struct Late(Mutex<Option<JoinHandle<Option<Discovered>>>>);

impl Late {
    /// What the server says of itself, if it is a modern one after all.
    pub(super) async fn word(&self) -> Option<Discovered> {
        let mut asked = self.take()?;
        let said = tokio::time::timeout(LATE, &mut asked).await;
        asked.abort();
        said.ok()?.ok()?
    }

    /// The server has shown that it is a legacy one.
    pub(super) fn forget(&self) {
        if let Some(asked) = self.take() {
            asked.abort();
        }
    }

    fn wait(&self, mut asked: Waiting) {
        let said = tokio::spawn(async move {
            let answer = asked.next_reply().await.answer().ok()?;
            Discovered::read(&answer)
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }

    fn take(&self) -> Option<JoinHandle<Option<Discovered>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Asks the server. What it answers otherwise than a modern one would makes it a legacy one, and so does silence.
pub(super) async fn probe(connection: &Arc<Connection>, stopped: &CancellationToken) -> Found {
    let params = modern::dress(None, Asker::default(), Answering::Asker);
    let mut asked = connection.request_as_it_is(DISCOVER, params).await;
    let reply = tokio::select! {
        reply = asked.next_reply() => reply,
        () = stopped.cancelled() => return Found::Gone("this gateway is ending".to_owned()),
        () = tokio::time::sleep(PATIENCE) => {
            let server = connection.server();
            tracing::info!(server, "no answer to `server/discover`: the MCP server is taken for a legacy one");
            connection.late.wait(asked);
            return Found::Legacy;
        }
    };
    match reply {
        Reply::Lost(reason) => Found::Gone(reason),
        reply => {
            let discovered = reply.answer().ok().and_then(|answer| Discovered::read(&answer));
            discovered.map_or(Found::Legacy, Found::Modern)
        }
    }
}
