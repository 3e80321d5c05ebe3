//! Clients of the modern era: no `initialize`, every request says who asks.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, RAW, text, tool_names};

const SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// What a client says that has tasks.
pub(crate) fn with_tasks() -> Value {
    json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } })
}

fn call(tool: &str, arguments: Value) -> Value {
    json!({ "name": tool, "arguments": arguments })
}

#[test]
fn a_server_introduces_itself_to_whoever_asks() {
    let client = Client::wrap(&[], &[FIXTURE]);
    let found = client.modern("server/discover", json!({}), &json!({})).unwrap();
    assert_eq!(found["resultType"], "complete");
    assert_eq!(found["supportedVersions"], json!(["2026-07-28"]));
    assert!(
        found["capabilities"]["tools"].is_object() && found["capabilities"].get("tasks").is_none(),
        "{found}"
    );
    assert!(found["capabilities"]["extensions"]["io.modelcontextprotocol/tasks"].is_object());
    assert!(found["instructions"].as_str().unwrap().contains("poll_result"));
    assert!(found["_meta"][SERVER]["name"].is_string() && found["ttlMs"].is_u64(), "{found}");
}

#[test]
fn tools_are_listed_and_called_without_initialize() {
    let client = Client::wrap(&[], &[FIXTURE]);
    let list = client.modern("tools/list", json!({}), &json!({})).unwrap();
    let names = tool_names(&list);
    assert!(names.contains(&"echo") && names.contains(&"poll_result") && names.contains(&"answer_job"));
    assert_eq!((&list["resultType"], &list["cacheScope"]), (&json!("complete"), &json!("private")));
    assert!(list["tools"].as_array().unwrap().iter().all(|tool| tool.get("execution").is_none()));
    let answer = client.modern("tools/call", call("echo", json!({"text": "hi"})), &json!({})).unwrap();
    assert_eq!((text(&answer), &answer["resultType"]), ("hi", &json!("complete")));
    let note = client.modern("resources/read", json!({"uri": "fixture://notes/one"}), &json!({})).unwrap();
    assert!(note["contents"].is_array() && note["ttlMs"].is_u64(), "{note}");
}

#[test]
fn what_is_not_of_the_revision_is_refused_by_its_code() {
    let client = Client::wrap(&[], &[FIXTURE]);
    for gone in
        ["ping", "initialize", "logging/setLevel", "tasks/list", "tasks/result", "resources/subscribe"]
    {
        let error = client.modern(gone, json!({}), &json!({})).unwrap_err();
        assert_eq!(error["code"], -32601, "{gone}: {error}");
    }
    let version = |version: Value| {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": version});
        client.modern("tools/list", json!({ "_meta": meta }), &json!({})).unwrap_err()
    };
    let unknown = version(json!("2031-01-01"));
    assert_eq!((&unknown["code"], &unknown["data"]["supported"]), (&json!(-32022), &json!(["2026-07-28"])));
    assert_eq!(version(json!(7))["code"], -32602);
    for (name, wrong) in
        [("taskIds", json!("job_x")), ("toolsListChanged", json!(1)), ("resourceSubscriptions", json!([7]))]
    {
        let listen = json!({"notifications": {name: wrong}});
        let refused = client.modern("subscriptions/listen", listen, &with_tasks()).unwrap_err();
        let why = refused["message"].as_str().unwrap();
        assert!(refused["code"] == -32602 && why.contains(&format!("`notifications/{name}`")), "{refused}");
    }
    let gone = client.modern("resources/read", json!({"uri": "fixture://nowhere"}), &json!({})).unwrap_err();
    assert_eq!(gone["code"], -32602, "{gone}");
}

#[test]
fn a_legacy_task_parameter_means_nothing() {
    let client = Client::wrap(&[], &[FIXTURE]);
    let mut params = call("echo", json!({"text": "hi"}));
    params["task"] = json!({"ttl": 1000});
    let answer = client.modern("tools/call", params, &json!({})).unwrap();
    assert_eq!(text(&answer), "hi");
}

