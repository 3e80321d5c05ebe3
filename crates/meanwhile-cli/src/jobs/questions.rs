//! What a job asks, for people: the words, the fields of the form one a line, and the command that answers it.

use std::fmt::Write;

use meanwhile_core::Job;
use meanwhile_core::job::Input;
use meanwhile_mcp::answers::{ELICITATION, ROOTS, SAMPLING};
use serde_json::{Map, Value, json};

use super::show::one_line;

/// What is shown of a question at most: more than these `--json` has.
const LINES: usize = 40;
const FIELDS: usize = 40;
const CHARS: usize = 2000;
const CHOICES: usize = 30;

/// The lines that a question is shown in.
pub(super) fn lines(job: &Job, Input { key, question, .. }: &Input) -> Vec<String> {
    let question: Value = serde_json::from_str(question.get()).unwrap_or_default();
    let params = &question["params"];
    let (mut lines, answer) = match question["method"].as_str() {
        Some(ELICITATION) => asked_of_user(params),
        Some(SAMPLING) => (
            [vec!["a model's answer to:".to_owned()], messages(params)].concat(),
            r#"--result '"…"'"#.to_owned(),
        ),
        Some(ROOTS) => {
            (vec!["which folders it may use".to_owned()], r#"--result '["file:///…"]'"#.to_owned())
        }
        _ => (text(&question.to_string()), "--result '{…}'".to_owned()),
    };
    let which = if job.open.len() > 1 { format!(" --key {key}") } else { String::new() };
    lines.push(format!("answer with: meanwhile jobs answer {}{which} {answer}", job.handle));
    lines.push("or, to say no, with --decline".to_owned());
    lines[0].insert_str(0, &format!("{key}: "));
    lines
}

/// A form, a page to open, or something to agree to; and what is answered to it.
fn asked_of_user(params: &Value) -> (Vec<String>, String) {
    let mut lines = text(params["message"].as_str().unwrap_or_default());
    if let Some(url) = params["url"].as_str() {
        // One that is cut leads elsewhere.
        lines.push(format!("the page to open: {}", one_line(url)));
        return (lines, "--accept".to_owned());
    }
    let schema = &params["requestedSchema"];
    let none = Map::new();
    let fields = schema["properties"].as_object().unwrap_or(&none);
    if fields.is_empty() {
        return (lines, "--accept".to_owned());
    }
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_required = |name: &str| required.contains(&name);
    lines.extend(fields.iter().take(FIELDS).map(|(name, field)| field_line(name, field, is_required(name))));
    if fields.len() > FIELDS {
        lines.push(format!("… and {} fields more: see --json", fields.len() - FIELDS));
    }
    (lines, format!("--content '{}'", example(fields, is_required)))
}

/// A field of a form: its name, its type, what it may be, and what is said of it.
fn field_line(name: &str, field: &Value, is_required: bool) -> String {
    let mut line = format!("- {}", short(name));
    let items = &field["items"];
    let kind = match field["type"].as_str() {
        Some("array") => format!("list of {}s", items["type"].as_str().unwrap_or("string")),
        Some(kind) => kind.to_owned(),
        None => "any value".to_owned(),
    };
    let needed = if is_required { "required" } else { "may be left out" };
    let _ = write!(line, ": {}, {needed}", one_line(&kind));
    let choices = choices(field).or_else(|| choices(items)).unwrap_or_default();
    if !choices.is_empty() {
        let more = if choices.len() > CHOICES { ", …" } else { "" };
        let _ = write!(line, ", one of {}{more}", choices[..choices.len().min(CHOICES)].join(", "));
    }
    for (limit, means) in
        [("format", "format"), ("minimum", "at least"), ("maximum", "at most"), ("default", "else")]
    {
        match &field[limit] {
            Value::Null => {}
            value => _ = write!(line, ", {means} {}", short(&value.to_string())),
        }
    }
    for said in [&field["title"], &field["description"]] {
        if let Some(said) = said.as_str() {
            let _ = write!(line, "; {}", short(said));
        }
    }
    line
}

/// The values of which a field is one, with their titles where they have some.
fn choices(field: &Value) -> Option<Vec<String>> {
    let titled = |choice: &Value| match (&choice["const"], choice["title"].as_str()) {
        (value, Some(title)) => format!("{} ({})", short(&value.to_string()), short(title)),
        (value, None) => short(&value.to_string()),
    };
    if let Some(values) = field["enum"].as_array() {
        return Some(values.iter().map(|value| short(&value.to_string())).collect());
    }
    let choices = field["oneOf"].as_array().or_else(|| field["anyOf"].as_array())?;
    Some(choices.iter().map(titled).collect())
}

/// A form that is filled in, to be changed. What a tool has named is in it only where no shell could take it for more than that.
fn example(fields: &Map<String, Value>, is_required: impl Fn(&str) -> bool) -> String {
    let is_plain =
        |name: &str| name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    let wanted: Vec<_> = fields.iter().filter(|(name, _)| is_required(name)).collect();
    let wanted = if wanted.is_empty() { fields.iter().take(1).collect() } else { wanted };
    if wanted.len() > FIELDS || !wanted.iter().all(|(name, _)| is_plain(name)) {
        return "{…}".to_owned();
    }
    let value = |field: &Value| match field["type"].as_str() {
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(0),
        Some("array") => json!(["…"]),
        _ => match field["enum"][0].as_str() {
            Some(choice) if is_plain(choice) => json!(choice),
            _ => json!("…"),
        },
    };
    let fields = wanted.iter().map(|(name, field)| format!("\"{name}\": {}", value(field)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

/// What a model is to answer to.
fn messages(params: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for message in params["messages"].as_array().into_iter().flatten() {
        let said = match message["content"]["text"].as_str() {
            Some(said) => said.to_owned(),
            None => message["content"].to_string(),
        };
        lines.extend(text(&format!("{}: {said}", message["role"].as_str().unwrap_or("user"))));
    }
    bounded(lines)
}

/// Several lines of a tool's, none of which can do anything to a terminal.
fn text(said: &str) -> Vec<String> {
    let mut kept: String = said.chars().take(CHARS).collect();
    if kept.len() < said.len() {
        kept.push_str("… (see --json)");
    }
    let lines: Vec<String> = kept.lines().map(one_line).collect();
    bounded(if lines.is_empty() { vec![String::new()] } else { lines })
}

fn bounded(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > LINES {
        lines.truncate(LINES);
        lines.push("… (see --json)".to_owned());
    }
    lines
}

/// A word or a sentence of a tool's.
fn short(said: &str) -> String {
    const CHARS: usize = 400;
    let kept: String = said.chars().take(CHARS).collect();
    let more = if kept.len() < said.len() { "…" } else { "" };
    one_line(&kept) + more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(properties: &Value, required: &[&str]) -> (Vec<String>, String) {
        let schema = json!({"type": "object", "properties": properties, "required": required});
        asked_of_user(&json!({"message": "Which one?\nThere are \u{1b}[31mmany.", "requestedSchema": schema}))
    }

    #[test]
    fn a_form_is_shown_field_by_field_with_an_answer_to_change() {
        let size = json!({"type": "string", "enum": ["small", "large"], "description": "How large"});
        let (lines, answer) =
            form(&json!({"size": size, "count": {"type": "integer", "minimum": 1}}), &["size"]);
        assert_eq!(lines[..2], ["Which one?", "There are  [31mmany."]);
        assert!(
            lines.contains(&"- size: string, required, one of \"small\", \"large\"; How large".to_owned()),
            "{lines:?}"
        );
        assert!(lines.contains(&"- count: integer, may be left out, at least 1".to_owned()), "{lines:?}");
        assert_eq!(answer, "--content '{\"size\": \"small\"}'");
    }

    #[test]
    fn a_shell_takes_nothing_that_a_tool_has_named_for_a_command() {
        let (lines, answer) = form(&json!({"a'; reboot; '": {"type": "string"}}), &["a'; reboot; '"]);
        assert!(lines[2].contains("reboot"), "{lines:?}");
        assert_eq!(answer, "--content '{…}'");
        let (_, answer) = form(&json!({"a": {"enum": ["'; reboot; '"]}}), &[]);
        assert_eq!(answer, "--content '{\"a\": \"…\"}'");
    }

    #[test]
    fn what_is_shown_of_a_question_is_bounded() {
        let many: Map<String, Value> =
            (0..1000).map(|n| (format!("f{n}"), json!({"type": "string"}))).collect();
        let (lines, _) = form(&Value::Object(many), &[]);
        assert!(lines.len() < 50 && lines.last().unwrap().contains("960 fields more"), "{}", lines.len());
        assert_eq!(text(&"a\n".repeat(900)).len(), LINES + 1);
        let url = format!("https://example.com/{}", "x".repeat(2 * CHARS));
        let (lines, _) = asked_of_user(&json!({"mode": "url", "url": url, "message": "Agree?"}));
        assert!(lines[1].ends_with(&url), "an address is whole");
    }
}
