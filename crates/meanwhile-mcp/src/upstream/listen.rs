//! What a modern server is to tell of its own accord: one subscription that is held open as long as the server is there, and
//! replaced when the client wants to hear of other resources.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/patterns/subscriptions>.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::Json;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::connection::{Connection, Reply, Waiting};
use crate::message::{Answer, to_json};

/// How long it is waited for that the server acknowledges.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);
/// The first pause before a subscription that the server has ended is made again; it doubles with each one that ends soon.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How far the server is known to tell what the client wants to hear: the version of [`super::memory::Memory`]'s resources.
pub(super) type Heard = watch::Sender<u64>;

/// Waits until the server tells of these resources too, or can be taken not to.
pub(super) async fn until_heard(connection: &Connection, version: u64) {
    let mut heard = connection.heard.subscribe();
    let enough = tokio::time::timeout(ACKNOWLEDGE, heard.wait_for(|heard| *heard >= version));
    tokio::select! {
        _ = enough => {}
        () = connection.closed() => {}
    }
}

/// Holds the subscription until the server is gone.
pub(super) async fn hold(connection: Arc<Connection>) {
    let mut resources = connection.memory.watch_resources();
    let mut held: Option<Waiting> = None;
    let mut pause = PAUSE_FIRST;
    loop {
        let version = *resources.borrow_and_update();
        let before = held.take();
        if let Some(wanted) = wanted(&connection) {
            let mut asked = connection.request("subscriptions/listen", Some(wanted)).await;
            held = acknowledged(&connection, &mut asked).await.then_some(asked);
        }
        connection.heard.send_replace(version);
        if let Some(before) = before {
            before.cancel("replaced by another subscription").await;
        }
        tokio::select! {
            _ = resources.changed() => pause = PAUSE_FIRST,
            again = ended(held.as_mut()) => {
                held = None;
                if again {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = connection.closed() => return,
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                } else if resources.changed().await.is_err() {
                    return;
                }
            }
            () = connection.closed() => return,
        }
    }
}

/// What the client wants to hear of; `None` if the server has nothing of the kind to tell.
fn wanted(connection: &Connection) -> Option<Json> {
    let discovered = connection.discovered()?;
    let mut notifications = Map::new();
    for (what, filter) in [
        ("tools", "toolsListChanged"),
        ("prompts", "promptsListChanged"),
        ("resources", "resourcesListChanged"),
    ] {
        if discovered.announces(what) {
            notifications.insert(filter.to_owned(), Value::Bool(true));
        }
    }
    let resources = connection.memory.resources();
    if !resources.is_empty() {
        notifications.insert("resourceSubscriptions".to_owned(), json!(resources));
    }
    (!notifications.is_empty()).then(|| to_json(&json!({"notifications": notifications})))
}

/// Waits until the server has acknowledged it. Returns whether it is worth holding.
async fn acknowledged(connection: &Connection, asked: &mut Waiting) -> bool {
    let mut acknowledged = connection.acknowledged();
    let id = asked.id();
    tokio::select! {
        reply = asked.next_reply() => {
            tracing::info!(server = connection.server(), ?reply, "the MCP server does not tell what changes");
            false
        }
        _ = acknowledged.wait_for(|last| *last == id) => true,
        () = tokio::time::sleep(ACKNOWLEDGE) => true,
    }
}

/// Waits until the server ends it. Returns whether it is to be asked again.
async fn ended(held: Option<&mut Waiting>) -> bool {
    let Some(held) = held else { return std::future::pending().await };
    !matches!(held.next_reply().await, Reply::Answer(Answer::Error(_), _) | Reply::Refused(_))
}
