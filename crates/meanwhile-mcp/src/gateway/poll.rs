//! `poll_result`: a bounded wait that ends the moment the job does, and then the result itself.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::engine::{Until, read_answer, wait};
use meanwhile_core::{Actor, Handle, Job, Json, Op, Snapshot, Status};
use serde::Deserialize;

use super::caller::Caller;
use super::own_tools::{Wrong, not_found, parse_handle, read};
use super::reply::{ToolResult, text_block, tool_result};
use super::{Gateway, lock};
use crate::catalog::Catalog;
use crate::dialect;
use crate::economy::{self, EAGER};
use crate::message::{Answer, Fields, to_json};
use crate::preview::preview;
use crate::words::{self, ANSWER_JOB, CONTROL_JOB, HANDLES_MAX, READ_RESULT, Said};

/// A result of up to this size, in bytes of JSON, comes whole; a larger one as a preview.
const WHOLE_MAX: usize = 16 * 1024;
/// How much of a preview is text, in bytes.
const PREVIEW: usize = 4 * 1024;
/// How long a poll waits that does not say, if its client survives that.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    handle: Option<String>,
    handles: Option<Vec<String>>,
    /// A whole number, which some clients write with a fraction.
    wait_ms: Option<f64>,
    until: Option<UntilWord>,
}

