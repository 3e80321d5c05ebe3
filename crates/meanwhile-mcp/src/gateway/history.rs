//! How long the calls of each tool took: in memory, so that a fast call costs no look at the store, and nothing is written
//! for fast calls alone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use meanwhile_core::{Durations, StoreError};

use super::{Gateway, lock};

/// Of so many tools it is remembered; an upstream may answer to any name.
const TOOLS_MAX: usize = 1000;

/// What this session knows.
#[derive(Default)]
pub(super) struct History {
    tools: Mutex<HashMap<String, Known>>,
}

#[derive(Default)]
struct Known {
    durations: Durations,
    /// What of it the store has not been told: calls that ended inline.
    unsaved: Durations,
    /// Whether what the store knew is part of it. A job may have ended since.
    is_read: bool,
}

impl Gateway {
    /// What is known of a tool, for `ask` to judge. Read from the store where that is in use and may know more.
    pub(super) async fn history<T>(&self, tool: &str, ask: impl FnOnce(&Durations) -> T) -> T {
        let is_read = lock(&self.history.tools).get(tool).is_some_and(|known| known.is_read);
        if !is_read && self.ledger.is_in_use() {
            self.read_history(tool).await;
        }
        match lock(&self.history.tools).get(tool) {
            Some(known) => ask(&known.durations),
            None => ask(&Durations::default()),
        }
    }

    async fn read_history(&self, tool: &str) {
        match self.engine.store().durations(&self.settings.launch.name, tool).await {
            Ok(mut durations) => self.history.change(tool, |known| {
                durations.merge(&known.unsaved);
                known.durations = durations;
                known.is_read = true;
            }),
            Err(error) => {
                let server = &self.settings.launch.name;
                tracing::warn!(server, tool, %error, "how long its calls took cannot be read");
            }
        }
    }

    /// Remembers a call that ended inline.
    pub(super) fn took(&self, tool: &str, took: Duration) {
        self.history.change(tool, |known| {
            known.durations.record(took);
            known.unsaved.record(took);
        });
    }

    /// A call of this tool has become a job: the store learns what it does not know, and will know more when the job ends.
    pub(super) async fn save_history(&self, tool: &str) -> Result<(), StoreError> {
        let mut unsaved = Durations::default();
        self.history.change(tool, |known| {
            known.is_read = false;
            unsaved = std::mem::take(&mut known.unsaved);
        });
        if unsaved.count() == 0 {
            return Ok(());
        }
        self.engine.store().learn(&self.settings.launch.name, tool, &unsaved).await
    }

    /// The session ends: the store learns all that it does not know, if there is one.
    pub(super) async fn save_histories(&self) {
        if !self.ledger.is_in_use() {
            return;
        }
        let tools: Vec<String> = lock(&self.history.tools).keys().cloned().collect();
        for tool in tools {
            if let Err(error) = self.save_history(&tool).await {
                let server = &self.settings.launch.name;
                return tracing::warn!(server, tool, %error, "how long its calls took is not stored");
            }
        }
    }
}

impl History {
    fn change(&self, tool: &str, change: impl FnOnce(&mut Known)) {
        let mut tools = lock(&self.tools);
        if let Some(known) = tools.get_mut(tool) {
            change(known);
        } else if tools.len() < TOOLS_MAX {
            change(tools.entry(tool.to_owned()).or_default());
        }
    }
}