#[test]
fn a_slow_call_is_a_handle_to_those_who_have_no_tasks() {
    let client = Client::wrap(&["--inline-budget", "50ms"], &[FIXTURE]);
    let gate = client.home().path("gate");
    let started =
        client.modern("tools/call", call("gate", json!({"path": gate})), &json!({"sampling": {}})).unwrap();
    assert_eq!(
        (&started["resultType"], &started["structuredContent"]["status"]),
        (&json!("complete"), &json!("working"))
    );
    let handle = started["structuredContent"]["handle"].clone();
    let poll = client.start_modern("tools/call", call("poll_result", json!({"handle": handle})), &json!({}));
    std::fs::write(&gate, "").unwrap();
    assert_eq!(text(&client.wait_response(poll).unwrap()), "opened");
}

#[test]
fn a_slow_call_is_a_task_to_those_who_have_them() {
    let client = Client::wrap(&["--inline-budget", "50ms"], &[FIXTURE]);
    let gate = client.home().path("gate");
    let task = client.modern("tools/call", call("gate", json!({"path": gate})), &with_tasks()).unwrap();
    assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")));
    assert!(task.get("task").is_none() && task.get("ttl").is_none() && task["ttlMs"].is_null(), "{task}");
    let id = task["taskId"].clone();
    let get = || client.modern("tasks/get", json!({"taskId": id}), &with_tasks()).unwrap();
    assert_eq!((&get()["status"], &get()["resultType"]), (&json!("working"), &json!("complete")));
    std::fs::write(&gate, "").unwrap();
    let ended = client.poll("the end of the task", || Some(get()).filter(|task| task["status"] != "working"));
    assert_eq!((&ended["status"], text(&ended["result"])), (&json!("completed"), "opened"));
    assert!(ended["ttlMs"].is_u64(), "{ended}");
    assert_eq!(ended["result"]["resultType"], "complete", "it is a result as the call would have had");
    // The same job, by our own tool.
    let polled = client.modern("tools/call", call("poll_result", json!({"handle": id})), &json!({})).unwrap();
    assert_eq!(text(&polled), "opened");
}

#[test]
fn an_error_of_the_tool_completes_a_task_and_one_of_the_protocol_fails_it() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    let end = |tool: &str| {
        let task = client.modern("tools/call", call(tool, json!({})), &with_tasks()).unwrap();
        let id = task["taskId"].clone();
        client.poll("the end of the task", || {
            let task = client.modern("tasks/get", json!({"taskId": id}), &with_tasks()).unwrap();
            Some(task).filter(|task| task["status"] != "working")
        })
    };
    let failed = end("fail");
    assert_eq!((&failed["status"], &failed["result"]["isError"]), (&json!("completed"), &json!(true)));
    let error = end("protocol_error");
    assert_eq!((&error["status"], &error["error"]["code"]), (&json!("failed"), &json!(-32099)));
    assert_eq!(error["error"]["data"]["code"], 7, "{error}");
}

#[test]
fn a_task_is_cancelled_at_any_time_and_only_by_those_who_declare_tasks() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    let task = client.modern("tools/call", call("sleep", json!({"ms": 60_000})), &with_tasks()).unwrap();
    let id = json!({"taskId": task["taskId"]});
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let error = client.modern(method, id.clone(), &json!({})).unwrap_err();
        assert_eq!(error["code"], -32021, "{method}");
        assert!(error["data"]["requiredCapabilities"]["extensions"].is_object(), "{error}");
    }
    assert_eq!(client.modern("tasks/cancel", id.clone(), &with_tasks()).unwrap()["resultType"], "complete");
    client.poll("the end of the task", || {
        let task = client.modern("tasks/get", id.clone(), &with_tasks()).unwrap();
        (task["status"] == "cancelled").then_some(())
    });
    assert!(
        client.modern("tasks/cancel", id, &with_tasks()).is_ok(),
        "an ended task is acknowledged all the same"
    );
    let unknown = json!({"taskId": "job_aaaaaaaaaaaaaaaaaaaaaaaaaa"});
    assert_eq!(client.modern("tasks/get", unknown, &with_tasks()).unwrap_err()["code"], -32602);
}

