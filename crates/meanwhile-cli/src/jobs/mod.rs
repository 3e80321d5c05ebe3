//! `meanwhile jobs`: look at jobs and control them, from any terminal, while wrappers run or afterwards.

mod answer;
mod questions;
mod rows;
mod show;
mod table;
mod terminal;
mod watch;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use meanwhile_core::artifact::Artifacts;
use meanwhile_core::engine::{Action, Controlled, control, read_answer, sweep};
use meanwhile_core::job::Input;
use meanwhile_core::store::{LIST_MAX, Query};
use meanwhile_core::{Actor, Clock, Handle, Job, Json, Status, Store, SystemClock};
use serde_json::Value;

use self::answer::Answer;
use self::show::{event_json, event_line, failure, job_lines, seen_json};
use self::table::table;
use crate::calls::whole;
use crate::state::State;

const FAILED: u8 = 1;
const NO_SUCH_JOB: u8 = 3;
const NOT_YET: u8 = 4;
const EVENTS_PAGE: usize = 500;

const EXAMPLES: &str = "\
Examples:
  meanwhile jobs list --status working
  meanwhile jobs watch
  meanwhile jobs result job_… > result.txt
  meanwhile jobs answer job_… --content '{\"colour\": \"red\"}'
  meanwhile jobs list --json | jq '.[].handle'";

/// `meanwhile jobs`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Jobs {
    #[command(subcommand)]
    command: Command,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    state: State,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs, the newest first
    #[command(
        after_help = "Examples:\n  meanwhile jobs list --status working --limit 10\n  meanwhile jobs list --json | jq '.[].handle'"
    )]
    List {
        /// Only jobs of this status
        #[arg(long)]
        status: Option<Wanted>,
        /// Only jobs of this scope
        #[arg(long)]
        scope: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = whole(1, LIST_MAX))]
        limit: usize,
    },
    /// Show all that is known of a job
    #[command(
        after_help = "Examples:\n  meanwhile jobs show job_…\n  meanwhile jobs show job_… --json | jq .questions"
    )]
    Show {
        /// The job
        handle: Handle,
    },
    /// Show what happened to a job, when, and who caused it
    #[command(after_help = "Examples:\n  meanwhile jobs events job_…")]
    Events {
        /// The job
        handle: Handle,
    },
    /// Print the result of a job: its text, or all of it with --json. Exits with 4 if there is none yet, and with 1 if there will be
    /// none, or it is an error of the tool
    #[command(
        after_help = "Examples:\n  meanwhile jobs result job_… > result.txt\n  meanwhile jobs result job_… --json | jq .structuredContent\n  \
                      while meanwhile jobs result job_…; [ $? = 4 ]; do sleep 5; done"
    )]
    Result {
        /// The job
        handle: Handle,
    },
    /// Cancel a job
    #[command(after_help = "Examples:\n  meanwhile jobs cancel job_…")]
    Cancel {
        /// The job
        handle: Handle,
    },
    /// Answer what a job asks
    Answer(Answer),
    /// Follow jobs live: these until they have ended, or all until Ctrl-C. Exits with 1 if one of these ended without a result, and
    /// with 4 if Ctrl-C came first
    #[command(
        after_help = "Examples:\n  meanwhile jobs watch\n  meanwhile jobs watch job_… && meanwhile jobs result job_…"
    )]
    Watch {
        /// The jobs
        handles: Vec<Handle>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// All that have not ended
    Working,
    /// Those that wait for their turn
    Queued,
    /// Those that are held
    Paused,
    /// Those that ask something
    #[value(name = "input_required")]
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

impl Wanted {
    fn statuses(self) -> Vec<Status> {
        match self {
            Wanted::Working => Status::UNFINISHED.to_vec(),
            Wanted::Queued => vec![Status::Queued],
            Wanted::Paused => vec![Status::Paused],
            Wanted::InputRequired => vec![Status::InputRequired],
            Wanted::Completed => vec![Status::Completed],
            Wanted::Failed => vec![Status::Failed],
            Wanted::Cancelled => vec![Status::Cancelled],
        }
    }
}

/// Where the commands look, and how they print.
struct Desk {
    store: Arc<dyn Store>,
    artifacts: Artifacts,
    json: bool,
}

/// A job, and whether its answer, if it has one, is the tool's own word that something went wrong.
struct Seen {
    job: Job,
    is_error: bool,
}

/// All of a job, with its request word for word.
#[derive(serde::Serialize)]
struct Shown {
    #[serde(flatten)]
    job: Value,
    request: Option<Json>,
    /// What it asks, by the keys of its questions.
    questions: BTreeMap<String, Json>,
}

impl Jobs {
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        if let Some(note) = self.state.missing()? {
            eprintln!("{note}");
            match self.command {
                Command::List { .. } if self.json => return print_json(&Value::Array(vec![])),
                Command::List { .. } => return print("No jobs.\n"),
                Command::Watch { .. } => {}
                _ => return Ok(NO_SUCH_JOB),
            }
        }
        let (store, artifacts) = self.state.open()?;
        // What a dead wrapper left is settled before it is shown.
        sweep(&*store, &artifacts).await?;
        let desk = Desk { store, artifacts, json: self.json };
        match self.command {
            Command::List { status, scope, limit } => desk.list(status, scope, limit).await,
            Command::Show { handle } => desk.show(handle).await,
            Command::Events { handle } => desk.events(handle).await,
            Command::Result { handle } => desk.result(handle).await,
            Command::Cancel { handle } => desk.cancel(handle).await,
            Command::Answer(answer) => desk.answer(answer).await,
            Command::Watch { handles } => watch::watch(&desk, &handles).await,
        }
    }
}

