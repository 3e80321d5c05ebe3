//! Who asks: a legacy client as it has said once for all, or a modern one as this request says.

use std::sync::Arc;
use std::time::Duration;

use super::{Gateway, lock};
use crate::clients::{Patience, Profile};
use crate::message::Fields;
use crate::modern::{Capabilities, Meta, severity};
use crate::revision::{Era, Revision};

/// Of how many clients it is remembered how patient they are.
const REMEMBERED_MAX: usize = 64;

/// A client, for the time of one request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// What it speaks.
    pub(super) revision: Revision,
    /// How it calls itself.
    pub(super) name: String,
    /// What it can do.
    pub(super) capabilities: Capabilities,
    /// From which severity on this request hears log messages; a legacy client has told the server.
    pub(super) log_level: Option<usize>,
}

impl Caller {
    /// As `initialize` says.
    pub(super) fn legacy(initialize: &Fields, revision: Revision) -> Caller {
        let name = initialize.read::<Fields>("clientInfo").and_then(|info| info.read("name"));
        let declared: Fields = initialize.read("capabilities").unwrap_or_default();
        Caller {
            revision,
            name: name.unwrap_or_default(),
            capabilities: Capabilities::read(&declared, Era::Legacy),
            log_level: None,
        }
    }

    /// As a request's `_meta` says.
    pub(super) fn modern(meta: Meta) -> Caller {
        Caller {
            revision: Revision::LATEST,
            name: meta.client,
            capabilities: meta.capabilities,
            log_level: meta.log_level.as_deref().and_then(severity),
        }
    }

    /// A client that has not said who it is.
    pub(super) fn unknown() -> Caller {
        Caller {
            revision: Revision::LATEST_LEGACY,
            name: String::new(),
            capabilities: Capabilities::default(),
            log_level: None,
        }
    }

    pub(super) fn is_modern(&self) -> bool {
        self.revision.era() == Era::Modern
    }
}

impl Gateway {
    /// The client that has introduced itself by `initialize`, if one has.
    pub(super) fn legacy_client(&self) -> Option<Arc<Caller>> {
        lock(&self.client).clone()
    }

    /// How long a client waits, as far as it is known.
    pub(super) fn patience(&self, caller: &Caller) -> Patience {
        let known = lock(&self.patience).get(&caller.name).copied();
        known.unwrap_or_else(|| Patience::of(Profile::of(&caller.name)))
    }

    /// The client has given a call up after this time.
    pub(super) fn gave_up(&self, caller: &Caller, waited: Duration) {
        let mut patience = self.patience(caller);
        patience.gave_up_after(waited);
        let mut known = lock(&self.patience);
        if known.len() < REMEMBERED_MAX || known.contains_key(&caller.name) {
            known.insert(caller.name.clone(), patience);
        }
    }
}
