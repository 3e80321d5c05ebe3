//! What a model reads of what jobs ask.

use std::fmt::Write;

use meanwhile_core::job::Input;
use meanwhile_core::{Job, Status};
use serde_json::{Map, Value, json};

use super::{Said, shown_status};
use crate::answers::{ELICITATION, ROOTS, SAMPLING};

/// A question is cut here, in characters, when it is shown; whole it stands in the structured content.
const QUESTION_CHARS: usize = 1500;
/// The names of a form's fields are shown in the example of an answer up to this length, in characters.
const FIELDS_CHARS: usize = 200;

/// A job that asks. What its tool says is quoted: it is the tool that speaks, not the user.
#[must_use]
pub fn asks(job: &Job, open: &[Input], answer: &str) -> Said {
    let Job { handle, tool, .. } = job;
    let mut text = format!("{handle} ({tool}) waits for input:");
    let mut questions = Map::new();
    for Input { key, question, .. } in open {
        let question: Value = serde_json::from_str(question.get()).unwrap_or_default();
        let _ = write!(text, "\n{key}: {}", asked(&question));
        questions.insert(key.clone(), question);
    }
    let _ = write!(
        text,
        "\nAnswer with {answer} {{\"handle\":\"{handle}\",\"answers\":{{{}}}}} ({{\"action\":\"decline\"}} for an answer \
         says no). Ask the user unless you surely know.",
        examples(&questions)
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
        Some(ELICITATION) => {
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
        Some(SAMPLING) => {
            format!(
                "the tool wants a model's answer to {}; answer with its text",
                cut(&params["messages"].to_string())
            )
        }
        Some(ROOTS) => "the tool wants the folders it may use; answer with a list of file:// URIs".to_owned(),
        _ => cut(&question.to_string()),
    }
}

/// How an answer to each of the questions looks.
fn examples(questions: &Map<String, Value>) -> String {
    let examples = questions.iter().map(|(key, question)| format!("{key:?}:{}", example(question)));
    examples.collect::<Vec<_>>().join(",")
}

fn example(question: &Value) -> String {
    let params = &question["params"];
    match question["method"].as_str() {
        Some(ELICITATION) if params["url"].is_string() => "{\"action\":\"accept\"}".to_owned(),
        Some(ELICITATION) => {
            let fields = fields(&params["requestedSchema"]["properties"]);
            format!("{{\"action\":\"accept\",\"content\":{{{fields}}}}}")
        }
        Some(SAMPLING) => "\"…\"".to_owned(),
        Some(ROOTS) => "[\"file:///…\"]".to_owned(),
        _ => "{…}".to_owned(),
    }
}

/// The fields of a form. Many, or long ones, are read in its schema.
fn fields(properties: &Value) -> String {
    let names: Vec<String> =
        properties.as_object().into_iter().flatten().map(|(name, _)| format!("{}:…", json!(name))).collect();
    let fields = names.join(",");
    if (1..=FIELDS_CHARS).contains(&fields.chars().count()) { fields } else { "…".to_owned() }
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

    #[test]
    fn how_to_answer_is_shown_for_each_kind_of_question() {
        let form = |properties| json!({"method": ELICITATION, "params": {"message": "m", "requestedSchema": {"properties": properties}}});
        let page =
            json!({"method": ELICITATION, "params": {"mode": "url", "url": "https://x", "message": "m"}});
        let colour = form(json!({"colour": {"type": "string"}}));
        for (question, answer) in [
            (&colour, r#"{"action":"accept","content":{"colour":…}}"#),
            (&form(json!({"a\"b": {}})), r#"{"action":"accept","content":{"a\"b":…}}"#),
            (&form(json!({"x".repeat(FIELDS_CHARS): {}})), r#"{"action":"accept","content":{…}}"#),
            (&page, r#"{"action":"accept"}"#),
            (&json!({"method": SAMPLING}), r#""…""#),
            (&json!({"method": ROOTS}), r#"["file:///…"]"#),
        ] {
            assert_eq!(example(question), answer);
        }
        let several = json!({"q1": {"method": SAMPLING}, "q2": colour});
        let shown = r#""q1":"…","q2":{"action":"accept","content":{"colour":…}}"#;
        assert_eq!(examples(several.as_object().unwrap()), shown);
    }
}
