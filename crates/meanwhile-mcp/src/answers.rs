//! What can be an answer to a question of a server.

use meanwhile_core::Json;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::catalog::violations;
use crate::message::{Fields, to_json};

/// The question that a user answers, by a form or on a page.
pub const ELICITATION: &str = "elicitation/create";
/// The question that a model answers.
pub const SAMPLING: &str = "sampling/createMessage";
/// The question for the folders that a server may use.
pub const ROOTS: &str = "roots/list";
/// What a model calls itself when it answers a question for a model.
const MODEL: &str = "agent";
/// The texts that a block of each kind must have. One of a kind that is not known here may have any.
const BLOCKS: [(&str, &[&str]); 5] = [
    ("text", &["text"]),
    ("image", &["data", "mimeType"]),
    ("audio", &["data", "mimeType"]),
    ("tool_use", &["id", "name"]),
    ("tool_result", &["toolUseId"]),
];

/// An answer in the form that the question's asker expects. A model may say only what counts: the fields of a form, the words
/// of a message, the places of its roots. To say no is `{"action": "decline"}` for every question.
///
/// # Errors
/// What is wrong with it.
pub fn shaped(question: &RawValue, answer: Json) -> Result<Json, String> {
    let question = Fields::parse(question.get()).unwrap_or_default();
    let method: String = question.read("method").unwrap_or_default();
    let given: Value = serde_json::from_str(answer.get()).map_err(|error| error.to_string())?;
    let (answer, given) = match method.as_str() {
        ELICITATION => return elicited(&question, &given, answer),
        SAMPLING | ROOTS if is_no(&given) => return Ok(to_json(&json!({"action": "decline"}))),
        SAMPLING if given.is_string() => whole(&json!({"role": "assistant",
            "content": {"type": "text", "text": given}, "model": MODEL, "stopReason": "endTurn"})),
        ROOTS if given.is_array() => {
            let roots = given.as_array().into_iter().flatten();
            let roots: Vec<Value> = roots
                .map(|root| if root.is_string() { json!({"uri": root}) } else { root.clone() })
                .collect();
            whole(&json!({"roots": roots}))
        }
        _ => (answer, given),
    };
    judge(&method, &given).map_err(|why| match method.as_str() {
        SAMPLING => format!("{why}; or write the model's text alone, as a string"),
        ROOTS => format!("{why}; or write a list of file:// URIs"),
        _ => why,
    })?;
    Ok(answer)
}

fn whole(answer: &Value) -> (Json, Value) {
    (to_json(answer), answer.clone())
}

/// Whether an answer that is kept for a question is none, for whoever was asked said no: what is asked of a user has a form for
/// that, anything else is answered with an error, or with nothing.
pub(crate) fn says_no(method: &str, answer: &RawValue) -> bool {
    method != ELICITATION && serde_json::from_str(answer.get()).is_ok_and(|answer| is_no(&answer))
}

fn is_no(answer: &Value) -> bool {
    matches!(answer["action"].as_str(), Some("decline" | "cancel"))
}

fn elicited(question: &Fields, given: &Value, answer: Json) -> Result<Json, String> {
    let (action, content, answer) = match given["action"].as_str() {
        Some(action @ ("accept" | "decline" | "cancel")) => (action, given.get("content"), answer),
        // A form may have a field of that name.
        _ if given.is_object() => ("accept", Some(given), accepted(answer)),
        _ => {
            return Err(
                "write {\"action\": \"accept\", \"content\": {…}}, or {\"action\": \"decline\"}".to_owned()
            );
        }
    };
    let params: Fields = question.read("params").unwrap_or_default();
    if action == "accept"
        && let Some(schema) = params.read::<Value>("requestedSchema")
    {
        violations(&schema, content.unwrap_or(&json!({})), "content")?;
    }
    Ok(answer)
}

