//! The transport of 2024-11-05: one stream of events for all that the server says, which begins with where messages are to go.
//! See <https://modelcontextprotocol.io/specification/2024-11-05/basic/transports#http-with-sse>.

use std::sync::Arc;

use super::Http;
use super::sse::Decoder;
use crate::upstream::connection::Connection;

impl Http {
    /// Reads the one stream until it ends, or the connection is to end.
    pub(super) async fn hold_stream(&self, connection: &Arc<Connection>) {
        let read = async {
            let response = self.open().await?;
            let mut decoder = Decoder::new(self.max_message);
            self.events(connection, &mut decoder, response, None).await
        };
        let ended = tokio::select! {
            ended = read => ended,
            () = connection.stop.raised() => return,
        };
        let why = match ended {
            Ok(()) => "ended its stream".to_owned(),
            Err(failure) => failure.why().to_owned(),
        };
        connection.close(format!("the MCP server `{}` {why}", connection.server()));
    }

    /// Takes an event that is no message.
    pub(super) fn other_event(&self, connection: &Connection, name: &str, data: &str) {
        let Some(endpoint) = self.endpoint.as_ref().filter(|_| name == "endpoint") else { return };
        match self.url.join(data.trim()) {
            Ok(url) if url.origin() == self.url.origin() => drop(endpoint.send_replace(Some(url))),
            _ => {
                let server = connection.server();
                tracing::error!(
                    server,
                    "the MCP server wants messages at another place, which is not followed"
                );
            }
        }
    }
}
