//! Several processes on one store: what one has begun, another goes on with.

use serde_json::{Value, json};

use super::modern::{ask, call};
use super::web::{Answer, Served};
use crate::client::{Home, RAW, example, text};
use crate::faces::Gate;
use crate::modern::with_tasks;

/// A request about a task.
fn about(task: &Value, more: &Value) -> Value {
    let mut params = call("", &json!({}), &with_tasks());
    params["taskId"] = task.clone();
    let fields = params.as_object_mut().expect("an object");
    fields.remove("name");
    fields.remove("arguments");
    fields.extend(more.as_object().expect("an object").clone());
    params
}

fn two() -> (Home, Served, Served) {
    two_with("30ms")
}

fn two_with(inline_budget: &str) -> (Home, Served, Served) {
    let home = Home::new();
    let [one, other] = [(); 2].map(|()| Served::fixture_in(&home, &["--inline-budget", inline_budget]));
    (home, one, other)
}

/// Makes a task of a call.
fn begin(served: &Served, tool: &str, arguments: &Value, capabilities: &Value) -> Value {
    let created = ask(served, "tools/call", &call(tool, arguments, capabilities), &[]).response();
    assert_eq!(created["result"]["resultType"], "task", "{created}");
    created["result"]["taskId"].clone()
}

/// Listens to a task.
fn listen(served: &Served, task: &Value) -> Answer {
    let mut params = about(task, &json!({"notifications": {"taskIds": [task]}}));
    params.as_object_mut().expect("an object").remove("taskId");
    let mut listening = ask(served, "subscriptions/listen", &params, &[]);
    let acknowledged = listening.message().expect("an acknowledgement");
    assert_eq!(acknowledged["params"]["notifications"]["taskIds"], json!([task]), "{acknowledged}");
    listening
}

fn told(listening: &mut Answer, status: &str) -> Value {
    let told = std::iter::from_fn(|| listening.message()).find(|told| told["params"]["status"] == status);
    told.expect("it is told")["params"].clone()
}

#[test]
fn a_task_is_got_and_listened_to_at_another_process() {
    let (home, one, other) = two();
    let gate = Gate::new(&home, "gate");
    let task = begin(&one, "gate", &gate.arguments(), &with_tasks());
    let mut listening = listen(&other, &task);
    let got = ask(&other, "tasks/get", &about(&task, &json!({})), &[]).json();
    assert_eq!(got["result"]["status"], "working", "{got}");
    gate.open();
    assert_eq!(text(&told(&mut listening, "completed")["result"]), "opened");
    let got = ask(&other, "tasks/get", &about(&task, &json!({})), &[]).json();
    assert_eq!((&got["result"]["status"], text(&got["result"]["result"])), (&json!("completed"), "opened"));
}

#[test]
fn a_task_is_cancelled_at_another_process() {
    let (home, one, other) = two();
    let task = begin(&one, "gate", &Gate::new(&home, "gate").arguments(), &with_tasks());
    let mut listening = listen(&one, &task);
    let cancelled = ask(&other, "tasks/cancel", &about(&task, &json!({})), &[]).json();
    assert!(cancelled["error"].is_null(), "{cancelled}");
    told(&mut listening, "cancelled");
    one.process.wait_log("cancelled gate");
}

#[test]
fn a_task_that_asks_is_answered_at_another_process() {
    let (_home, one, other) = two();
    let task = begin(&one, "ask_elicitation", &json!({}), &with_tasks());
    let mut listening = listen(&other, &task);
    let asks = told(&mut listening, "input_required");
    let key = asks["inputRequests"].as_object().and_then(|asked| asked.keys().next()).expect("a question");
    let answer = json!({"action": "accept", "content": {"colour": "blue"}});
    let answers = about(&task, &json!({"inputResponses": {key: answer}}));
    let updated = ask(&other, "tasks/update", &answers, &[]).json();
    assert!(updated["error"].is_null(), "{updated}");
    assert!(text(&told(&mut listening, "completed")["result"]).contains("blue"));
}

#[test]
fn a_call_that_asks_is_gone_on_with_at_another_process() {
    let (_home, one, other) = two_with("1m");
    let mut params = call("ask_elicitation", &json!({}), &json!({"elicitation": {}}));
    let asks = ask(&one, "tools/call", &params, &[]).response()["result"].clone();
    assert_eq!(asks["resultType"], "input_required", "{asks}");
    let key = asks["inputRequests"].as_object().and_then(|asked| asked.keys().next()).expect("a question");
    params["inputResponses"] = json!({key: {"action": "accept", "content": {"colour": "red"}}});
    params["requestState"] = asks["requestState"].clone();
    let answer = ask(&other, "tools/call", &params, &[]).response();
    assert!(text(&answer["result"]).contains("red"), "{answer}");
}

#[test]
fn a_prompt_or_a_resource_that_asks_is_gone_on_with_at_another_process() {
    let home = Home::new();
    let servers = json!({"fixture": {"command": example(RAW)}});
    let [one, other] = [(); 2].map(|()| Served::start(&home, &servers, &[]));
    for (method, field, name) in [
        ("prompts/get", "name", "asks_3"),
        ("resources/read", "uri", "x:asks_3"),
        ("prompts/get", "name", "asks_3_at_once"),
    ] {
        let mut params = call("", &json!({}), &json!({"elicitation": {}}));
        params.as_object_mut().expect("an object").retain(|field, _| field == "_meta");
        params[field] = json!(name);
        let (mut answered, mut replicas) = (Vec::new(), [&one, &other].into_iter().cycle());
        let last = loop {
            let replica = replicas.next().expect("it goes round");
            let answer = ask(replica, method, &params, &[]).json();
            if answer["result"]["resultType"] != "input_required" {
                break answer;
            }
            let asked = answer["result"]["inputRequests"].as_object().expect("questions");
            let answers = asked.keys().map(|key| {
                answered.push(key.clone());
                (key.clone(), json!({"action": "accept", "content": {"said": key}}))
            });
            params["inputResponses"] = Value::Object(answers.collect());
            params["requestState"] = answer["result"]["requestState"].clone();
        };
        assert_eq!(answered, ["q1", "q2", "q3"], "each is asked once");
        let places: Vec<_> = answered.iter().map(|key| last.to_string().find(&**key)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{last}");
    }
}

#[test]
fn a_prompt_that_asks_outlives_the_process_that_held_it() {
    let home = Home::new();
    let servers = json!({"fixture": {"command": example(RAW)}});
    let mut params = call("asks_1", &json!({}), &json!({"elicitation": {}}));
    params.as_object_mut().expect("an object").remove("arguments");
    let first = Served::start(&home, &servers, &[]);
    let asked = ask(&first, "prompts/get", &params, &[]).json()["result"].clone();
    first.process.kill();
    first.process.wait_exit();
    let next = Served::start(&home, &servers, &[]);
    params["requestState"] = asked["requestState"].clone();
    params["inputResponses"] = json!({"q1": {"action": "accept", "content": {"said": "this"}}});
    let prompt = ask(&next, "prompts/get", &params, &[]).json();
    assert!(prompt["result"]["description"].as_str().expect("a prompt").contains("this"), "{prompt}");
}
