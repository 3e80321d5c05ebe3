//! Something that happens once, told to whoever waits for it.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A signal that is raised once and stays so. It lies in what its two sides share anyway, so that one more of it in each
/// call costs no memory of its own.
#[derive(Debug, Default)]
pub struct Signal {
    is_raised: AtomicBool,
    waiting: Notify,
}

impl Signal {
    /// Raises it, for good.
    pub fn raise(&self) {
        self.is_raised.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    /// Whether it has been raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.is_raised.load(Ordering::Acquire)
    }

    /// Resolves when it is raised, or at once if it has been.
    pub async fn raised(&self) {
        // From here on it is heard, so nothing falls between the look and the wait.
        let raised = self.waiting.notified();
        if !self.is_raised() {
            raised.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_told_and_whoever_comes_later_does_not_wait() {
        let signal = Arc::new(Signal::default());
        let waits: Vec<_> = (0..3)
            .map(|_| {
                let signal = signal.clone();
                tokio::spawn(async move { signal.raised().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!signal.is_raised());
        signal.raise();
        for wait in waits {
            wait.await.unwrap();
        }
        signal.raised().await;
    }
}