fn milliseconds(number: f64) -> Duration {
    Duration::from_millis(number.max(0.0) as u64)
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum UntilWord {
    Any,
    All,
}

/// How long a poll waits, and how long one of this client may.
#[derive(Clone, Copy)]
struct Wait {
    patience: Duration,
    longest: Duration,
}

/// What is known of one job, as the answer of a poll.
enum Polled {
    /// The tool's own answer.
    Answer(Json),
    /// What we say instead.
    Said(Said),
}

impl Gateway {
    pub(super) async fn poll_result(
        self: &Arc<Self>,
        caller: &Caller,
        arguments: &str,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        let Arguments { handle, handles, wait_ms, until } = read(arguments)?;
        let longest = self.longest_wait(caller);
        let patience = Wait { patience: wait_ms.map_or(WAIT_DEFAULT, milliseconds).min(longest), longest };
        let until = match until {
            Some(UntilWord::All) => Until::All,
            Some(UntilWord::Any) | None => Until::Any,
        };
        match (handle, handles) {
            (Some(text), None) => {
                let handle = parse_handle(&text, catalog)?;
                let jobs = self.wait(&[handle], until, patience).await?;
                let seen = jobs.into_iter().next().flatten().ok_or_else(|| not_found(&text, catalog))?;
                self.delivered(&seen.job, seen.answer, catalog).await
            }
            (None, Some(handles)) if (1..=HANDLES_MAX).contains(&handles.len()) => {
                self.poll_several(&handles, until, patience, catalog).await
            }
            (None, Some(_)) => Err(Wrong::Arguments(format!("`handles`: give 1 to {HANDLES_MAX} handles"))),
            _ => Err(Wrong::Arguments("give `handle`, or else `handles`".to_owned())),
        }
    }

    /// The longest that a poll of this client waits: as long as it survives, by its profile or as it was configured, and
    /// not longer than it has shown.
    fn longest_wait(&self, caller: &Caller) -> Duration {
        let client = self.patience(caller);
        match self.settings.wait_max {
            Some(most) => client.learned().map_or(most, |learned| most.min(learned)),
            None => client.survives(),
        }
    }

    /// Waits as it was asked for. A poll that hardly waits, again and again while nothing changes, is slowed: it ends with the
    /// job, or with any news of one.
    async fn wait(
        &self,
        handles: &[Handle],
        until: Until,
        wanted: Wait,
    ) -> Result<Vec<Option<Snapshot>>, Wrong> {
        let patience = wanted.patience;
        let (store, scope) = (&**self.engine.store(), Some(self.settings.scope.as_str()));
        // Subscribed before the first look, so that nothing falls between.
        let mut changes = store.changes().of_any();
        let jobs = wait(store, scope, handles, until, patience).await?;
        if patience >= EAGER || is_over(&jobs, until) {
            return Ok(jobs);
        }
        let slowed = self.slowed(&jobs).min(wanted.longest);
        if slowed.is_zero() {
            return Ok(jobs);
        }
        tracing::debug!(?slowed, "an eager poll is slowed");
        let before = all_news(&jobs);
        let deadline = tokio::time::sleep(slowed);
        tokio::pin!(deadline);
        loop {
            let is_late = tokio::select! {
                biased;
                () = changes.changed() => false,
                () = &mut deadline => true,
            };
            let jobs = wait(store, scope, handles, until, Duration::ZERO).await?;
            if is_late || is_over(&jobs, until) || all_news(&jobs) != before {
                return Ok(jobs);
            }
        }
    }

    /// For how long this eager poll is slowed.
    fn slowed(&self, jobs: &[Option<Snapshot>]) -> Duration {
        let mut eager = lock(&self.eager);
        let unfinished = jobs.iter().flatten().map(|seen| &seen.job).filter(|job| !job.wants_attention());
        let slowed = unfinished.map(|job| eager.slowed(job)).min().unwrap_or_default();
        drop(eager);
        slowed
    }

    /// Several jobs in one answer: for each a line that names it, and then its content blocks, word for word.
    async fn poll_several(
        self: &Arc<Self>,
        texts: &[String],
        until: Until,
        patience: Wait,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        let handles: Vec<Option<Handle>> = texts.iter().map(|text| text.trim().parse().ok()).collect();
        let known: Vec<Handle> = handles.iter().flatten().copied().collect();
        let mut jobs = self.wait(&known, until, patience).await?.into_iter();
        let whole_max = (WHOLE_MAX / texts.len()).max(PREVIEW / 2);
        let mut content: Vec<Json> = Vec::new();
        let mut summary = Vec::new();
        for (text, handle) in texts.iter().zip(handles) {
            let seen = handle.and_then(|_| jobs.next().flatten());
            let (job, answer) = seen.map(|Snapshot { job, answer }| (job, answer)).unzip();
            let polled = match &job {
                Some(job) => self.polled(job, answer.flatten(), whole_max, catalog).await?,
                None => {
                    let list = catalog.our_name(words::LIST_JOBS);
                    Polled::Said(words::not_found(&words::clip(text), &list))
                }
            };
            summary.push(append(&mut content, job.as_ref(), polled));
        }
        let mut structured = Fields::default();
        structured.set("jobs", to_json(&summary));
        Ok(ToolResult { content, structured_content: Some(structured.to_json()), is_error: false }.answer())
    }

    /// `answer` is that of the job, if it has been read already.
    async fn polled(
        self: &Arc<Self>,
        job: &Job,
        answer: Option<Json>,
        whole_max: usize,
        catalog: &Catalog,
    ) -> Result<Polled, Wrong> {
        if job.expired_at.is_some() {
            return Ok(Polled::Said(words::expired(job)));
        }
        if !job.status.is_terminal() {
            return Ok(Polled::Said(self.unfinished(job, catalog).await?));
        }
        let polled = if job.status == Status::Completed {
            self.result(job, answer, whole_max, catalog).await?
        } else {
            Polled::Said(words::ended_without_answer(job))
        };
        self.collect(job);
        Ok(polled)
    }

    /// What is said of a job that has not ended.
    pub(super) async fn unfinished(&self, job: &Job, catalog: &Catalog) -> Result<Said, Wrong> {
        if job.status == Status::InputRequired {
            let open = self.open_inputs(job).await?;
            return Ok(words::asks(job, &open, &catalog.our_name(ANSWER_JOB)));
        }
        let ahead = self.engine.store().ahead(job.handle).await?;
        Ok(self.pending(job, ahead, catalog).await)
    }

    /// The answer of a call that has become a job because it asks.
    pub(super) async fn question_of(&self, job: &Job, catalog: &Catalog) -> Answer {
        match self.unfinished(job, catalog).await {
            Ok(said) => tool_result(&said),
            Err(wrong) => wrong.answer(&job.tool),
        }
    }

    async fn pending(&self, job: &Job, ahead: u64, catalog: &Catalog) -> Said {
        let now = self.engine.now();
        self.history(&job.tool, |history| {
            if economy::is_silent(job, history, now) {
                let control = catalog.our_name(CONTROL_JOB);
                return words::no_progress(job, economy::silence_allowed(history), &control);
            }
            words::pending(job, ahead, economy::poll_after(job, history, now), now)
        })
        .await
    }

    /// The answer of a call that is a repeat of an earlier one: the handle of its job, or, if that has ended, what a poll
    /// would say.
    pub(super) async fn joined(
        self: &Arc<Self>,
        caller: &Caller,
        job: &Job,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        if !job.status.is_terminal() {
            return Ok(self.handle_answer(caller, job, true, catalog).await);
        }
        self.delivered(job, None, catalog).await
    }

    async fn delivered(
        self: &Arc<Self>,
        job: &Job,
        answer: Option<Json>,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        Ok(match self.polled(job, answer, WHOLE_MAX, catalog).await? {
            Polled::Answer(answer) => Answer::Result(answer),
            Polled::Said(said) => tool_result(&said),
        })
    }

    async fn result(
        &self,
        job: &Job,
        answer: Option<Json>,
        whole_max: usize,
        catalog: &Catalog,
    ) -> Result<Polled, Wrong> {
        let answer = match answer {
            Some(answer) => Some(answer),
            None => read_answer(&**self.engine.store(), self.engine.artifacts(), job).await?,
        };
        let Some(answer) = answer else { return Ok(Polled::Said(words::expired(job))) };
        let bytes = answer.get().len();
        if bytes <= whole_max {
            return Ok(Polled::Answer(answer));
        }
        let budget = PREVIEW.min(whole_max);
        let Some(shown) = preview(answer.get(), budget) else { return Ok(Polled::Answer(answer)) };
        let is_error = dialect::is_error(&answer);
        let read = catalog.our_name(READ_RESULT);
        Ok(Polled::Said(words::previewed(job, &shown, bytes as u64, &read, is_error)))
    }

    /// Whoever hears how a job ended need not be told again, though its result may still wait.
    pub(super) fn told(self: &Arc<Self>, job: &Job) {
        if job.announced_at.is_none() && job.is_outstanding() && self.ledger.tell(job.handle) {
            self.announced(vec![job.clone()]);
        }
    }

    /// Remembers that the result was taken. The answer does not wait for it: what is delivered twice does no harm.
    pub(super) fn collect(&self, job: &Job) {
        if job.collected_at.is_some() || !job.status.is_terminal() {
            return;
        }
        self.ledger.tell(job.handle);
        let store = self.engine.store().clone();
        let handle = job.handle;
        self.requests.spawn(async move {
            if let Err(error) = store.apply(handle, Op::Collect { by: Actor::Agent }).await {
                tracing::debug!(%handle, %error, "not marked as collected");
            }
        });
    }
}

/// Whether nothing is left to wait for.
fn is_over(jobs: &[Option<Snapshot>], until: Until) -> bool {
    let mut left = jobs.iter().flatten().map(|seen| !seen.job.wants_attention());
    match until {
        Until::Any => !left.all(|left| left),
        Until::All => !left.any(|left| left),
    }
}

fn all_news(jobs: &[Option<Snapshot>]) -> Vec<String> {
    jobs.iter().flatten().map(|seen| economy::news(&seen.job)).collect()
}

/// Adds one job to the answer for several, and returns its entry in the summary.
fn append(content: &mut Vec<Json>, job: Option<&Job>, polled: Polled) -> Json {
    match (polled, job) {
        (Polled::Answer(answer), Some(job)) => {
            let fields = Fields::parse(answer.get()).unwrap_or_default();
            let is_error: bool = fields.read("isError").unwrap_or(false);
            let how = if is_error { "completed, with an error of the tool" } else { "completed" };
            content.push(text_block(&format!("{} ({}) {how}:", job.handle, job.tool)));
            content.extend(fields.read::<Vec<Json>>("content").unwrap_or_default());
            let mut entry = Fields::default();
            entry.set("handle", to_json(&job.handle));
            entry.set("tool", to_json(&job.tool));
            entry.set("status", to_json(job.status.name()));
            entry.set("isError", to_json(&is_error));
            if let Some(structured) = fields.get("structuredContent") {
                entry.set("result", structured.to_owned());
            }
            entry.to_json()
        }
        (Polled::Answer(answer), None) => answer,
        (Polled::Said(said), _) => {
            content.push(text_block(&said.text));
            to_json(&said.structured)
        }
    }
}
