//! `meanwhile jobs answer`: the user answers what a job asks.

use clap::Args;
use meanwhile_core::engine::{Answered, answer};
use meanwhile_core::job::Input;
use meanwhile_core::{Actor, Handle, Job, Json, Status};
use meanwhile_mcp::answers::{ELICITATION, accepted, shaped};
use meanwhile_mcp::message::{Fields, to_json};
use meanwhile_mcp::words;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Desk, NO_SUCH_JOB, no_such_job};

const EXAMPLES: &str = "\
Examples:
  meanwhile jobs answer job_… --content '{\"colour\": \"red\"}'
  meanwhile jobs answer job_… --key q2 --decline
  meanwhile jobs answer job_… --result '[\"file:///srv/project\"]'

`meanwhile jobs show` shows what a job asks.";

/// `meanwhile jobs answer`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Answer {
    /// The job
    handle: Handle,

    /// The question's key; needed where the job asks several
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    #[command(flatten)]
    given: Given,
}

/// What is answered.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Given {
    /// Agree, where there is nothing to fill in
    #[arg(long)]
    accept: bool,

    /// Agree, with the form filled in: a JSON object of its fields
    #[arg(long, value_name = "JSON", value_parser = object)]
    content: Option<Json>,

    /// Say no
    #[arg(long)]
    decline: bool,

    /// Dismiss it, neither yes nor no
    #[arg(long)]
    cancel: bool,

    /// The result, for a question that is no form: a model's message or its text alone, or the folders that may be used
    #[arg(long, value_name = "JSON", value_parser = any)]
    result: Option<Json>,
}

fn object(text: &str) -> Result<Json, String> {
    let object = Fields::parse(text).map_err(|error| {
        format!("must be an object of JSON ({error}): write for example '{{\"colour\": \"red\"}}'")
    })?;
    in_one_line(&object.to_json())
}

fn any(text: &str) -> Result<Json, String> {
    let result = RawValue::from_string(text.to_owned())
        .map_err(|error| format!("must be JSON ({error}): write for example '[\"file:///srv/project\"]'"))?;
    in_one_line(&result)
}

/// A server over stdio reads lines. In JSON a line ends nowhere but between values.
fn in_one_line(json: &Json) -> Result<Json, String> {
    RawValue::from_string(json.get().replace(['\n', '\r'], " ")).map_err(|error| error.to_string())
}

impl Given {
    /// What the tool is told, which asks this.
    fn to(self, question: &Json) -> Result<Json, String> {
        let asked = Fields::parse(question.get()).unwrap_or_default();
        let method: String = asked.read("method").unwrap_or_default();
        let is_form = method == ELICITATION;
        let answer = match (self.result, self.content) {
            (Some(result), _) => result,
            (None, Some(content)) if is_form => accepted(content),
            _ if self.decline => to_json(&json!({"action": "decline"})),
            _ if self.cancel => to_json(&json!({"action": "cancel"})),
            _ if is_form => to_json(&json!({"action": "accept"})),
            _ => return Err(format!("it asks `{method}`: answer with --result, or say no with --decline")),
        };
        shaped(question, answer)
    }
}

impl Desk {
    pub(super) async fn answer(&self, Answer { handle, key, given }: Answer) -> anyhow::Result<u8> {
        let Some(job) = self.find(handle).await? else { return Ok(NO_SUCH_JOB) };
        if job.status != Status::InputRequired {
            let why = words::asks_nothing(&job).text;
            return self.refused(job, &why).await;
        }
        let open = self.asked(&job).await?;
        let answered = chosen(&job, &open, key.as_deref()).and_then(|Input { key, question, .. }| {
            let answer =
                given.to(question).map_err(|why| format!("cannot answer {key} of {handle}: {why}"))?;
            Ok((key.clone(), answer))
        });
        let answers = match answered {
            Ok(answered) => vec![answered],
            Err(why) => return self.refused(job, &why).await,
        };
        match answer(&*self.store, None, handle, answers, Actor::User).await? {
            Answered::NotFound => Ok(no_such_job(handle)),
            Answered::Refused(job, why) => self.refused(job, &format!("cannot answer {handle}: {why}")).await,
            Answered::Done(job) => {
                let said = words::answered(&job, &format!("`meanwhile jobs result {handle}`")).text;
                self.done(job, &said).await
            }
        }
    }
}

/// The question that is meant.
fn chosen<'a>(job: &Job, open: &'a [Input], key: Option<&str>) -> Result<&'a Input, String> {
    let found = match (key, open) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(key), _) => open.iter().find(|input| input.key == key),
    };
    let (handle, asked) = (job.handle, job.open.join(", "));
    found.ok_or_else(|| match key {
        Some(key) => format!("{handle} does not ask `{key}`; it asks {asked}"),
        None => format!("{handle} asks {asked}: say with --key which one"),
    })
}