/// A form that is filled in.
#[must_use]
pub fn accepted(content: Json) -> Json {
    let mut answer = Fields::default();
    answer.set("action", to_json("accept"));
    answer.set("content", content);
    answer.to_json()
}

/// Whether what a client answers can be an answer to the question. Whether the user has filled the form in as its asker wants it,
/// the asker judges, as it does where the two speak without us.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn fits(question: &RawValue, answer: &RawValue) -> Result<(), String> {
    let answer: Value = serde_json::from_str(answer.get()).map_err(|error| error.to_string())?;
    let question = Fields::parse(question.get()).unwrap_or_default();
    judge(&question.read::<String>("method").unwrap_or_default(), &answer)
}

/// Whether this can be the result of the request, of whatever revision; fields that nobody has heard of may be there.
fn judge(method: &str, result: &Value) -> Result<(), String> {
    if !result.is_object() {
        return Err("must be an object".to_owned());
    }
    match method {
        ELICITATION => match result["action"].as_str() {
            Some("accept" | "decline" | "cancel") => Ok(()),
            _ => Err("`action`: must be accept, decline or cancel".to_owned()),
        },
        SAMPLING => is_message(result),
        ROOTS => are_roots(result),
        _ => Ok(()),
    }
}

/// See <https://modelcontextprotocol.io/specification/2026-07-28/schema#createmessageresult>.
fn is_message(result: &Value) -> Result<(), String> {
    if !matches!(result["role"].as_str(), Some("assistant" | "user")) {
        return Err("`role`: must be assistant or user".to_owned());
    }
    if !result["model"].is_string() {
        return Err("`model`: must be the model's name, a string".to_owned());
    }
    match &result["content"] {
        Value::Array(blocks) => {
            let named = |(at, block)| is_block(block).map_err(|why| format!("`content/{at}`: {why}"));
            blocks.iter().enumerate().try_for_each(named)
        }
        block => is_block(block).map_err(|why| format!("`content`: {why}")),
    }
}

fn is_block(block: &Value) -> Result<(), String> {
    let Some(kind) = block["type"].as_str() else {
        return Err(
            "must be a block with a `type`, for example {\"type\": \"text\", \"text\": \"…\"}".to_owned()
        );
    };
    let texts = BLOCKS.iter().find(|(known, _)| *known == kind).map_or(&[][..], |(_, texts)| *texts);
    match texts.iter().find(|text| !block[**text].is_string()) {
        Some(missing) => Err(format!("a block of type {kind} must have `{missing}`, a string")),
        None => Ok(()),
    }
}