#[test]
fn whoever_listens_is_told_of_every_change() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    let gate = client.home().path("gate");
    let task = client.modern("tools/call", call("gate", json!({"path": gate})), &with_tasks()).unwrap();
    let wanted =
        json!({"taskIds": [task["taskId"], "job_aaaaaaaaaaaaaaaaaaaaaaaaaa"], "toolsListChanged": true});
    let refused = client.modern("subscriptions/listen", json!({"notifications": wanted}), &json!({}));
    assert_eq!(refused.unwrap_err()["code"], -32021);
    let id = client.start_modern("subscriptions/listen", json!({"notifications": wanted}), &with_tasks());
    let accepted = client.next_notification("notifications/subscriptions/acknowledged");
    assert_eq!(
        accepted["params"]["notifications"],
        json!({"taskIds": [task["taskId"]], "toolsListChanged": true})
    );
    let subscription = |notification: &Value| {
        notification["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone()
    };
    assert_eq!(subscription(&accepted), json!(id));
    let first = client.next_notification("notifications/tasks");
    assert_eq!((&first["params"]["status"], subscription(&first)), (&json!("working"), json!(id)));
    std::fs::write(&gate, "").unwrap();
    let last = client.poll("the end of the task", || {
        let told = client.next_notification("notifications/tasks");
        (told["params"]["status"] != "working").then_some(told)
    });
    assert_eq!((&last["params"]["status"], text(&last["params"]["result"])), (&json!("completed"), "opened"));
    client.modern("tools/call", call("grow", json!({})), &json!({})).unwrap();
    assert_eq!(subscription(&client.next_notification("notifications/tools/list_changed")), json!(id));
    // Taken back, it is over, and nothing is said of it any more.
    client.cancel(id);
    client.modern("tools/call", call("grow", json!({})), &json!({})).unwrap();
    assert!(client.take_notifications("notifications/tools/list_changed").is_empty());
    client.close_stdin();
    assert!(client.wait_exit().success());
}

#[test]
fn nobody_is_told_what_they_did_not_ask_for() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.modern("tools/call", call("log", json!({"message": "unheard"})), &json!({})).unwrap();
    client.modern("tools/call", call("grow", json!({})), &json!({})).unwrap();
    assert!(client.take_notifications("notifications/message").is_empty());
    assert!(client.take_notifications("notifications/tools/list_changed").is_empty());
    let mut params = call("log", json!({"message": "heard"}));
    params["_meta"] = json!({"io.modelcontextprotocol/logLevel": "debug"});
    client.modern("tools/call", params, &json!({})).unwrap();
    let heard = client.next_notification("notifications/message");
    assert!(heard["params"]["data"].to_string().contains("heard"), "{heard}");
}

#[test]
fn a_request_that_wants_few_log_messages_takes_none_from_others() {
    let client = Client::wrap(&[], &[FIXTURE]);
    let log = |message: &str, level: &str| {
        let mut params = call("log", json!({"message": message}));
        params["_meta"] = json!({"io.modelcontextprotocol/logLevel": level});
        client.modern("tools/call", params, &json!({})).unwrap();
    };
    log("one", "debug");
    log("two", "error");
    log("three", "info");
    let heard = || client.next_notification("notifications/message")["params"]["data"].clone();
    assert_eq!([heard(), heard()], ["one", "three"]);
    assert_eq!(client.home().log().matches("set level").count(), 1, "{}", client.home().log());
    // A new process knows it too.
    client.modern("tools/call", call("crash_once", json!({})), &json!({})).unwrap();
    log("four", "debug");
    assert_eq!(heard(), "four");
    assert_eq!(client.home().log().matches("set level debug").count(), 2, "{}", client.home().log());
}

#[test]
fn of_two_prompts_that_ask_each_is_asked_on_when_it_is_answered() {
    let client = Client::wrap(&[], &[RAW]);
    let get = |round: Option<&Value>| {
        let mut params = json!({"name": "asks_3"});
        if let Some(asked) = round {
            let requests = asked["inputRequests"].as_object().expect("questions");
            let answers = requests.keys().map(|key| (key.clone(), json!({"action": "decline"})));
            params["inputResponses"] = Value::Object(answers.collect());
            params["requestState"] = asked["requestState"].clone();
        }
        client.modern("prompts/get", params, &json!({"elicitation": {}})).unwrap()
    };
    let (first, second) = (get(None), get(None));
    for mut asked in [first, second] {
        for _ in 0..3 {
            assert_eq!(asked["inputRequests"].as_object().map(serde_json::Map::len), Some(1), "{asked}");
            asked = get(Some(&asked));
        }
        assert_eq!(asked["resultType"], "complete", "{asked}");
    }
}

