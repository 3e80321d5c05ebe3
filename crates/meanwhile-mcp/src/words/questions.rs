//! What a model reads of what jobs ask.

use std::fmt::Write;

use meanwhile_core::job::Input;
use meanwhile_core::{Job, Status};
use serde_json::{Value, json};

use super::{Said, shown_status};

/// A question is cut here, in characters, when it is shown; whole it stands in the structured content.
const QUESTION_CHARS: usize = 1500;

/// A job that asks. What its tool says is quoted: it is the tool that speaks, not the user.
#[must_use]
pub fn asks(job: &Job, open: &[Input], answer: &str) -> Said {
    let Job { handle, tool, .. } = job;
    let mut text = format!("{handle} ({tool}) waits for input:");
    let mut questions = serde_json::Map::new();
    for Input { key, question, .. } in open {
        let question: Value = serde_json::from_str(question.get()).unwrap_or_default();
        let _ = write!(text, "\n{key}: {}", asked(&question));
        questions.insert(key.clone(), question);
    }
    let example = open.first().map_or("q1", |input| input.key.as_str());
    let _ = write!(
        text,
        "\nAnswer with {answer} {{\"handle\":\"{handle}\",\"answers\":{{\"{example}\":{{\"action\":\"accept\",\"content\":{{…}}}}}}}} \
         (or \"action\":\"decline\"). Ask the user unless you surely know."
    );
    Said::new(
        text,
        json!({"handle": handle, "status": "input_required", "tool": tool, "questions": questions}),
    )
}

/// A question of a tool, in a few words. The tool's own are quoted.
#[must_use]
pub fn asked(question: &Value) -> String {
    let params = &question["params"];
    match question["method"].as_str() {
        Some("elicitation/create") => {
            let message = quoted(params["message"].as_str().unwrap_or_default());
            match (&params["url"], &params["requestedSchema"]) {
                // One that is cut leads elsewhere.
                (Value::String(url), _) => format!(
                    "the tool asks the user to open {url:?} {message}; show them the whole address, and accept, without \
                     content, only once they agree"
                ),
                (_, Value::Null) => format!("the tool asks {message}"),
                (_, schema) => format!(
                    "the tool asks {message}; the content by this schema: {}",
                    cut(&schema.to_string())
                ),
            }
        }
        Some("sampling/createMessage") => {
            format!(
                "the tool wants a model's answer to {}; answer with its text",
                cut(&params["messages"].to_string())
            )
        }
        Some("roots/list") => {
            "the tool wants the folders it may use; answer with a list of file:// URIs".to_owned()
        }
        _ => cut(&question.to_string()),
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", cut(text))
}

/// What a tool asks, at a length that is still worth a model's context.
fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(QUESTION_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A job that is to be answered, and asks nothing.
#[must_use]
pub fn asks_nothing(job: &Job) -> Said {
    let text = format!("{} ({}) asks nothing: it is {}.", job.handle, job.tool, shown_status(job));
    Said::error(text, json!({"handle": job.handle, "status": shown_status(job), "tool": job.tool}))
}

/// A job that was answered.
#[must_use]
pub fn answered(job: &Job, poll: &str) -> Said {
    let more = match job.status {
        Status::InputRequired => format!("it still asks {}", job.open.join(", ")),
        _ => format!("it goes on; get its result with {poll}"),
    };
    let text = format!("{} ({}) has your answer; {more}.", job.handle, job.tool);
    Said::new(text, json!({"handle": job.handle, "status": shown_status(job), "tool": job.tool}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_page_is_shown_whole_and_is_for_the_user_to_open() {
        let url = format!("https://example.com/agree?state={}", "x".repeat(2 * QUESTION_CHARS));
        let params = json!({"mode": "url", "url": url, "message": "Agree?"});
        let text = asked(&json!({"method": "elicitation/create", "params": params}));
        assert!(text.contains(&url) && text.contains("only once they agree"), "{text}");
    }
}