/// See <https://modelcontextprotocol.io/specification/2026-07-28/schema#listrootsresult>.
fn are_roots(result: &Value) -> Result<(), String> {
    let Some(roots) = result["roots"].as_array() else { return Err("`roots`: must be a list".to_owned()) };
    let is_place = |root: &Value| root["uri"].as_str().is_some_and(|uri| uri.starts_with("file://"));
    match roots.iter().position(|root| !is_place(root)) {
        Some(at) => Err(format!("`roots/{at}`: must be an object with a `uri` that begins with file://")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: Value, answer: Value) -> Result<Value, String> {
        shaped(&to_json(&question), to_json(&answer))
            .map(|answer| serde_json::from_str(answer.get()).unwrap())
    }

    #[test]
    fn a_form_is_checked_and_may_be_given_by_its_fields_alone() {
        let schema =
            json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
        let question =
            json!({"method": "elicitation/create", "params": {"message": "m", "requestedSchema": schema}});
        let accepted = json!({"action": "accept", "content": {"name": "x"}});
        assert_eq!(asked(question.clone(), json!({"name": "x"})), Ok(accepted.clone()));
        assert_eq!(asked(question.clone(), accepted.clone()), Ok(accepted));
        assert_eq!(asked(question.clone(), json!({"action": "decline"})), Ok(json!({"action": "decline"})));
        assert!(asked(question.clone(), json!({"name": 7})).unwrap_err().contains("`name`"));
        let missing = asked(question.clone(), json!({"action": "accept"})).unwrap_err();
        assert!(missing.starts_with("`content`: ") && missing.contains("name"), "{missing}");
        assert!(asked(question, json!("x")).is_err());
    }

    #[test]
    fn a_message_and_roots_may_be_given_in_short() {
        let sampled = asked(json!({"method": SAMPLING}), json!("hello")).unwrap();
        assert_eq!(sampled["content"]["text"], "hello");
        assert_eq!(judge(SAMPLING, &sampled), Ok(()));
        let roots = asked(json!({"method": ROOTS}), json!(["file:///a", {"uri": "file:///b", "name": "b"}]));
        assert_eq!(roots, Ok(json!({"roots": [{"uri": "file:///a"}, {"uri": "file:///b", "name": "b"}]})));
        assert_eq!(asked(json!({"method": ROOTS}), json!([])), Ok(json!({"roots": []})));
    }

    #[test]
    fn what_can_be_no_message_is_none_and_says_what_would_be() {
        let block = json!({"type": "text", "text": "hi"});
        let message = |content: &Value| json!({"role": "assistant", "model": "m", "content": content});
        let tool = json!({"type": "tool_use", "id": "1", "name": "t", "input": {}});
        let novel = json!({"type": "novel"});
        for content in [&block, &json!([block, tool]), &json!([]), &novel] {
            let mut right = message(content);
            right["x-novel"] = json!(1.5);
            assert_eq!(asked(json!({"method": SAMPLING}), right.clone()), Ok(right));
        }
        for (wrong, named) in [
            (json!({"action": "accept", "content": {"text": "hi"}}), "`role`"),
            (json!({"role": "assistant", "content": block}), "`model`"),
            (json!({"role": "system", "model": "m", "content": block}), "`role`"),
            (message(&json!("hi")), "`content`"),
            (message(&json!({"text": "hi"})), "`type`"),
            (message(&json!([block, {"type": "text"}])), "`content/1`"),
            (message(&json!({"type": "image", "data": "x"})), "`mimeType`"),
            (json!(["hi"]), "object"),
        ] {
            let why = asked(json!({"method": SAMPLING}), wrong.clone()).unwrap_err();
            assert!(why.contains(named) && why.contains("text alone"), "{why}");
            assert!(fits(&to_json(&json!({"method": SAMPLING})), &to_json(&wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_can_be_no_roots_are_none_and_say_what_would_be() {
        let right = json!({"roots": [{"uri": "file:///a", "x-novel": 1.5}], "_meta": {}});
        assert_eq!(asked(json!({"method": ROOTS}), right.clone()), Ok(right));
        for wrong in [
            json!({}),
            json!({"action": "accept", "content": {}}),
            json!({"roots": ["file:///a"]}),
            json!({"roots": [{"uri": "https://a"}]}),
            json!(["/a"]),
            json!("file:///a"),
        ] {
            let why = asked(json!({"method": ROOTS}), wrong.clone()).unwrap_err();
            assert!(why.contains("list of file:// URIs"), "{why}");
            assert!(fits(&to_json(&json!({"method": ROOTS})), &to_json(&wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_question_can_be_declined_here_and_by_a_client_where_its_result_can_say_so() {
        let no = json!({"action": "decline"});
        for method in [ELICITATION, SAMPLING, ROOTS] {
            let question = json!({"method": method});
            assert_eq!(asked(question.clone(), no.clone()), Ok(no.clone()), "{method}");
            let is_elicitation = method == ELICITATION;
            assert_eq!(fits(&to_json(&question), &to_json(&no)).is_ok(), is_elicitation, "{method}");
            assert_eq!(says_no(method, &to_json(&no)), !is_elicitation, "{method}");
        }
        assert!(!says_no(ROOTS, &to_json(&json!({"roots": []}))));
    }
}
