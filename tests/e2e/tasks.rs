//! Native tasks of revision 2025-11-25, for any server.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Hello, text};
use crate::modern::with_tasks;

const RELATED: &str = "io.modelcontextprotocol/related-task";

fn as_task(client: &Client, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments, "task": {"ttl": 60_000},
        "_meta": {"progressToken": "mine"}});
    client.request("tools/call", params).expect("a task")["task"].clone()
}

#[test]
fn every_tool_may_be_called_as_a_task_and_says_so() {
    let client = Client::wrap(&["--tool", "echo=inline"], &[FIXTURE]);
    let introduced = client.initialize();
    assert_eq!(
        introduced["capabilities"]["tasks"],
        json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}})
    );
    let list = client.request("tools/list", json!({})).unwrap();
    let support = |name: &str| {
        let tools = list["tools"].as_array().unwrap();
        tools.iter().find(|tool| tool["name"] == name).unwrap()["execution"]["taskSupport"].clone()
    };
    assert_eq!(
        (support("sleep"), support("echo"), support("poll_result")),
        (json!("optional"), Value::Null, Value::Null)
    );
    let inline = json!({"name": "echo", "arguments": {"text": "x"}, "task": {}});
    assert_eq!(client.request("tools/call", inline).unwrap_err()["code"], -32601);
    // An older revision knows nothing of it.
    let older = Client::wrap(&[], &[FIXTURE]);
    let introduced = older.initialize_as(Hello { version: "2025-06-18".into(), ..Hello::default() });
    assert!(introduced["capabilities"].get("tasks").is_none());
    let list = older.request("tools/list", json!({})).unwrap();
    assert!(list["tools"].as_array().unwrap().iter().all(|tool| tool.get("execution").is_none()));
}

#[test]
fn a_tool_may_be_there_as_a_task_only() {
    let client = Client::wrap(&["--tool", "echo=task"], &[FIXTURE]);
    client.initialize();
    let list = client.request("tools/list", json!({})).unwrap();
    let echo = list["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "echo").unwrap();
    assert_eq!(echo["execution"], json!({"taskSupport": "required"}));
    let plain = json!({"name": "echo", "arguments": {"text": "x"}});
    let refused = client.request("tools/call", plain.clone()).unwrap_err();
    assert_eq!(refused["code"], -32601, "{refused}");
    let task = as_task(&client, "echo", json!({"text": "x"}));
    let result = client.request("tasks/result", json!({"taskId": task["taskId"]})).unwrap();
    assert_eq!(text(&result), "x");
    let refused = client.modern("tools/call", plain.clone(), &json!({})).unwrap_err();
    assert_eq!(refused["code"], -32021, "{refused}");
    assert_eq!(client.modern("tools/call", plain, &with_tasks()).unwrap()["resultType"], "task");
}

#[test]
fn a_wish_for_a_task_that_cannot_be_met_is_refused_and_starts_nothing() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let call = |tool: &str, task: Value| {
        let params = json!({"name": tool, "arguments": {"token": "x"}, "task": task});
        let refused = client.request("tools/call", params).unwrap_err();
        (refused["code"].clone(), refused["message"].as_str().unwrap().to_owned())
    };
    for (tool, task, code, named) in [
        ("effect", json!("now"), -32602, "`task`"),
        ("effect", json!({"ttl": "1h"}), -32602, "`task/ttl`"),
        ("effect", json!({"ttl": -1}), -32602, "`task/ttl`"),
        ("list_jobs", json!({}), -32601, "list_jobs"),
    ] {
        let (is, message) = call(tool, task.clone());
        assert!(is == code && message.contains(named), "{task}: {is} {message}");
    }
    assert!(!client.home().log().contains("effect"), "{}", client.home().log());
}

#[test]
fn a_task_goes_from_working_to_its_result() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let gate = client.home().path("gate");
    let task = as_task(&client, "gate", json!({"path": gate}));
    assert_eq!((&task["status"], &task["ttl"]), (&json!("working"), &Value::Null));
    assert!(task["createdAt"].as_str().unwrap().ends_with('Z') && task["pollInterval"].is_u64(), "{task}");
    let id = json!({"taskId": task["taskId"]});
    assert_eq!(client.request("tasks/get", id.clone()).unwrap()["status"], "working");
    let result = client.start_request("tasks/result", id.clone());
    std::fs::write(&gate, "").unwrap();
    let result = client.wait_response(result).unwrap();
    assert_eq!((text(&result), &result["_meta"][RELATED]), ("opened", &json!({"taskId": task["taskId"]})));
    assert_eq!(client.request("tasks/get", id.clone()).unwrap()["status"], "completed");
    let told = client.next_notification("notifications/tasks/status");
    assert_eq!(
        (&told["params"]["status"], &told["params"]["taskId"]),
        (&json!("completed"), &task["taskId"])
    );
    let all = client.request("tasks/list", json!({})).unwrap();
    assert_eq!(all["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(client.request("tasks/list", json!({"cursor": "x"})).unwrap_err()["code"], -32602);
    assert_eq!(client.request("tasks/cancel", id).unwrap_err()["code"], -32602, "it has ended");
}

#[test]
fn an_error_of_the_tool_fails_a_task_and_its_result_is_that_answer() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let task = as_task(&client, "fail", json!({}));
    let id = json!({"taskId": task["taskId"]});
    let result = client.request("tasks/result", id.clone()).unwrap();
    assert_eq!(result["isError"], true);
    assert_eq!(client.request("tasks/get", id).unwrap()["status"], "failed");
    let task = as_task(&client, "protocol_error", json!({}));
    let error = client.request("tasks/result", json!({"taskId": task["taskId"]})).unwrap_err();
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32099), &json!(7)));
}