#[test]
fn a_call_that_is_always_waited_for_asks_its_client_as_well() {
    let client = Client::wrap(&["--mode", "inline"], &[FIXTURE]);
    let can = json!({"elicitation": {}});
    let mut params = call("ask_elicitation", json!({}));
    let asked = client.modern("tools/call", params.clone(), &can).unwrap();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap();
    params["requestState"] = asked["requestState"].clone();
    params["inputResponses"] = json!({key: {"action": "accept", "content": {"colour": "red"}}});
    let answer = client.modern("tools/call", params, &can).unwrap();
    assert_eq!(answer["resultType"], "complete", "{answer}");
    assert!(text(&answer).contains("red"), "{answer}");
    let mut can_and_has_tasks = with_tasks();
    can_and_has_tasks["elicitation"] = json!({});
    let asked = client.modern("tools/call", call("ask_elicitation", json!({})), &can_and_has_tasks).unwrap();
    assert_eq!(asked["resultType"], "input_required", "and no task: {asked}");
    let mut has_tasks_and_roots = with_tasks();
    has_tasks_and_roots["roots"] = json!({});
    for cannot in [json!({}), json!({"roots": {}}), has_tasks_and_roots] {
        let declined = client.modern("tools/call", call("ask_elicitation", json!({})), &cannot).unwrap();
        assert!(text(&declined).contains("decline"), "{declined}");
    }
}

#[test]
fn a_call_that_asks_is_answered_with_the_question_and_comes_again() {
    let client = Client::wrap(&[], &[FIXTURE]);
    let can = json!({"elicitation": {}});
    let asked = client.modern("tools/call", call("ask_elicitation", json!({})), &can).unwrap();
    assert_eq!(asked["resultType"], "input_required");
    let requests = asked["inputRequests"].as_object().unwrap();
    let (key, request) = requests.iter().next().unwrap();
    assert_eq!((requests.len(), &request["method"]), (1, &json!("elicitation/create")));
    assert_eq!(request["params"]["message"], "Which colour?");
    let again_with = |arguments: Value, responses: Value| {
        let mut params = call("ask_elicitation", arguments);
        params["inputResponses"] = responses;
        params["requestState"] = asked["requestState"].clone();
        client.modern("tools/call", params, &can)
    };
    let again = |responses: Value| again_with(json!({}), responses);
    let accepted = json!({key: {"action": "accept", "content": {"colour": "red"}}});
    // What it was given counts for the same call only.
    let other = json!({"after": "/dev/null"});
    assert_eq!(again_with(other, accepted.clone()).unwrap_err()["code"], -32602);
    for (wrong, named) in [
        (json!("red"), "`inputResponses`"),
        (json!({key: "red"}), key.as_str()),
        (json!({key: {"colour": "red"}}), "`action`"),
    ] {
        let refused = again(wrong).unwrap_err();
        assert!(
            refused["code"] == -32602 && refused["message"].as_str().unwrap().contains(named),
            "{refused}"
        );
    }
    let still = again(json!({})).unwrap();
    assert_eq!(
        (&still["resultType"], &still["inputRequests"]),
        (&json!("input_required"), &asked["inputRequests"])
    );
    let answer = again(accepted).unwrap();
    assert_eq!(answer["resultType"], "complete");
    assert!(text(&answer).contains("red"), "{answer}");
    let mut forged = call("ask_elicitation", json!({}));
    forged["requestState"] = json!("job_aaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert_eq!(client.modern("tools/call", forged, &can).unwrap_err()["code"], -32602);
}

#[test]
fn a_task_that_asks_is_answered_by_an_update() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    let task = client.modern("tools/call", call("ask_elicitation", json!({})), &with_tasks()).unwrap();
    let id = task["taskId"].clone();
    let wait = |status: &str| {
        client.poll(status, || {
            let task = client.modern("tasks/get", json!({"taskId": id}), &with_tasks()).unwrap();
            Some(task).filter(|task| task["status"] == status)
        })
    };
    let asking = wait("input_required");
    let key = asking["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let wrong = json!({"taskId": id, "inputResponses": {&key: {"action": "maybe"}}});
    assert_eq!(client.modern("tasks/update", wrong, &with_tasks()).unwrap_err()["code"], -32602);
    let answers = json!({"nobody asked": {}, &key: {"action": "accept", "content": {"colour": "blue"}}});
    let params = json!({"taskId": id, "inputResponses": answers});
    assert_eq!(client.modern("tasks/update", params, &with_tasks()).unwrap()["resultType"], "complete");
    assert!(text(&wait("completed")["result"]).contains("blue"));
}

#[test]
fn an_update_that_can_be_no_message_or_no_roots_is_refused_and_loses_nothing() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    let message = json!({"role": "assistant", "model": "m", "content": [{"type": "text", "text": "three"}]});
    for (tool, right, shown) in [
        ("ask_sampling", message, "three"),
        ("ask_roots", json!({"roots": [{"uri": "file:///a"}]}), "file:///a"),
    ] {
        let task = client.modern("tools/call", call(tool, json!({})), &with_tasks()).unwrap();
        let id = task["taskId"].clone();
        let wait = |status: &str| {
            client.poll(status, || {
                let task = client.modern("tasks/get", json!({"taskId": id}), &with_tasks()).unwrap();
                Some(task).filter(|task| task["status"] == status)
            })
        };
        wait("input_required");
        let update = |answer: Value| {
            let params = json!({"taskId": id, "inputResponses": {"q1": answer}});
            client.modern("tasks/update", params, &with_tasks())
        };
        for wrong in [json!({"action": "accept", "content": {"text": "three"}}), json!({"roots": ["/a"]})] {
            assert_eq!(update(wrong).unwrap_err()["code"], -32602, "{tool}");
        }
        wait("input_required");
        update(right).expect("an answer");
        assert!(text(&wait("completed")["result"]).contains(shown));
    }
}

