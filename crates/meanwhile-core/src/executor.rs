//! Who does the work: the seam between the engine and whatever runs a tool.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::Json;
use crate::handle::Handle;
use crate::job::{Failure, Job, Progress};
use crate::signal::Signal;

/// How many reports of progress may wait for the engine before the oldest of them is dropped.
pub(crate) const PROGRESS_QUEUE: usize = 16;

/// How many wishes may wait for the engine before the next one is declined.
const WISHES_MAX: usize = 100;

/// How one attempt ended, as the executor knows it.
#[derive(Debug, Clone)]
pub enum Attempt {
    /// The tool's own answer, word for word.
    Answered(Json),
    /// There is no answer, and there will be none.
    Failed(Failure),
    /// The attempt was told to stop. The text says what is known of the work itself.
    Stopped(String),
    /// The worker died: whether the work was done is not known. A job whose work goes on at the upstream
    /// ([`RunContext::attach`]) has another attempt at once, so an executor is to pause before it tries again in vain.
    Lost(String),
}

/// What an attempt wants of whoever drives it.
#[derive(Debug)]
pub(crate) enum Wish {
    Ask(Ask),
    Attach(Attach),
    /// A caller that has tasks need not wait for it.
    Task,
}

/// Questions, and where their answers are waited for. Dropped, they are not answered.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) questions: Vec<Json>,
    pub(crate) reply: oneshot::Sender<Vec<Json>>,
}

/// A task of the upstream that is to be remembered. Dropped, it is not.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) task: String,
    pub(crate) kept: oneshot::Sender<()>,
}

/// What an attempt says to whoever drives it.
#[derive(Debug)]
pub(crate) enum Word {
    Progress(Progress),
    Wish(Wish),
}

/// What an attempt is given besides its request.
#[derive(Debug, Clone)]
pub struct RunContext(Arc<Shared>);

/// What an attempt and whoever looks after it have in common.
#[derive(Debug)]
struct Shared {
    handle: OnceLock<Handle>,
    stop: Signal,
    is_job: AtomicBool,
    /// The call has become a job, or is over.
    landed: Signal,
    attached: Option<String>,
    said: Mutex<Said>,
    /// Something was said.
    spoke: Notify,
}

/// What an attempt said that has not been heard yet.
#[derive(Debug, Default)]
struct Said {
    reports: VecDeque<Progress>,
    wishes: VecDeque<Wish>,
    /// Nobody drives the attempt any more.
    is_over: bool,
}

impl Said {
    fn next(&mut self) -> Option<Word> {
        let progress = self.reports.pop_front().map(Word::Progress);
        progress.or_else(|| self.wishes.pop_front().map(Word::Wish))
    }
}

impl RunContext {
    /// Of the job with this handle; without one it gets its own when it is asked for. `attached` is what an earlier attempt
    /// had attached.
    pub(crate) fn new(handle: Option<Handle>, attached: Option<String>) -> RunContext {
        RunContext(Arc::new(Shared {
            handle: handle.map(OnceLock::from).unwrap_or_default(),
            stop: Signal::default(),
            is_job: AtomicBool::new(false),
            landed: Signal::default(),
            attached,
            said: Mutex::default(),
            spoke: Notify::new(),
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
        let mut said = self.said();
        if said.reports.len() == PROGRESS_QUEUE {
            said.reports.pop_front();
        }
        said.reports.push_back(progress);
        drop(said);
        self.0.spoke.notify_one();
    }

    /// Whether the attempt is over, and was not told to stop: its call has its answer.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.said().is_over && !self.0.stop.is_raised()
    }

    /// Whether the call has become a job. One that is waited for may still become one.
    #[must_use]
    pub fn is_job(&self) -> bool {
        self.0.is_job.load(Ordering::Acquire)
    }

    /// The call is committed as a job.
    pub(crate) fn becomes_job(&self) {
        self.0.is_job.store(true, Ordering::Release);
        self.0.landed.raise();
    }

    /// Resolves when the call has become a job, or its attempt is over.
    pub async fn landed(&self) {
        self.0.landed.raised().await;
    }

    /// Asks whoever looks after the job, and returns the answers in the order of the questions, at most
    /// [`crate::job::Input::COUNT_MAX`] in the life of a job and each at most [`crate::job::Input::BYTES_MAX`]. A call that is waited
    /// for becomes a job by it at once, if it has a budget.
    ///
    /// `None` if they were not all answered: the attempt is to stop, the time for answers ran out, the questions were too many or
    /// too large, or the call has no budget and so cannot become a job. What is asked is withdrawn if the future is dropped.
    pub async fn ask(&self, questions: Vec<Json>) -> Option<Vec<Json>> {
        if questions.is_empty() {
            return Some(vec![]);
        }
        let (reply, answers) = oneshot::channel();
        self.wish(Wish::Ask(Ask { questions, reply }));
        tokio::select! {
            biased;
            answers = answers => answers.ok(),
            () = self.cancelled() => None,
        }
    }

    /// Remembers how a later attempt finds the work again that goes on at the upstream as a task of its own; at most
    /// [`crate::job::UPSTREAM_TASK_MAX`] bytes. Returns once that is stored, or, while the call is waited for, once it will be
    /// stored with its job; and whether it is.
    pub async fn attach(&self, task: String) -> bool {
        let (kept, is_kept) = oneshot::channel();
        self.wish(Wish::Attach(Attach { task, kept }));
        is_kept.await.is_ok()
    }

    /// Says that the upstream has made a task of the call: a caller that has tasks as well need not wait for its end.
    pub fn is_a_task(&self) {
        self.wish(Wish::Task);
    }

    /// What an earlier attempt had attached: the executor goes on with that instead of doing the call again.
    #[must_use]
    pub fn attached(&self) -> Option<String> {
        self.0.attached.clone()
    }

    fn wish(&self, wish: Wish) {
        let mut said = self.said();
        if !said.is_over && said.wishes.len() < WISHES_MAX {
            said.wishes.push_back(wish);
        }
        drop(said);
        self.0.spoke.notify_one();
    }

    /// The oldest report that has not been heard.
    pub(crate) fn heard(&self) -> Option<Progress> {
        self.said().reports.pop_front()
    }

    /// Waits for the next thing that is said. Only one may wait.
    pub(crate) async fn word(&self) -> Word {
        loop {
            if let Some(word) = self.said().next() {
                return word;
            }
            // What came in between is remembered by the notice.
            self.0.spoke.notified().await;
        }
    }

    /// Nobody listens any more: what was wished for, or will be, is declined.
    pub(crate) fn close(&self) {
        let mut said = self.said();
        said.is_over = true;
        let declined = std::mem::take(&mut said.wishes);
        drop(said);
        drop(declined);
        self.0.landed.raise();
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
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
