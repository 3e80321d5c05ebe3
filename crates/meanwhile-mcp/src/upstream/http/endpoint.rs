//! The transport of 2024-11-05: one stream of events for all that the server says, which begins with where messages are to go.
//! See <https://modelcontextprotocol.io/specification/2024-11-05/basic/transports#http-with-sse>.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Response, StatusCode, Url};

use super::sse::Decoder;
use super::{CONNECT, Failure, Http, failure};
use crate::message::Message;
use crate::upstream::connection::Connection;

/// How long a server that may have this transport is given to show it.
const SHOWN: Duration = Duration::from_secs(10);

/// Which transport a server has.
#[derive(Clone)]
pub(super) enum Transport {
    Streamable,
    /// It did not let itself be introduced by that one, and is being tried for this one.
    Tried,
    /// This one. Where messages go the server says itself.
    Old(Option<Url>),
}

impl Http {
    /// Whether the server has this transport.
    pub(super) fn is_old(&self) -> bool {
        matches!(*self.transport.borrow(), Transport::Old(_))
    }

    /// Where messages go.
    pub(super) async fn target(&self) -> Result<Url, Failure> {
        let mut transport = self.transport.subscribe();
        let is_known = |transport: &Transport| !matches!(transport, Transport::Old(None));
        let known = tokio::time::timeout(CONNECT, transport.wait_for(is_known)).await;
        match known.ok().and_then(Result::ok).as_deref() {
            Some(Transport::Old(Some(url))) => Ok(url.clone()),
            Some(_) => Ok(self.url.clone()),
            None => Err(Failure::Refused("has not said where messages go".to_owned())),
        }
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
        if !may_be || !is_introduction || !self.becomes(Transport::Tried) {
            return false;
        }
        let begun = tokio::time::timeout(SHOWN, self.begin_stream(connection)).await;
        let Ok(begun @ Ok(_)) = begun else {
            self.becomes(Transport::Streamable);
            return false;
        };
        let (http, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move { http.read_stream(&connection, begun).await });
        true
    }

    /// Opens the one stream, and reads it until it has said where messages go.
    async fn begin_stream(&self, connection: &Arc<Connection>) -> Result<(Response, Decoder), Failure> {
        let (mut response, mut decoder) = (self.open().await?, Decoder::new(self.max_message));
        while !matches!(*self.transport.borrow(), Transport::Old(Some(_))) {
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
        if name != "endpoint" || matches!(*self.transport.borrow(), Transport::Streamable) {
            return;
        }
        match self.url.join(data.trim()) {
            Ok(url) if url.origin() == self.url.origin() => drop(self.becomes(Transport::Old(Some(url)))),
            _ => {
                let server = connection.server();
                tracing::error!(
                    server,
                    "the MCP server wants messages at another place, which is not followed"
                );
            }
        }
    }

    /// Takes note of the transport, and returns whether that is another one. What has shown to be the old one stays so.
    fn becomes(&self, transport: Transport) -> bool {
        self.transport.send_if_modified(|now| {
            use Transport::{Old, Streamable, Tried};
            let is_new =
                matches!((&*now, &transport), (Streamable, Tried) | (Tried, Streamable) | (_, Old(_)));
            if is_new {
                *now = transport;
            }
            is_new
        })
    }
}