/// Answers all that is asked, each with its key, and asks again.
fn again(client: &Client, method: &str, params: &Value, asked: &Value) -> Result<Value, Value> {
    let mut params = params.clone();
    params["requestState"] = asked["requestState"].clone();
    for key in asked["inputRequests"].as_object().into_iter().flatten().map(|(key, _)| key) {
        params["inputResponses"][key] = json!({"action": "accept", "content": {"answers": key}});
    }
    client.modern(method, params, &json!({"elicitation": {}}))
}

#[test]
fn a_prompt_or_a_resource_that_asks_is_answered_in_rounds() {
    let client = Client::wrap(&[], &[RAW]);
    let can = json!({"elicitation": {}});
    for (method, params) in
        [("prompts/get", json!({"name": "asks_2"})), ("resources/read", json!({"uri": "x:asks_2"}))]
    {
        let first = client.modern(method, params.clone(), &can).unwrap();
        assert_eq!((&first["resultType"], &first["ttlMs"]), (&json!("input_required"), &Value::Null));
        assert_eq!(first["inputRequests"]["q1"]["method"], "elicitation/create");
        assert_eq!(first["inputRequests"]["q1"]["params"]["message"], "1 more?");
        let second = again(&client, method, &params, &first).unwrap();
        assert_ne!(second["requestState"], first["requestState"]);
        assert_eq!(second["inputRequests"]["q2"]["params"]["message"], "0 more?", "{second}");
        let last = again(&client, method, &params, &second).unwrap();
        assert_eq!(last["resultType"], "complete");
        assert!(last.to_string().contains("q1") && last.to_string().contains("q2"), "{last}");
        // Whose answer was lost asks once more, and is asked nothing again.
        assert_eq!(again(&client, method, &params, &second).unwrap(), last);
    }
    client.close_stdin();
    assert!(client.wait_exit().success());
}

