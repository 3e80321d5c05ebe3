//! For tests: a server whose every word the test says itself.

use std::sync::{Arc, Mutex};

use super::connection::{Common, Connection, Wire};
use super::modern::Discovered;
use super::{Launch, Target, Upstream};
use crate::message::Message;
use crate::transport::{Outbound, Outgoing};

/// How such a server is started: not at all.
pub(crate) fn launch() -> Launch {
    let (program, args, env) = ("never started".to_owned(), vec![], vec![]);
    Launch::new("s".to_owned(), Target::Process { program, args, env, cwd: None }, None)
}

/// A server of the modern era that is there, and what it is sent.
pub(crate) fn modern() -> (Arc<Upstream>, Arc<Connection>, Outgoing) {
    let upstream = Upstream::new(launch(), 1024);
    let (out, sent) = Outbound::channel();
    let (memory, parties) = (upstream.memory.clone(), upstream.parties.clone());
    let common = Common { memory, parties, spoke: upstream.spoke.clone() };
    let connection = Connection::new("s", Wire::Lines(Mutex::new(Some(out))), common);
    connection.be_modern(Discovered::default());
    *upstream.current() = Some(connection.clone());
    (upstream, connection, sent)
}

/// The server says something.
pub(crate) async fn says(connection: &Arc<Connection>, message: Message) {
    connection.take(None, message).await;
}