#[test]
fn progress_goes_on_under_its_token_for_the_tasks_whole_life() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let task = as_task(&client, "sleep", json!({"ms": 400, "steps": 4}));
    client.request("tasks/result", json!({"taskId": task["taskId"]})).unwrap();
    let progress = client.next_notification("notifications/progress");
    assert_eq!(progress["params"]["progressToken"], "mine");
    assert_eq!(progress["params"]["_meta"][RELATED]["taskId"], task["taskId"]);
}

#[test]
fn a_cancelled_task_is_cancelled_before_that_is_answered() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let task = as_task(&client, "sleep", json!({"ms": 60_000}));
    let id = json!({"taskId": task["taskId"]});
    let waiting = client.start_request("tasks/result", id.clone());
    assert_eq!(client.request("tasks/cancel", id).unwrap()["status"], "cancelled");
    assert!(client.wait_response(waiting).is_err());
    client.wait_log("cancelled");
}

#[test]
fn what_a_task_asks_is_asked_on_its_result_and_again_after_a_reconnect() {
    let client = Client::wrap(&[], &[FIXTURE]);
    let capabilities = json!({"elicitation": {}});
    client.initialize_as(Hello { capabilities, ..Hello::default() });
    let task = as_task(&client, "ask_elicitation", json!({}));
    let id = json!({"taskId": task["taskId"]});
    client.poll("the question", || {
        let task = client.request("tasks/get", id.clone()).unwrap();
        (task["status"] == "input_required").then_some(())
    });
    let abandoned = client.start_request("tasks/result", id.clone());
    client.next_request("elicitation/create");
    client.cancel(abandoned);
    let result = client.start_request("tasks/result", id.clone());
    let asked = client.next_request("elicitation/create");
    assert_eq!(asked["params"]["_meta"][RELATED]["taskId"], task["taskId"]);
    client.respond(&asked["id"], json!({"action": "accept", "content": {"colour": "green"}}));
    assert!(text(&client.wait_response(result).unwrap()).contains("green"));
}

#[test]
fn a_client_is_not_asked_on_a_result_what_it_has_not_declared() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    for (tool, answer) in [
        ("ask_elicitation", json!({"colour": "red"})),
        ("ask_roots", json!(["file:///a"])),
        ("ask_sampling", json!("red")),
    ] {
        let task = as_task(&client, tool, json!({}));
        let id = json!({"taskId": task["taskId"]});
        let result = client.start_request("tasks/result", id.clone());
        client.poll("the question", || {
            let task = client.request("tasks/get", id.clone()).unwrap();
            (task["status"] == "input_required").then_some(())
        });
        client.call("answer_job", json!({"handle": task["taskId"], "answers": {"q1": answer}}));
        client.wait_response(result).expect("a result");
        assert!(!client.is_asked(), "{tool}");
    }
}

#[test]
fn a_task_of_another_scope_is_not_there() {
    let client = Client::wrap(&["--scope", "one"], &[FIXTURE]);
    client.initialize();
    let task = as_task(&client, "sleep", json!({"ms": 60_000}));
    let other = Client::wrap_in(client.home(), &["--scope", "other"], &[FIXTURE], &[]);
    other.initialize();
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        let error = other.request(method, json!({"taskId": task["taskId"]})).unwrap_err();
        assert_eq!(error["code"], -32602, "{method}: {error}");
    }
    assert_eq!(other.request("tasks/list", json!({})).unwrap()["tasks"], json!([]));
}

#[test]
fn however_many_tasks_there_are_all_are_listed_page_by_page() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let ids: Vec<Value> = (0..101)
        .map(|number| as_task(&client, "echo", json!({"text": format!("{number}")}))["taskId"].clone())
        .collect();
    let page = |params: Value| client.request("tasks/list", params).expect("a page");
    let (first, mut listed) = (page(json!({})), Vec::new());
    let second = page(json!({"cursor": first["nextCursor"]}));
    assert!(second.get("nextCursor").is_none(), "{second}");
    for page in [&first, &second] {
        listed.extend(page["tasks"].as_array().expect("tasks").iter().map(|task| task["taskId"].clone()));
    }
    listed.reverse();
    assert_eq!(listed, ids);
}
