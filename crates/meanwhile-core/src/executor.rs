//! Who does the work: the seam between the engine and whatever runs a tool.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::Json;
use crate::handle::Handle;
use crate::job::{Failure, Job, Progress};

/// How many reports of progress may wait for the engine before the oldest of them is dropped.
pub(crate) const PROGRESS_QUEUE: usize = 16;

/// How one attempt ended, as the executor knows it.
#[derive(Debug, Clone)]
pub enum Attempt {
    /// The tool's own answer, word for word.
    Answered(Json),
    /// There is no answer, and there will be none.
    Failed(Failure),
    /// The attempt was told to stop. The text says what is known of the work itself.
    Stopped(String),
    /// The worker died: whether the work was done is not known.
    Lost(String),
}

/// What an attempt is given besides its request.
#[derive(Debug, Clone)]
pub struct RunContext {
    handle: Handle,
    cancel: CancellationToken,
    progress: broadcast::Sender<Progress>,
}

impl RunContext {
    pub(crate) fn new(
        handle: Handle,
        cancel: CancellationToken,
    ) -> (RunContext, broadcast::Receiver<Progress>) {
        let (progress, reports) = broadcast::channel(PROGRESS_QUEUE);
        (RunContext { handle, cancel, progress }, reports)
    }

    /// The job's handle. A call that ends inline has one too, though nobody ever hears of it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Resolves when the attempt is to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Reports how far the work is. Never waits: if the engine is behind, the oldest report is dropped, for the later ones replace it.
    pub fn progress(&self, progress: Progress) {
        let _ = self.progress.send(progress);
    }
}

/// Runs tools.
#[async_trait::async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Whether this executor can run that job, which a dead peer left behind. By default it takes up nothing.
    fn serves(&self, _job: &Job) -> bool {
        false
    }

    /// Runs one attempt to its end. When [`RunContext::cancelled`] resolves, the executor stops the work as well as it can
    /// and returns soon, with [`Attempt::Stopped`] or with the answer that came first.
    async fn run(self: Arc<Self>, request: Json, context: RunContext) -> Attempt;
}
