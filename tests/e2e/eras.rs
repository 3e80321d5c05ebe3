//! Servers of either era behind a client that knows only the legacy one, and servers that are hard to tell.

use serde_json::{Value, json};

use crate::client::{Client, Hello, MODERN, RAW, text};

const META: &str = "io.modelcontextprotocol/";

fn modern() -> Client {
    let client = Client::wrap(&[], &[MODERN]);
    let capabilities = json!({"elicitation": {}, "roots": {}});
    client.initialize_as(Hello { capabilities, ..Hello::default() });
    client
}

#[test]
fn a_modern_server_is_introduced_to_a_legacy_client() {
    let client = Client::wrap(&[], &[MODERN]);
    let result = client.initialize();
    assert_eq!(result["protocolVersion"], "2025-11-25");
    assert_eq!(result["serverInfo"]["name"], "modern-upstream");
    assert!(result["instructions"].as_str().unwrap().starts_with("Modern instructions."));
    assert_eq!(result["capabilities"]["logging"], json!({}));
    let list = client.request("tools/list", json!({})).unwrap();
    assert_eq!((&list["ttlMs"], list.get("resultType")), (&json!(60_000), None), "{list}");
    assert_eq!(client.request("ping", json!({})).unwrap(), json!({}));
    assert!(!client.home().log().contains("\"ping\"") && !client.home().log().contains("\"initialize\""));
}

#[test]
fn each_request_to_a_modern_server_says_who_asks_and_what_they_can() {
    let client = Client::wrap(&[], &[MODERN]);
    let capabilities = json!({"roots": {"listChanged": true}, "tasks": {}});
    client.initialize_as(Hello { capabilities, ..Hello::default() });
    client.request("logging/setLevel", json!({"level": "warning"})).unwrap();
    let answer = client.call("echo_meta", json!({"a": 1.0}));
    assert_eq!((&answer["x-novel"], answer.get("resultType")), (&json!(1.5), None));
    let got: Value = serde_json::from_str(text(&answer)).unwrap();
    let meta = |key: &str| got["_meta"][format!("{META}{key}")].clone();
    assert_eq!(meta("protocolVersion"), "2026-07-28");
    assert_eq!(meta("clientInfo")["name"], "e2e");
    assert_eq!(meta("logLevel"), "warning");
    let capabilities = meta("clientCapabilities");
    assert_eq!(capabilities["elicitation"], json!({"form": {}, "url": {}}));
    assert_eq!((&capabilities["roots"]["listChanged"], capabilities.get("tasks")), (&json!(true), None));
    assert_eq!(got["arguments"], json!({"a": 1.0}));
    let echo = client.request("x/any", json!({"n": 1})).unwrap();
    assert_eq!((&echo["echo"]["n"], echo.get("resultType")), (&json!(1), None));
    let capabilities = &echo["echo"]["_meta"][format!("{META}clientCapabilities")];
    assert_eq!(capabilities.get("elicitation"), None, "only a call can be answered for the client");
    assert_eq!(client.request("nonsense", json!({})).unwrap_err()["code"], -32601);
}

/// Answers the two questions of the first round and the one of the second.
fn answer_rounds(client: &Client) {
    let colour = client.next_request("elicitation/create");
    assert_eq!(colour["params"]["message"], "Which colour?");
    let roots = client.next_request("roots/list");
    client.respond(&roots["id"], json!({"roots": []}));
    client.respond(&colour["id"], json!({"action": "accept", "content": {"colour": "blue"}}));
    let sure = client.next_request("elicitation/create");
    client.respond_error(&sure["id"], -32601, "no more");
}

const ROUNDS: &str = r#"second {"colour":{"action":"accept","content":{"colour":"blue"}},"roots":{"roots":[]}} {"sure":{"action":"cancel"}}"#;

