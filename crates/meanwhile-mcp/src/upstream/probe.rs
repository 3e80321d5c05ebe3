//! Which era a server is of: it is asked in the modern way, and what comes back tells.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/versioning>.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Reply};
use super::http::DISCOVER;
use super::memory::Asker;
use super::modern::{self, Discovered};

/// How long a server may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the probe has found.
pub(super) enum Found {
    Modern(Discovered),
    Legacy,
    /// The server is gone. Some legacy ones go when anything comes before `initialize`.
    Gone(String),
}

/// Asks the server. What it answers otherwise than a modern one would makes it a legacy one, and so does silence.
pub(super) async fn probe(connection: &Arc<Connection>, stopped: &CancellationToken) -> Found {
    let params = modern::dress(None, Asker::default());
    let mut asked = connection.request_as_it_is(DISCOVER, params).await;
    let reply = tokio::select! {
        reply = asked.next_reply() => reply,
        () = stopped.cancelled() => return Found::Gone("this gateway is ending".to_owned()),
        () = tokio::time::sleep(PATIENCE) => {
            let server = connection.server();
            tracing::info!(server, "no answer to `server/discover`: the MCP server is taken for a legacy one");
            return Found::Legacy;
        }
    };
    match reply {
        Reply::Answer(answer, _) => Discovered::read(&answer).map_or(Found::Legacy, Found::Modern),
        Reply::Lost(reason) => Found::Gone(reason),
    }
}
