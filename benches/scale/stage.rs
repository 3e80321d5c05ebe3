//! One store behind one engine, and what agents do there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use meanwhile_core::artifact::Artifacts;
use meanwhile_core::engine::{Settings, Slots, Until, read_answer, wait};
use meanwhile_core::{
    Attempt, Call, Called, Engine, Executor, Handle, Json, Policy, RunContext, Snapshot, Store, SystemClock,
};
use meanwhile_sqlite::SqliteStore;
use serde_json::value::RawValue;
use tokio::sync::Notify;

/// The scope that is measured, as long as those of a wrapper are.
pub(crate) const SCOPE: &str = "user/fixture-upstream/a-project-in-some-folder";
/// As the wrapper has it.
const LEASE: Duration = Duration::from_secs(30);
/// A request with this in it runs until it is cancelled; one with [`GATED`] until the gate opens.
pub(crate) const ENDLESS: &str = "endless";
pub(crate) const GATED: &str = "gated";

/// What a tool is called with. Calls of different names are different calls.
pub(crate) fn call(name: &str) -> Call {
    Call {
        scope: SCOPE.to_owned(),
        server: "fixture".to_owned(),
        tool: "work".to_owned(),
        request: text(format!(r#"{{"name":"work","arguments":{{"task":"{name}"}}}}"#)),
        join_key: Some(Handle::random().to_string()),
        retry_key: None,
        conversation: None,
    }
}

pub(crate) fn policy() -> Policy {
    Policy { rerun: false, timeout: None, ttl: Duration::from_secs(24 * 3600) }
}

pub(crate) fn answer() -> Attempt {
    Attempt::Answered(text(r#"{"content":[{"type":"text","text":"done, and well"}]}"#.to_owned()))
}

fn text(json: String) -> Json {
    RawValue::from_string(json).expect("it is JSON, written here")
}

/// The tool.
#[derive(Default)]
struct Tool {
    gate: Notify,
}

#[async_trait::async_trait]
impl Executor for Tool {
    async fn run(self: Arc<Self>, request: Json, context: RunContext) -> Attempt {
        if request.get().contains(ENDLESS) {
            context.cancelled().await;
            return Attempt::Stopped("told to stop".to_owned());
        }
        if request.get().contains(GATED) {
            self.gate.notified().await;
        }
        answer()
    }
}

/// A store, its engine, and the tool behind it. A clone is the same.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) artifacts: Artifacts,
    /// The same file as another process would have it.
    pub(crate) neighbour: Arc<SqliteStore>,
    engine: Arc<Engine>,
    tool: Arc<Tool>,
}

impl Stage {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Stage> {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::new(path.to_owned(), Arc::new(SystemClock)));
        let neighbour = Arc::new(SqliteStore::new(path.to_owned(), Arc::new(SystemClock)));
        let artifacts = Artifacts::new(path.parent().context("a folder")?.join("artifacts"));
        let tool = Arc::new(Tool::default());
        let settings = Settings {
            peer: "bench".to_owned(),
            slots: Slots::new(usize::MAX),
            lease: LEASE,
            answer_timeout: None,
        };
        let engine = Engine::new(store.clone(), artifacts.clone(), tool.clone(), settings);
        Ok(Stage { store, artifacts, neighbour, engine, tool })
    }

    /// Starts a job: the handle is there when it is committed.
    pub(crate) async fn start(&self, name: &str) -> anyhow::Result<Handle> {
        match self.engine.start(call(name), policy()).await? {
            Called::Started(job) | Called::Beside(job, _) => Ok(job.handle),
            other => bail!("not started: {other:?}"),
        }
    }

    /// Ends a job that is [`GATED`].
    pub(crate) fn open_gate(&self) {
        self.tool.gate.notify_one();
    }

    /// What a poll asks of the store: the job and its answer, or how many are before it. Whether there was an answer.
    pub(crate) async fn poll(&self, handle: Handle, patience: Duration) -> anyhow::Result<bool> {
        let jobs = wait(&*self.store, Some(SCOPE), &[handle], Until::Any, patience).await?;
        let Snapshot { job, answer } = jobs.into_iter().next().flatten().context("the job is there")?;
        if answer.is_some() {
            return Ok(true);
        }
        if job.status.is_terminal() {
            return Ok(read_answer(&*self.store, &self.artifacts, &job).await?.is_some());
        }
        self.store.ahead(handle).await?;
        Ok(false)
    }
}
