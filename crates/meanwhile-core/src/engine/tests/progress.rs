//! Progress is thinned, and the last of it is kept.

use std::sync::Arc;
use std::time::Duration;

use super::stage::{ONCE, Stage, a_call, started};
use crate::Json;
use crate::artifact::Artifacts;
use crate::engine::{Engine, Settings, Slots, Until, wait};
use crate::executor::{Attempt, Executor, RunContext};
use crate::job::Progress;
use crate::testing::suite::json;
use crate::testing::{MemoryStore, TokioClock};

#[tokio::test(start_paused = true)]
async fn ten_thousand_reports_leave_few_events_and_the_last_one_is_kept() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    for report in 1..=10_000 {
        worker.reports(f64::from(report));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    worker.answers("1");
    let job = stage.ended(job.handle).await;
    assert_eq!(job.progress.unwrap().progress, 10_000.0);
    let log = stage.progress_log(job.handle).await;
    assert_eq!(log.last(), Some(&10_000.0));
    assert!((10..200).contains(&log.len()), "{} events", log.len());
    assert!(log.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn progress_can_be_seen_while_the_job_runs() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    for report in 1..=5 {
        worker.reports(f64::from(report));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(stage.job(job.handle).await.progress.unwrap().progress, f64::from(report));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_report_of_a_burst_is_kept() {
    let mut stage = Stage::new();
    let (job, worker) = stage.running(ONCE).await;
    for report in 1..=1000 {
        worker.reports(f64::from(report));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.job(job.handle).await.progress.unwrap().progress, 1000.0);
}

/// Reports and answers without ever waiting.
struct InOneGo;

#[async_trait::async_trait]
impl Executor for InOneGo {
    async fn run(self: Arc<Self>, _request: Json, context: RunContext) -> Attempt {
        context.progress(Progress { progress: 1.0, ..Progress::default() });
        Attempt::Answered(json("1"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_just_before_the_answer_is_kept() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::default())));
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        peer: "one".to_owned(),
        slots: Slots::new(1),
        lease: Duration::from_secs(30),
        answer_timeout: None,
    };
    let engine = Engine::new(store.clone(), Artifacts::new(folder.path()), Arc::new(InOneGo), settings);
    let job = started(engine.start(a_call("me", None), ONCE).await.unwrap());
    let jobs = wait(&*store, None, &[job.handle], Until::All, Duration::from_secs(9)).await.unwrap();
    assert_eq!(jobs[0].as_ref().unwrap().job.progress.as_ref().unwrap().progress, 1.0);
}