#[test]
fn what_a_modern_server_asks_for_reaches_the_client_as_requests() {
    let client = modern();
    let id = client.start_call("asks", json!({"keep": "this"}));
    answer_rounds(&client);
    let answer = client.wait_response(id).unwrap();
    assert_eq!(text(&answer), ROUNDS);
    assert_eq!(client.home().log().matches(r#""keep":"this""#).count(), 3, "the same call, three times");

    let id = client.start_request("prompts/get", json!({"name": "p"}));
    answer_rounds(&client);
    assert_eq!(client.wait_response(id).unwrap()["description"], ROUNDS);
}

#[test]
fn a_server_that_never_has_enough_is_refused() {
    let client = modern();
    let error = client.request("tools/call", json!({"name": "asks_for_ever"})).unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("again and again"), "{error}");
}

#[test]
fn a_question_is_withdrawn_when_its_call_is_cancelled() {
    let client = modern();
    let id = client.start_call("asks", json!({}));
    let asked = client.next_request("elicitation/create");
    client.next_request("roots/list");
    client.cancel(id);
    let withdrawn =
        [0, 1].map(|_| client.next_notification("notifications/cancelled")["params"]["requestId"].clone());
    assert!(withdrawn.contains(&asked["id"]), "{withdrawn:?}");
    client.request("tools/list", json!({})).unwrap();
    assert_eq!(client.home().log().matches(r#""name":"asks""#).count(), 1);
}

#[test]
fn a_cancelled_call_is_cancelled_upstream_under_its_own_id() {
    let client = modern();
    let id = client.start_call("silent", json!({}));
    client.wait_log("silent");
    client.cancel(id);
    client.wait_log("notifications/cancelled");
    let log = client.home().log();
    let line = |part: &str| -> Value {
        serde_json::from_str(log.lines().find(|line| line.contains(part)).unwrap()).unwrap()
    };
    assert_eq!(line("notifications/cancelled")["params"]["requestId"], line("\"silent\"")["id"]);
}

#[test]
fn a_task_of_the_server_that_ends_before_anyone_listens_is_looked_at_as_soon_as_someone_does() {
    let client = Client::wrap(&["--tool", "task=inline"], &[MODERN]);
    client.initialize();
    assert_eq!(text(&client.call("task", json!({}))), "done");
}

#[test]
fn what_changes_is_heard_through_one_subscription() {
    let client = modern();
    client.call("touch", json!({}));
    client.next_notification("notifications/tools/list_changed");
    assert!(client.take_notifications("notifications/resources/updated").is_empty());
    client.request("resources/subscribe", json!({"uri": "fixture://one"})).unwrap();
    client.call("touch", json!({}));
    let updated = client.next_notification("notifications/resources/updated");
    assert_eq!(updated["params"], json!({"uri": "fixture://one"}));
    client.request("resources/unsubscribe", json!({"uri": "fixture://one"})).unwrap();
    client.next_notification("notifications/tools/list_changed");
    client.call("touch", json!({}));
    client.next_notification("notifications/tools/list_changed");
    assert!(client.take_notifications("notifications/resources/updated").is_empty());
}

#[test]
fn a_server_that_goes_when_it_is_asked_who_it_is_is_started_again_without_the_question() {
    // Some say that they do not know the question, and go all the same.
    for probe in ["exit", "refuse"] {
        let client = Client::wrap(&[], &[RAW, "--probe", probe]);
        client.initialize();
        assert_eq!(text(&client.call("any", json!({}))), "any done");
        client.call("die", json!({}));
        assert_eq!(text(&client.call("any", json!({}))), "any done");
        assert_eq!(client.home().log().matches("server/discover").count(), 1, "it is known by now");
    }
}

#[test]
fn a_server_that_does_not_say_who_it_is_is_a_legacy_one() {
    let client = Client::wrap(&[], &[RAW, "--probe", "silent"]);
    let result = client.initialize();
    assert_eq!(result["serverInfo"]["name"], "raw-upstream");
}

#[test]
fn a_modern_server_that_is_slow_to_say_who_it_is_is_not_taken_for_a_legacy_one_for_ever() {
    let client = Client::wrap(&[], &[MODERN, "--late"]);
    assert_eq!(client.initialize()["serverInfo"]["name"], "modern-upstream");
    let answer = client.call("echo_meta", json!({}));
    assert!(text(&answer).contains("2026-07-28"), "{answer}");
}

#[test]
fn a_legacy_server_is_told_that_questions_are_answered_and_nothing_modern() {
    let client = Client::wrap(&[], &[RAW]);
    client.initialize();
    client.wait_log(r#""method":"initialize","params":{"#);
    let log = client.home().log();
    let line = log.lines().find(|line| line.contains("\"initialize\"")).unwrap();
    let sent: Value = serde_json::from_str(line).unwrap();
    assert_eq!(sent["params"]["capabilities"], json!({"elicitation": {}}));
    let params = json!({"name": "echo_meta", "_meta": {"k": 1, format!("{META}logLevel"): "info",
        format!("{META}related-task"): {"taskId": "t"}}});
    let answer = client.modern("tools/call", params, &json!({})).unwrap();
    let got: Value = serde_json::from_str(text(&answer)).unwrap();
    let keys: Vec<&String> = got["_meta"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["io.modelcontextprotocol/related-task", "k", "progressToken"]);
}
