//! What a server says of a task of its own besides what we know of tasks: shown with ours for as long as that one is followed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use meanwhile_core::Handle;

use super::lock;
use crate::message::Fields;

/// In `_meta`: what a model is to be told at once, for it does not see tasks.
const FOR_THE_MODEL: &str = "io.modelcontextprotocol/model-immediate-response";

/// By the handles of our jobs.
#[derive(Default)]
pub(super) struct Extras(Mutex<HashMap<Handle, Fields>>);

impl Extras {
    /// Shows these fields with a job's task until what is returned is dropped.
    pub(super) fn show(self: &Arc<Self>, handle: Handle, fields: Fields) -> Shown {
        if !fields.is_empty() {
            lock(&self.0).insert(handle, fields);
        }
        Shown { extras: self.clone(), handle }
    }

    /// Adds them to a job as a task.
    pub(super) fn add_to(&self, handle: Handle, task: &mut Fields) {
        let Some(fields) = lock(&self.0).get(&handle).cloned() else { return };
        for (name, value) in fields.into_entries() {
            task.set(&name, value);
        }
    }

    /// What the model is to be told at once.
    pub(super) fn for_the_model(&self, handle: Handle) -> Option<String> {
        lock(&self.0).get(&handle)?.read::<Fields>("_meta")?.read(FOR_THE_MODEL)
    }
}

/// Something that is shown.
pub(super) struct Shown {
    extras: Arc<Extras>,
    handle: Handle,
}

impl Drop for Shown {
    fn drop(&mut self) {
        lock(&self.extras.0).remove(&self.handle);
    }
}
