//! What can be an answer to a question of a server.

use meanwhile_core::Json;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::catalog::violations;
use crate::message::{Fields, to_json};

/// The question that a user answers, by a form or on a page.
pub const ELICITATION: &str = "elicitation/create";
/// What a model calls itself when it answers a question for a model.
const MODEL: &str = "agent";

/// An answer in the form that the question's asker expects. A model may say only what counts: the fields of a form, the words
/// of a message, the places of its roots.
///
/// # Errors
/// What is wrong with it.
pub fn shaped(question: &RawValue, answer: Json) -> Result<Json, String> {
    let question = Fields::parse(question.get()).unwrap_or_default();
    let method: String = question.read("method").unwrap_or_default();
    let given: Value = serde_json::from_str(answer.get()).map_err(|error| error.to_string())?;
    match method.as_str() {
        ELICITATION => elicited(&question, &given, answer),
        "sampling/createMessage" if given.is_string() => Ok(to_json(&json!({"role": "assistant",
            "content": {"type": "text", "text": given}, "model": MODEL, "stopReason": "endTurn"}))),
        "roots/list" if given.is_array() => {
            let roots: Vec<Value> = given
                .as_array()
                .into_iter()
                .flatten()
                .map(|root| if root.is_string() { json!({"uri": root}) } else { root.clone() })
                .collect();
            Ok(to_json(&json!({"roots": roots})))
        }
        _ if given.is_object() => Ok(answer),
        _ => Err("must be an object".to_owned()),
    }
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
    if !answer.is_object() {
        return Err("must be an object".to_owned());
    }
    if question.read::<String>("method").as_deref() != Some(ELICITATION) {
        return Ok(());
    }
    match answer["action"].as_str() {
        Some("accept" | "decline" | "cancel") => Ok(()),
        _ => Err("`action`: must be accept, decline or cancel".to_owned()),
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
        let sampled = asked(json!({"method": "sampling/createMessage"}), json!("hello")).unwrap();
        assert_eq!(sampled["content"]["text"], "hello");
        let roots = asked(json!({"method": "roots/list"}), json!(["file:///a"])).unwrap();
        assert_eq!(roots, json!({"roots": [{"uri": "file:///a"}]}));
    }
}