#[test]
fn what_a_prompt_asks_is_not_put_to_a_job_that_runs_beside_it() {
    let client = Client::wrap(&["--mode", "handle"], &[RAW]);
    client.modern("tools/call", call("silent", json!({})), &json!({})).unwrap();
    client.wait_log(r#""name":"silent""#);
    let asked = client.modern("prompts/get", json!({"name": "asks_1"}), &json!({"elicitation": {}})).unwrap();
    assert!(asked["inputRequests"]["q1"].is_object(), "{asked}");
}

#[test]
fn what_can_be_no_answer_to_its_question_does_not_reach_the_server() {
    let client = Client::wrap(&[], &[RAW]);
    let get = |round: Value| {
        let mut params = json!({"name": "asks_1"});
        params.as_object_mut().unwrap().extend(round.as_object().unwrap().clone());
        client.modern("prompts/get", params, &json!({"elicitation": {}})).unwrap()
    };
    let mut asked = get(json!({}));
    for wrong in [json!(null), json!(5), json!({"colour": "red"}), json!({"action": "perhaps"})] {
        asked = get(json!({"requestState": asked["requestState"], "inputResponses": {"q1": wrong}}));
        assert!(asked["inputRequests"]["q1"].is_object(), "{asked}");
    }
    let right = json!({"q1": {"action": "decline"}});
    let got = get(json!({"requestState": asked["requestState"], "inputResponses": right}));
    assert_eq!(got["resultType"], "complete", "{got}");
}

#[test]
fn what_was_not_answered_is_asked_again_and_only_of_the_same_request() {
    let client = Client::wrap(&[], &[RAW]);
    let can = json!({"elicitation": {}});
    let params = json!({"name": "asks_2_at_once"});
    let first = client.modern("prompts/get", params.clone(), &can).unwrap();
    let mut other = first.clone();
    other["requestState"] = json!("MFRGG");
    for (method, params, asked) in [
        ("prompts/get", json!({"name": "asks_2"}), &first),
        ("prompts/get", json!({"name": "asks_2_at_once", "arguments": {"a": "b"}}), &first),
        ("resources/read", json!({"uri": "asks_2_at_once"}), &first),
        ("prompts/get", params.clone(), &other),
    ] {
        assert_eq!(again(&client, method, &params, asked).unwrap_err()["code"], -32602, "{method} {params}");
    }
    // The second question came after the first round, or in it.
    let mut open = again(&client, "prompts/get", &params, &first).unwrap();
    if open["resultType"] == "input_required" {
        assert_eq!(open["inputRequests"].as_object().unwrap().keys().collect::<Vec<_>>(), ["q2"]);
        open["inputRequests"] = json!({});
        let still = again(&client, "prompts/get", &params, &open).unwrap();
        assert_eq!(still["inputRequests"].as_object().unwrap().keys().collect::<Vec<_>>(), ["q2"], "{still}");
        open = again(&client, "prompts/get", &params, &still).unwrap();
    }
    assert_eq!(open["resultType"], "complete", "{open}");
}

#[test]
fn what_a_client_cannot_answer_is_declined_while_it_waits_for_a_prompt() {
    let client = Client::wrap(&[], &[RAW]);
    for can in [json!({}), json!({"sampling": {}})] {
        let prompt = client.modern("prompts/get", json!({"name": "asks_1"}), &can).unwrap();
        assert!(prompt["description"].as_str().unwrap().contains("decline"), "{prompt}");
    }
}

#[test]
fn only_what_the_server_tells_of_is_acknowledged() {
    let client = Client::wrap(&[], &[RAW]);
    let wanted = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true,
        "resourceSubscriptions": ["x:y"]});
    client.start_modern("subscriptions/listen", json!({"notifications": wanted}), &json!({}));
    let accepted = client.next_notification("notifications/subscriptions/acknowledged");
    assert_eq!(accepted["params"]["notifications"], json!({"toolsListChanged": true}));
}

#[test]
fn nobody_waits_for_answers_of_a_client_that_has_gone() {
    let client = Client::wrap(&[], &[RAW]);
    client.modern("prompts/get", json!({"name": "asks_1"}), &json!({"elicitation": {}})).unwrap();
    client.close_stdin();
    assert!(client.wait_exit().success());
    assert!(client.home().log().contains("notifications/cancelled"), "{}", client.home().log());
}
