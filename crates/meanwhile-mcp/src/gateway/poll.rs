//! `poll_result`: a bounded wait that ends the moment the job does, and then the result itself.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::engine::{Until, read_answer, wait};
use meanwhile_core::{Actor, Handle, Job, Json, Op, Status};
use serde::Deserialize;

use super::Gateway;
use super::own_tools::{Wrong, not_found, parse_handle, read};
use super::reply::{ToolResult, text_block, tool_result, verbatim};
use crate::catalog::Catalog;
use crate::message::{Answer, Fields, to_json};
use crate::preview::preview;
use crate::words::{self, HANDLES_MAX, READ_RESULT, Said};

/// A result of up to this size, in bytes of JSON, comes whole; a larger one as a preview.
const WHOLE_MAX: usize = 16 * 1024;
/// How much of a preview is text, in bytes.
const PREVIEW: usize = 4 * 1024;
/// How long a poll waits that does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    handle: Option<String>,
    handles: Option<Vec<String>>,
    wait_ms: Option<u64>,
    until: Option<UntilWord>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum UntilWord {
    Any,
    All,
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
        arguments: &str,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        let Arguments { handle, handles, wait_ms, until } = read(arguments)?;
        let patience = wait_ms.map_or(WAIT_DEFAULT, Duration::from_millis).min(self.settings.wait_max);
        let until = match until {
            Some(UntilWord::All) => Until::All,
            Some(UntilWord::Any) | None => Until::Any,
        };
        match (handle, handles) {
            (Some(text), None) => {
                let handle = parse_handle(&text, catalog)?;
                let jobs = self.wait(&[handle], until, patience).await?;
                let job = jobs.into_iter().next().flatten().ok_or_else(|| not_found(&text, catalog))?;
                Ok(match self.polled(&job, WHOLE_MAX, catalog).await? {
                    Polled::Answer(answer) => verbatim(answer),
                    Polled::Said(said) => tool_result(&said),
                })
            }
            (None, Some(handles)) if (1..=HANDLES_MAX).contains(&handles.len()) => {
                self.poll_several(&handles, until, patience, catalog).await
            }
            (None, Some(_)) => Err(Wrong::Arguments(format!("`handles`: give 1 to {HANDLES_MAX} handles"))),
            _ => Err(Wrong::Arguments("give `handle`, or else `handles`".to_owned())),
        }
    }

    async fn wait(
        &self,
        handles: &[Handle],
        until: Until,
        patience: Duration,
    ) -> Result<Vec<Option<Job>>, Wrong> {
        Ok(wait(&**self.engine.store(), Some(&self.settings.scope), handles, until, patience).await?)
    }

    /// Several jobs in one answer: for each a line that names it, and then its content blocks, word for word.
    async fn poll_several(
        self: &Arc<Self>,
        texts: &[String],
        until: Until,
        patience: Duration,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        let handles: Vec<Option<Handle>> = texts.iter().map(|text| text.trim().parse().ok()).collect();
        let known: Vec<Handle> = handles.iter().flatten().copied().collect();
        let mut jobs = self.wait(&known, until, patience).await?.into_iter();
        let whole_max = (WHOLE_MAX / texts.len()).max(PREVIEW / 2);
        let mut content: Vec<Json> = Vec::new();
        let mut summary = Vec::new();
        for (text, handle) in texts.iter().zip(handles) {
            let job = handle.and_then(|_| jobs.next().flatten());
            let polled = match &job {
                Some(job) => self.polled(job, whole_max, catalog).await?,
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

    async fn polled(
        self: &Arc<Self>,
        job: &Job,
        whole_max: usize,
        catalog: &Catalog,
    ) -> Result<Polled, Wrong> {
        if job.expired_at.is_some() {
            return Ok(Polled::Said(words::expired(job)));
        }
        if !job.status.is_terminal() {
            let ahead = self.engine.store().ahead(job.handle).await?;
            return Ok(Polled::Said(words::pending(job, ahead, self.engine.now())));
        }
        let polled = if job.status == Status::Completed {
            self.result(job, whole_max, catalog).await?
        } else {
            Polled::Said(words::ended_without_answer(job))
        };
        self.collect(job);
        Ok(polled)
    }

    async fn result(&self, job: &Job, whole_max: usize, catalog: &Catalog) -> Result<Polled, Wrong> {
        let Some(answer) = read_answer(&**self.engine.store(), self.engine.artifacts(), job).await? else {
            return Ok(Polled::Said(words::expired(job)));
        };
        let bytes = answer.get().len();
        if bytes <= whole_max {
            return Ok(Polled::Answer(answer));
        }
        let budget = PREVIEW.min(whole_max);
        let Some(shown) = preview(answer.get(), budget) else { return Ok(Polled::Answer(answer)) };
        let is_error =
            Fields::parse(answer.get()).is_ok_and(|fields| fields.read("isError").unwrap_or(false));
        let read = catalog.our_name(READ_RESULT);
        Ok(Polled::Said(words::previewed(job, &shown, bytes as u64, &read, is_error)))
    }

    /// Remembers that the result was taken. The answer does not wait for it: what is delivered twice does no harm.
    fn collect(&self, job: &Job) {
        if job.collected_at.is_some() {
            return;
        }
        let store = self.engine.store().clone();
        let handle = job.handle;
        self.requests.spawn(async move {
            if let Err(error) = store.apply(handle, Op::Collect { by: Actor::Agent }).await {
                tracing::debug!(%handle, %error, "not marked as collected");
            }
        });
    }
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
