//! Who does the work: the seam between the engine and whatever runs a tool.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use crate::Json;
use crate::handle::Handle;
use crate::job::{Failure, Job, Progress};
use crate::signal::Signal;

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
pub struct RunContext(Arc<Shared>);

/// What an attempt and whoever looks after it have in common.
#[derive(Debug)]
struct Shared {
    handle: OnceLock<Handle>,
    stop: Signal,
    reports: Mutex<VecDeque<Progress>>,
    reported: Notify,
}

impl RunContext {
    /// Of the job with this handle; without one it gets its own when it is asked for.
    pub(crate) fn new(handle: Option<Handle>) -> RunContext {
        RunContext(Arc::new(Shared {
            handle: handle.map(OnceLock::from).unwrap_or_default(),
            stop: Signal::default(),
            reports: Mutex::default(),
            reported: Notify::new(),
        }))
    }

    /// The job's handle. A call that ends inline has one too, though nobody ever hears of it, so it is drawn at the first
    /// question.
    #[must_use]
    pub fn handle(&self) -> Handle {
        *self.0.handle.get_or_init(Handle::random)
    }

    pub(crate) fn stop(&self) {
        self.0.stop.raise();
    }

    /// Resolves when the attempt is to stop.
    pub async fn cancelled(&self) {
        self.0.stop.raised().await;
    }

    /// Reports how far the work is. Never waits: if the engine is behind, the oldest report is dropped, for the later ones replace it.
    pub fn progress(&self, progress: Progress) {
        let mut reports = self.reports();
        if reports.len() == PROGRESS_QUEUE {
            reports.pop_front();
        }
        reports.push_back(progress);
        drop(reports);
        self.0.reported.notify_one();
    }

    /// The oldest report that has not been heard.
    pub(crate) fn heard(&self) -> Option<Progress> {
        self.reports().pop_front()
    }

    /// Waits for the next report. Only one may wait.
    pub(crate) async fn report(&self) -> Progress {
        loop {
            if let Some(progress) = self.heard() {
                return progress;
            }
            // A report that came in between is remembered by the notice.
            self.0.reported.notified().await;
        }
    }

    fn reports(&self) -> std::sync::MutexGuard<'_, VecDeque<Progress>> {
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner)
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
