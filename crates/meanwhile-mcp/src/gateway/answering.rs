//! `answer_job`: the agent answers what a job asks.

use std::sync::Arc;

use meanwhile_core::engine::{Answered, answer};
use meanwhile_core::job::Input;
use meanwhile_core::{Actor, Json, Status};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Gateway;
use super::own_tools::{Wrong, not_found, parse_handle, read};
use super::reply::tool_result;
use crate::catalog::{Catalog, violations};
use crate::message::{Answer, Fields, to_json};
use crate::words::{self, POLL_RESULT, Said};

/// What a model calls itself when it answers a question for a model.
const MODEL: &str = "agent";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    handle: String,
    answers: Fields,
}

impl Gateway {
    pub(super) async fn answer_job(
        self: &Arc<Self>,
        arguments: &str,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        let Arguments { handle: text, answers } = read(arguments)?;
        let handle = parse_handle(&text, catalog)?;
        let store = &**self.engine.store();
        let job = store.job(handle).await?.filter(|job| job.scope == self.settings.scope);
        let job = job.ok_or_else(|| not_found(&text, catalog))?;
        if job.status != Status::InputRequired {
            return Err(Wrong::Said(words::asks_nothing(&job)));
        }
        let open = self.open_inputs(&job).await?;
        let mut given = Vec::new();
        for (key, answer) in answers.into_entries() {
            let Some(input) = open.iter().find(|input| input.key == key) else {
                let keys: Vec<&str> = open.iter().map(|input| input.key.as_str()).collect();
                let why = format!("`answers/{}`: the job asks {}", words::clip(&key), keys.join(", "));
                return Err(Wrong::Arguments(why));
            };
            let answer =
                shaped(input, &answer).map_err(|why| Wrong::Arguments(format!("`answers/{key}`: {why}")))?;
            given.push((key, answer));
        }
        let scope = Some(self.settings.scope.as_str());
        match answer(store, scope, handle, given, Actor::Agent).await? {
            Answered::NotFound => Err(not_found(&text, catalog)),
            Answered::Refused(job, why) => Err(Wrong::Said(Said::error(
                format!("{handle} ({}): {why}.", job.tool),
                json!({"handle": handle, "status": job.status.name()}),
            ))),
            Answered::Done(job) => {
                let poll = catalog.our_name(POLL_RESULT);
                Ok(tool_result(&words::answered(&job, &poll)))
            }
        }
    }
}

/// An answer in the form that the question's asker expects. A model may say only what counts: the fields of a form, the words
/// of a message, the places of its roots.
fn shaped(input: &Input, answer: &Json) -> Result<Json, String> {
    let question = Fields::parse(input.question.get()).unwrap_or_default();
    let method: String = question.read("method").unwrap_or_default();
    let given: Value = serde_json::from_str(answer.get()).map_err(|error| error.to_string())?;
    match method.as_str() {
        "elicitation/create" => elicited(&question, given),
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
        _ if given.is_object() => Ok(answer.clone()),
        _ => Err("must be an object".to_owned()),
    }
}

fn elicited(question: &Fields, given: Value) -> Result<Json, String> {
    let action = given.get("action").and_then(Value::as_str).map(str::to_owned);
    let result = match action.as_deref() {
        Some("accept" | "decline" | "cancel") => given,
        // A form may have a field of that name.
        _ if given.is_object() => json!({"action": "accept", "content": given}),
        _ => {
            return Err(
                "write {\"action\": \"accept\", \"content\": {…}}, or {\"action\": \"decline\"}".to_owned()
            );
        }
    };
    let params: Fields = question.read("params").unwrap_or_default();
    if result["action"] == "accept"
        && let Some(schema) = params.read::<Value>("requestedSchema")
    {
        violations(&schema, result.get("content").unwrap_or(&json!({})), "content")?;
    }
    Ok(to_json(&result))
}

/// Whether what a client answers can be an answer to the question. Whether the user has filled the form in as its asker wants it,
/// the asker judges, as it does where the two speak without us.
///
/// # Errors
/// What is wrong with it.
pub(super) fn fits(question: &RawValue, answer: &RawValue) -> Result<(), String> {
    let answer: Value = serde_json::from_str(answer.get()).map_err(|error| error.to_string())?;
    let question = Fields::parse(question.get()).unwrap_or_default();
    if !answer.is_object() {
        return Err("must be an object".to_owned());
    }
    if question.read::<String>("method").as_deref() != Some("elicitation/create") {
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
        let question = to_json(&question);
        let input = Input { key: "q1".to_owned(), question, answer: None, attempt: 1 };
        shaped(&input, &to_json(&answer)).map(|answer| serde_json::from_str(answer.get()).unwrap())
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
