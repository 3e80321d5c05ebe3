//! The stage on which the engine is tested: a store in memory, tokio's paused clock, and a worker played by the test.
//!
//! Paused time moves only when nothing else can, so a wait here costs nothing and always ends the same way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::artifact::Artifacts;
use crate::engine::{Action, Called, Controlled, Engine, Settings, Slots, Waited, read_answer};
use crate::event::{Actor, EventKind};
use crate::executor::{Attempt, Executor, RunContext};
use crate::handle::Handle;
use crate::job::{Call, Job, Policy, Progress, Status};
use crate::store::{Query, Store, StoreError};
use crate::testing::suite::json;
use crate::testing::{MemoryStore, TokioClock};
use crate::{Json, Op, Signal};

pub(super) const BUDGET: Duration = Duration::from_secs(2);
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How long questions wait.
pub(super) const ANSWERS: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
pub(super) const PEER: &str = "one";

/// Not known to be safe to run twice.
pub(super) const ONCE: Policy = Policy { rerun: false, timeout: None, ttl: TTL };
/// Safe to run twice.
pub(super) const SAFE: Policy = Policy { rerun: true, timeout: None, ttl: TTL };

/// The engine under test, and both sides of it.
pub(super) struct Stage {
    pub(super) engine: Arc<Engine>,
    pub(super) store: Arc<MemoryStore>,
    /// Cancels every call that is waited for.
    pub(super) cancel: Arc<Signal>,
    pub(super) hand_off: Arc<Signal>,
    /// What the callers saw of progress.
    pub(super) seen: Arc<Mutex<Vec<f64>>>,
    entrances: mpsc::UnboundedReceiver<Worker>,
    _artifacts: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new() -> Stage {
        Stage::with_slots(100)
    }

    /// With an executor that takes up whatever a dead peer left.
    pub(super) fn serving_all() -> Stage {
        Stage::set(Slots::new(100), true)
    }

    pub(super) fn with_slots(count: usize) -> Stage {
        Stage::sharing(Slots::new(count))
    }

    /// With slots that other engines have as well.
    pub(super) fn sharing(slots: Slots) -> Stage {
        Stage::set(slots, false)
    }

    fn set(slots: Slots, serves_all: bool) -> Stage {
        let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::default())));
        let folder = tempfile::tempdir().expect("a folder for artifacts");
        let (entrance, entrances) = mpsc::unbounded_channel();
        let troupe = Arc::new(Troupe { store: store.clone(), entrance, serves_all });
        let settings = Settings { peer: PEER.to_owned(), slots, lease: LEASE, answer_timeout: Some(ANSWERS) };
        let engine = Engine::new(store.clone(), Artifacts::new(folder.path()), troupe, settings);
        let (cancel, hand_off) = <(Arc<Signal>, Arc<Signal>)>::default();
        Stage { engine, store, cancel, hand_off, seen: Arc::default(), entrances, _artifacts: folder }
    }

    /// A call by a caller who waits in a task of its own.
    pub(super) fn call(&self, call: Call, policy: Policy, budget: Option<Duration>) -> JoinHandle<Called> {
        let (engine, cancel, seen) = (self.engine.clone(), self.cancel.clone(), self.seen.clone());
        let hand_off = self.hand_off.clone();
        let report = move |progress: Progress| seen.lock().unwrap().push(progress.progress);
        tokio::spawn(async move {
            let waited = Waited { budget, cancel: &cancel, hand_off: &hand_off, follows_tasks: false };
            engine.call(&call.request, || &call, policy, waited, report).await
        })
    }

    /// A call that was handed off, and its worker.
    pub(super) async fn handed_off(&mut self, key: Option<&str>, policy: Policy) -> (Job, Worker) {
        let called = self.call(a_call("me", key), policy, Some(BUDGET));
        let worker = self.worker().await;
        (started(soon(called).await.unwrap()), worker)
    }

    /// A call that started as a job.
    pub(super) async fn start(&self, key: Option<&str>, policy: Policy) -> Job {
        started(self.engine.start(a_call("me", key), policy).await.unwrap())
    }

    /// A call that started as a job and runs, and its worker.
    pub(super) async fn running(&mut self, policy: Policy) -> (Job, Worker) {
        (self.start(None, policy).await, self.worker().await)
    }

    /// The worker of the next attempt that is begun.
    pub(super) async fn worker(&mut self) -> Worker {
        soon(self.entrances.recv()).await.expect("the engine is there")
    }

    /// Asserts that no worker is called whom the test has not yet seen, however long one waits.
    pub(super) async fn nobody_else_is_called(&mut self) {
        assert!(tokio::time::timeout(DAY, self.entrances.recv()).await.is_err(), "one attempt too many");
    }

    pub(super) async fn job(&self, handle: Handle) -> Job {
        self.store.job(handle).await.unwrap().expect("the job is there")
    }

    pub(super) async fn status(&self, handle: Handle) -> Status {
        self.job(handle).await.status
    }

    pub(super) async fn jobs(&self) -> Vec<Job> {
        self.store.list(&Query { limit: 1000, ..Query::default() }).await.unwrap()
    }

    /// The job once it has ended.
    pub(super) async fn ended(&self, handle: Handle) -> Job {
        self.once(handle, |job| job.status.is_terminal()).await
    }

    /// The job once it is so.
    pub(super) async fn once(&self, handle: Handle, is_so: impl Fn(&Job) -> bool) -> Job {
        let mut changes = self.store.changes().of(handle);
        loop {
            let job = self.job(handle).await;
            if is_so(&job) {
                return job;
            }
            let changed = tokio::time::timeout(DAY, changes.changed()).await;
            assert!(changed.is_ok(), "{} for ever", job.status.name());
        }
    }

    pub(super) async fn answer(&self, job: &Job) -> Option<String> {
        let answer = read_answer(&*self.store, self.engine.artifacts(), job).await.unwrap();
        answer.map(|answer| answer.get().to_owned())
    }

    pub(super) async fn events(&self, handle: Handle) -> Vec<EventKind> {
        let events = self.store.events(handle, 0, usize::MAX).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    /// What the log keeps of progress.
    pub(super) async fn progress_log(&self, handle: Handle) -> Vec<f64> {
        let of = |kind| if let EventKind::Progress(progress) = kind { Some(progress.progress) } else { None };
        self.events(handle).await.into_iter().filter_map(of).collect()
    }

    pub(super) async fn apply(&self, handle: Handle, op: Op) -> Result<Job, StoreError> {
        self.store.apply(handle, op).await
    }

    pub(super) async fn control(&self, handle: Handle, action: Action) -> Controlled {
        self.engine.control("me", handle, action, Actor::Agent).await.unwrap()
    }

    /// As [`Stage::control`], where it is known to be allowed.
    pub(super) async fn order(&self, handle: Handle, action: Action) -> Job {
        match self.control(handle, action).await {
            Controlled::Done(job) => job,
            other => panic!("not done: {other:?}"),
        }
    }

    /// A cancellation that is asked for in a task of its own, for it waits until the worker has stopped.
    pub(super) fn cancel_soon(&self, handle: Handle) -> JoinHandle<Job> {
        let engine = self.engine.clone();
        tokio::spawn(async move {
            match engine.control("me", handle, Action::Cancel, Actor::Agent).await.unwrap() {
                Controlled::Done(job) => job,
                other => panic!("not done: {other:?}"),
            }
        })
    }
}

