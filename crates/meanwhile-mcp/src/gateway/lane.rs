//! The way to the upstream, in the order of the client's messages.
//!
//! A message may have to wait for a server that is being started again. It waits here, and not in the loop that reads the
//! client, so that what needs no server (a poll, a cancellation of a job) is answered meanwhile.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

/// How many messages may wait before the client is no longer read.
const WAITING_MAX: usize = 1024;

type Turn = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Lane {
    turns: mpsc::Sender<Turn>,
    waiting: Arc<AtomicUsize>,
}

impl Lane {
    pub(super) fn start() -> Lane {
        let (turns, mut queue) = mpsc::channel::<Turn>(WAITING_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = waiting.clone();
        tokio::spawn(async move {
            while let Some(turn) = queue.recv().await {
                turn.await;
                left.fetch_sub(1, Ordering::Relaxed);
            }
        });
        Lane { turns, waiting }
    }

    /// Does this behind all that was sent before.
    pub(super) async fn send(&self, turn: impl Future<Output = ()> + Send + 'static) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.turns.send(Box::pin(turn)).await;
    }

    /// A place behind all that was sent until now; `None` if nothing waits.
    pub(super) async fn place(&self) -> Option<oneshot::Receiver<()>> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let (reached, place) = oneshot::channel();
        self.send(async move {
            let _ = reached.send(());
        })
        .await;
        Some(place)
    }
}
