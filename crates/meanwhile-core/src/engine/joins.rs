//! Which unfinished jobs of this process a repeat of their call joins.

use std::collections::HashMap;
use std::sync::Arc;

use crate::handle::Handle;

/// A scope and a join key.
type Key = Arc<(String, String)>;

/// Found by their call, forgotten by their handle; neither costs more for being many.
#[derive(Debug, Default)]
pub(super) struct Joins {
    /// The oldest first.
    jobs: HashMap<Key, Vec<Handle>>,
    keys: HashMap<Handle, Key>,
}

impl Joins {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn add(&mut self, scope: &str, key: &str, handle: Handle) {
        let key = Key::new((scope.to_owned(), key.to_owned()));
        self.jobs.entry(key.clone()).or_default().push(handle);
        self.keys.insert(handle, key);
    }

    pub(super) fn of(&self, scope: &str, key: &str) -> Vec<Handle> {
        self.jobs.get(&(scope.to_owned(), key.to_owned())).cloned().unwrap_or_default()
    }

    pub(super) fn remove(&mut self, handle: Handle) {
        let Some(key) = self.keys.remove(&handle) else { return };
        let Some(jobs) = self.jobs.get_mut(&key) else { return };
        jobs.retain(|job| *job != handle);
        if jobs.is_empty() {
            self.jobs.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_job_of_a_call_comes_first_and_nothing_is_left_of_what_has_ended() {
        let [one, other, last] = [Handle::random(), Handle::random(), Handle::random()];
        let mut joins = Joins::default();
        joins.add("me", "a", one);
        joins.add("me", "a", other);
        joins.add("you", "a", last);
        assert_eq!(joins.of("me", "a"), [one, other]);
        joins.remove(one);
        joins.remove(one);
        assert_eq!((joins.of("me", "a"), joins.of("you", "a")), (vec![other], vec![last]));
        joins.remove(other);
        joins.remove(last);
        assert!(joins.is_empty() && joins.jobs.is_empty());
    }
}
