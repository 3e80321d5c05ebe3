//! The transport of 2024-11-05: one stream of events for all that the server says, which begins with where messages are to go.
//! See <https://modelcontextprotocol.io/specification/2024-11-05/basic/transports#http-with-sse>.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::{Response, StatusCode, Url};

use super::sse::Decoder;
use super::{CONNECT, Failure, Http, failure};
use crate::message::Message;
use crate::upstream::connection::Connection;

/// How long a server that may have this transport is given to show it.
const SHOWN: Duration = Duration::from_secs(10);

impl Http {
    /// Whether the server has this transport.
    pub(super) fn is_old(&self) -> bool {
        self.is_old.load(Ordering::Relaxed)
    }

    /// Where messages go.
    pub(super) async fn target(&self) -> Result<Url, Failure> {
        if !self.is_old() {
            return Ok(self.url.clone());
        }
        let mut endpoint = self.endpoint.subscribe();
        let known = tokio::time::timeout(CONNECT, endpoint.wait_for(Option::is_some)).await;
        let known = known.ok().and_then(Result::ok).and_then(|url| url.clone());
        known.ok_or_else(|| Failure::Refused("has not said where messages go".to_owned()))
    }

    /// Reads the one stream until it ends, or the connection is to end.
    pub(super) async fn hold_stream(&self, connection: &Arc<Connection>) {
        tokio::select! {
            begun = self.begin_stream(connection) => self.read_stream(connection, begun).await,
            () = connection.stop.raised() => {}
        }
    }

    /// Whether a server that does not let itself be introduced has this transport: nobody has said so, but it shows it. If so, its
    /// stream is held from now on
    /// (<https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#backwards-compatibility>).
    pub(super) async fn turns_out_old(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        message: &Message,
        status: StatusCode,
    ) -> bool {
        let may_be = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED]
            .contains(&status);
        let is_introduction = matches!(message, Message::Request { method, .. } if method == "initialize");
        if !may_be || !is_introduction || self.is_old() || self.may_be_old.swap(true, Ordering::Relaxed) {
            return false;
        }
        let begun = tokio::time::timeout(SHOWN, self.begin_stream(connection)).await;
        self.may_be_old.store(false, Ordering::Relaxed);
        let Ok(begun @ Ok(_)) = begun else { return false };
        self.is_old.store(true, Ordering::Relaxed);
        let (http, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move { http.read_stream(&connection, begun).await });
        true
    }

    /// Opens the one stream, and reads it until it has said where messages go.
    async fn begin_stream(&self, connection: &Arc<Connection>) -> Result<(Response, Decoder), Failure> {
        let (mut response, mut decoder) = (self.open().await?, Decoder::new(self.max_message));
        while self.endpoint.borrow().is_none() {
            let Some(bytes) = response.chunk().await.map_err(|error| failure(&error))? else {
                return Err(Failure::Lost("ended its stream".to_owned()));
            };
            self.take(connection, decoder.push(&bytes), None).await;
        }
        Ok((response, decoder))
    }

    async fn read_stream(&self, connection: &Arc<Connection>, begun: Result<(Response, Decoder), Failure>) {
        let read = async {
            let (response, mut decoder) = begun?;
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
        let is_asked_for = self.is_old() || self.may_be_old.load(Ordering::Relaxed);
        if !is_asked_for || name != "endpoint" {
            return;
        }
        match self.url.join(data.trim()) {
            Ok(url) if url.origin() == self.url.origin() => drop(self.endpoint.send_replace(Some(url))),
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