impl Desk {
    async fn list(&self, status: Option<Wanted>, scope: Option<String>, limit: usize) -> anyhow::Result<u8> {
        let statuses = status.map(Wanted::statuses).unwrap_or_default();
        let query = Query { scope, statuses, limit: limit + 1, ..Query::default() };
        let mut jobs = self.store.list(&query).await?;
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        let mut seen = Vec::with_capacity(jobs.len());
        for job in jobs {
            seen.push(self.see(job).await?);
        }
        if self.json {
            return print_json(&seen.iter().map(seen_json).collect::<Vec<_>>());
        }
        let code = print(&table(&seen, SystemClock.moment(), terminal::width()))?;
        if more {
            let how = match limit {
                LIST_MAX => "--status and --scope choose among them".to_owned(),
                _ => format!("--limit {} shows more", (2 * limit).min(LIST_MAX)),
            };
            eprintln!("These are not all jobs, only the newest {limit}: {how}.");
        }
        Ok(code)
    }

    async fn see(&self, job: Job) -> anyhow::Result<Seen> {
        let answer = read_answer(&*self.store, &self.artifacts, &job).await?;
        let is_error = answer.is_some_and(|answer| says_error(answer.get()));
        Ok(Seen { job, is_error })
    }

    async fn show(&self, handle: Handle) -> anyhow::Result<u8> {
        let Some(job) = self.find(handle).await? else { return Ok(NO_SUCH_JOB) };
        let request = self.store.request(handle).await?;
        let seen = self.see(job).await?;
        let inputs = self.asked(&seen.job).await?;
        if self.json {
            let questions = inputs.into_iter().map(|input| (input.key, input.question)).collect();
            return print_json(&Shown { job: seen_json(&seen), request, questions });
        }
        let ahead = self.store.ahead(handle).await?;
        print(&job_lines(&seen, &inputs, ahead, request.as_deref(), SystemClock.moment()))
    }

    /// What a job asks and has not been told.
    async fn asked(&self, job: &Job) -> anyhow::Result<Vec<Input>> {
        let mut inputs = self.store.inputs(job.handle).await?;
        inputs.retain(|input| job.open.contains(&input.key));
        Ok(inputs)
    }

    async fn events(&self, handle: Handle) -> anyhow::Result<u8> {
        let Some(job) = self.find(handle).await? else { return Ok(NO_SUCH_JOB) };
        let mut events = Vec::new();
        loop {
            let page = self.store.events(handle, events.len() as u32, EVENTS_PAGE).await?;
            if page.is_empty() {
                break;
            }
            events.extend(page);
        }
        if self.json {
            return print_json(&events.iter().map(event_json).collect::<Vec<_>>());
        }
        let is_error = self.see(job).await?.is_error;
        print(&events.iter().map(|event| event_line(event, is_error) + "\n").collect::<String>())
    }

