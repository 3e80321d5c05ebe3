//! What a running tool asks and is told.

use super::{Entry, Op, Refused};
use crate::Json;
use crate::event::{Actor, EventKind};
use crate::job::{Input, Job, Status};

const QUESTION_TOO_LARGE: &str = "a question is larger than 64 KiB";
const ANSWER_TOO_LARGE: &str = "an answer is larger than 64 KiB: give a shorter one";
const TOO_MANY: &str = "a job may ask 100 questions in its life, and this is one more";

pub(super) fn ask(job: &mut Job, questions: &[Json]) -> Result<Entry, Refused> {
    if job.cancel_requested_at.is_some() {
        return Err(Refused::NotNow("it is being cancelled: nobody is to be asked any more"));
    }
    if questions.is_empty() {
        return Err(Refused::NotNow("there is no question in it"));
    }
    if questions.iter().any(is_too_large) {
        return Err(Refused::TooMuch(QUESTION_TOO_LARGE));
    }
    let asked = u32::try_from(questions.len()).ok().and_then(|count| job.questions.checked_add(count));
    let asked = asked.filter(|asked| *asked <= Input::COUNT_MAX).ok_or(Refused::TooMuch(TOO_MANY))?;
    let keys: Vec<String> = (job.questions + 1..=asked).map(|number| format!("q{number}")).collect();
    job.questions = asked;
    job.open.extend(keys.iter().cloned());
    job.status = Status::InputRequired;
    Ok((Actor::Tool, EventKind::Asked { keys }))
}

pub(super) fn answer(job: &mut Job, by: Actor, answers: &[(String, Json)]) -> Result<Entry, Refused> {
    match job.status {
        Status::InputRequired if job.cancel_requested_at.is_some() => {
            return Err(Refused::NotNow("it is being cancelled: it no longer wants to know"));
        }
        Status::InputRequired => {}
        status if status.is_terminal() => return Err(Refused::Ended(status)),
        _ => return Err(Refused::NotNow("it waits for no answer")),
    }
    let mut keys: Vec<String> = Vec::new();
    for (key, answer) in answers {
        if keys.contains(key) || !job.open.contains(key) {
            continue;
        }
        if is_too_large(answer) {
            return Err(Refused::TooMuch(ANSWER_TOO_LARGE));
        }
        keys.push(key.clone());
    }
    if keys.is_empty() {
        return Err(Refused::NotNow(
            "it waits for none of these answers: their keys are not those that are open",
        ));
    }
    settle(job, &keys);
    Ok((by, EventKind::Answered { keys }))
}

pub(super) fn withdraw(job: &mut Job, by: Actor, keys: &[String]) -> Vec<Entry> {
    let keys: Vec<String> = job.open.iter().filter(|key| keys.contains(key)).cloned().collect();
    if keys.is_empty() {
        return vec![];
    }
    settle(job, &keys);
    vec![(by, EventKind::Withdrawn { keys })]
}

/// These are open no longer. When nothing is, the tool goes on.
fn settle(job: &mut Job, keys: &[String]) {
    job.open.retain(|key| !keys.contains(key));
    if job.open.is_empty() {
        job.status = Status::Working;
    }
}

/// What is open goes with its attempt: the log says so before it says what became of the job.
pub(super) fn close(job: &mut Job, entries: &mut Vec<Entry>) {
    if job.status != Status::InputRequired && !job.open.is_empty() {
        let keys = std::mem::take(&mut job.open);
        entries.insert(0, (Actor::System, EventKind::Withdrawn { keys }));
    }
}

fn is_too_large(text: &Json) -> bool {
    text.get().len() > Input::BYTES_MAX
}

/// One thing that an operation writes into a job's inputs ([`crate::Store::inputs`]).
#[derive(Debug, Clone, Copy)]
pub enum WrittenInput<'a> {
    /// A new question.
    Question {
        /// Its key.
        key: &'a str,
        /// What is asked.
        question: &'a Json,
    },
    /// The answer to one that was open.
    Answer {
        /// Its key.
        key: &'a str,
        /// What is answered.
        answer: &'a Json,
    },
}

/// What `op` writes into the inputs of its job, in order; `entries` is what [`super::apply`] returned for it. For stores.
#[must_use]
pub fn written_inputs<'a>(op: &'a Op, entries: &'a [Entry]) -> Vec<WrittenInput<'a>> {
    let keys = entries.iter().find_map(|(_, kind)| match kind {
        EventKind::Asked { keys } | EventKind::Answered { keys } => Some(&keys[..]),
        _ => None,
    });
    let keys = keys.unwrap_or_default().iter();
    match op {
        Op::Ask { questions, .. } => {
            keys.zip(questions).map(|(key, question)| WrittenInput::Question { key, question }).collect()
        }
        Op::Answer { answers, .. } => keys
            .filter_map(|key| {
                let (_, answer) = answers.iter().find(|(of, _)| of == key)?;
                Some(WrittenInput::Answer { key, answer })
            })
            .collect(),
        _ => vec![],
    }
}