/// One attempt, played by the test. Dropped, it never ends and never hears that it is to stop.
pub(super) struct Worker {
    pub(super) request: Json,
    /// What the store held of its job when it was first called.
    pub(super) written: Option<Status>,
    pub(super) context: RunContext,
    end: oneshot::Sender<Attempt>,
}

impl Worker {
    pub(super) fn handle(&self) -> Handle {
        self.context.handle()
    }

    pub(super) fn answers(self, text: &str) {
        self.ends(Attempt::Answered(json(text)));
    }

    pub(super) fn dies(self) {
        self.ends(Attempt::Lost("it crashed".to_owned()));
    }

    pub(super) fn ends(self, attempt: Attempt) {
        assert!(self.end.send(attempt).is_ok(), "nobody listens to this worker any more");
    }

    pub(super) fn reports(&self, progress: f64) {
        self.context.progress(Progress { progress, ..Progress::default() });
    }

    /// Returns once the worker is told to stop.
    pub(super) async fn is_told_to_stop(&self) {
        soon(self.context.cancelled()).await;
    }

    pub(super) async fn is_left_alone(&self) {
        assert!(tokio::time::timeout(DAY, self.context.cancelled()).await.is_err(), "told to stop");
    }

    /// Returns once nobody waits for the worker any more.
    pub(super) async fn is_given_up(&mut self) {
        soon(self.end.closed()).await;
    }
}

/// The executor that lets the test play the workers.
struct Troupe {
    store: Arc<MemoryStore>,
    entrance: mpsc::UnboundedSender<Worker>,
    serves_all: bool,
}

#[async_trait::async_trait]
impl Executor for Troupe {
    fn serves(&self, _job: &Job) -> bool {
        self.serves_all
    }

    async fn run(self: Arc<Self>, request: Json, context: RunContext) -> Attempt {
        let written = self.store.job(context.handle()).await.unwrap().map(|job| job.status);
        let (end, ended) = oneshot::channel();
        let _ = self.entrance.send(Worker { request, written, context, end });
        match ended.await {
            Ok(attempt) => attempt,
            Err(_) => std::future::pending().await,
        }
    }
}

pub(super) fn a_call(scope: &str, key: Option<&str>) -> Call {
    Call {
        scope: scope.to_owned(),
        server: "files".to_owned(),
        tool: "render".to_owned(),
        request: json(r#"{"name":"render","n":1.0}"#),
        join_key: key.map(str::to_owned),
        retry_key: None,
        conversation: None,
    }
}

pub(super) fn started(called: Called) -> Job {
    match called {
        Called::Started(job) | Called::Beside(job, _) => job,
        other => panic!("not started: {other:?}"),
    }
}

pub(super) fn joined(called: Called) -> Job {
    match called {
        Called::Joined(job) => job,
        other => panic!("not joined: {other:?}"),
    }
}

pub(super) fn ended(called: Called) -> Attempt {
    match called {
        Called::Ended(attempt) => attempt,
        other => panic!("not ended: {other:?}"),
    }
}

pub(super) fn answered(called: Called) -> String {
    match ended(called) {
        Attempt::Answered(answer) => answer.get().to_owned(),
        other => panic!("not answered: {other:?}"),
    }
}

/// What must come within a day of paused time, or never does.
pub(super) async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(DAY, event).await.expect("it comes within a day")
}

/// Returns when everything that can happen without time passing has happened.
pub(super) async fn all_is_quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