    async fn result(&self, handle: Handle) -> anyhow::Result<u8> {
        let Some(job) = self.find(handle).await? else { return Ok(NO_SUCH_JOB) };
        let Some(answer) = read_answer(&*self.store, &self.artifacts, &job).await? else {
            eprintln!("meanwhile: {}", why_no_result(&job));
            return Ok(if job.status.is_terminal() { FAILED } else { NOT_YET });
        };
        let text = if self.json { format!("{}\n", answer.get()) } else { result_text(answer.get()) };
        print(&text)?;
        Ok(if says_error(answer.get()) { FAILED } else { 0 })
    }

    async fn cancel(&self, handle: Handle) -> anyhow::Result<u8> {
        match control(&*self.store, None, handle, Action::Cancel, Actor::User).await? {
            Controlled::NotFound => Ok(no_such_job(handle)),
            Controlled::Refused(job, why) => {
                self.refused(job, &format!("cannot cancel {handle}: {why}")).await
            }
            Controlled::Done(job) => {
                let message =
                    job.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
                let said = format!("{handle} {}{message}", job.status.name());
                self.done(job, &said).await
            }
        }
    }

    /// Prints a job as it now is, or what is said of that.
    async fn done(&self, job: Job, said: &str) -> anyhow::Result<u8> {
        if self.json { print_json(&seen_json(&self.see(job).await?)) } else { print(&format!("{said}\n")) }
    }

    /// Says why nothing was done to a job, which is as it was.
    async fn refused(&self, job: Job, why: &str) -> anyhow::Result<u8> {
        if self.json {
            print_json(&seen_json(&self.see(job).await?))?;
        }
        eprintln!("meanwhile: {why}");
        Ok(FAILED)
    }

    /// The job; if there is none, the user has been told.
    async fn find(&self, handle: Handle) -> anyhow::Result<Option<Job>> {
        let job = self.store.job(handle).await?;
        if job.is_none() {
            no_such_job(handle);
        }
        Ok(job)
    }
}

fn no_such_job(handle: Handle) -> u8 {
    eprintln!("meanwhile: there is no job {handle}; `meanwhile jobs list` shows what there is");
    NO_SUCH_JOB
}

/// Whether a job has ended and left nothing to fetch.
fn will_have_none(job: &Job) -> bool {
    job.expired_at.is_some() || (job.status.is_terminal() && job.status != Status::Completed)
}

fn why_no_result(job: &Job) -> String {
    let message = job.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    match job.status {
        _ if job.expired_at.is_some() => {
            format!("{} is {}, and its result has expired", job.handle, job.status.name())
        }
        Status::Failed => format!("{} failed: {}; it has no result", job.handle, failure(job)),
        Status::Cancelled => format!("{} is cancelled{message}; it has no result", job.handle),
        Status::Completed => {
            format!("{} is completed, and its result, a file beside the job store, is gone", job.handle)
        }
        Status::InputRequired => format!(
            "{0} has no result yet: it asks {1}; `meanwhile jobs show {0}` shows what, and `meanwhile jobs answer {0}` answers it",
            job.handle,
            job.open.join(", ")
        ),
        status => format!(
            "{} is {} and has no result yet; `meanwhile jobs watch {}` follows it",
            job.handle,
            status.name(),
            job.handle
        ),
    }
}

/// Whether an answer is the tool's own word that something went wrong.
fn says_error(answer: &str) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        is_error: bool,
    }
    serde_json::from_str(answer).is_ok_and(|answer: Answer| answer.is_error)
}

/// The text blocks of a result; what is not text is named in brackets.
fn result_text(answer: &str) -> String {
    let value: Value = serde_json::from_str(answer).unwrap_or_default();
    let Some(blocks) = value["content"].as_array() else { return format!("{answer}\n") };
    let mut text = String::new();
    for block in blocks {
        match block["text"].as_str() {
            Some(block) => text.push_str(block),
            None => text.push_str(&format!("[{}: see --json]", block["type"].as_str().unwrap_or("unknown"))),
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<u8> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes to stdout. A reader that has closed its end, as `head` does, has seen enough.
fn print(text: &str) -> anyhow::Result<u8> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(0),
    }
}
