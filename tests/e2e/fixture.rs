//! The fixtures and the client against each other, with no gateway in between: what the other tests stand on.

use std::collections::BTreeSet;
use std::fs::File;

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Hello, Home, RAW, text, tool_names};

const UNKNOWN_FIELDS: &str = include_str!("../fixture/unknown_fields.json");

fn ready(upstream: &[&str]) -> Client {
    let client = Client::bare(upstream);
    client.initialize();
    client
}

#[test]
fn the_fixture_introduces_itself_and_logs_its_life() {
    let client = Client::bare(&[FIXTURE]);
    let hello = Hello { version: "2025-03-26".into(), ..Hello::default() };
    let result = client.initialize_as(hello);
    assert_eq!(result["protocolVersion"], "2025-03-26");
    assert_eq!(result["instructions"], "Fixture instructions.");
    client.wait_stderr("fixture ready");
    client.wait_log(&format!("spawned {}", client.pid()));
    client.close_stdin();
    assert!(client.wait_exit().success());
    client.wait_log("exit");
    assert_eq!(client.stderr(), ["fixture ready"]);
}

#[test]
fn fast_tools_answer_as_described() {
    let client = ready(&[FIXTURE]);
    assert_eq!(text(&client.call("echo", json!({ "text": "hello" }))), "hello");
    assert_eq!(
        client.call("structured", json!({ "n": 21 }))["structuredContent"],
        json!({ "n": 21, "double": 42 })
    );
    let kinds = client.call("image", json!({}))["content"].clone();
    assert_eq!(kinds[1]["mimeType"], "image/png");
    assert_eq!(kinds[2]["type"], "resource_link");
    assert_eq!(client.call("fail", json!({}))["isError"], true);
    assert_eq!(text(&client.call("env", json!({ "name": "FIXTURE_SURELY_UNSET" }))), "unset");
    let error = client.request("tools/call", json!({ "name": "protocol_error" })).unwrap_err();
    assert_eq!(error["code"], -32099);
    assert_eq!(error["data"]["code"], 7);
}

#[test]
fn large_answers_have_the_size_that_was_asked_for() {
    let client = ready(&[FIXTURE]);
    let big = client.call("big", json!({ "lines": 1000 }));
    assert_eq!(text(&big).len(), 60_000);
    assert!(text(&big).starts_with("line 000001 ") && text(&big).contains("\nline 001000 "));
    assert_eq!(big["content"][1]["type"], "image");
    let big_json = client.call("big_json", json!({ "items": 3 }));
    assert_eq!(big_json["structuredContent"]["items"][2], json!({ "id": 2, "name": "item 2" }));
    assert_eq!(serde_json::from_str::<Value>(text(&big_json)).unwrap(), big_json["structuredContent"]);
}

#[test]
fn sleep_reports_progress() {
    let client = ready(&[FIXTURE]);
    let id = client.start_call("sleep", json!({ "ms": 4, "steps": 2 }));
    assert_eq!(text(&client.wait_response(id).unwrap()), "slept 4 ms");
    let progress = client.take_notifications("notifications/progress");
    assert_eq!(progress.len(), 2);
    assert_eq!(
        progress[1]["params"],
        json!({ "progressToken": id, "progress": 2.0, "total": 2.0, "message": "step 2 of 2" })
    );
}

#[test]
fn a_cancelled_call_is_logged_and_not_answered() {
    let client = ready(&[FIXTURE]);
    let id = client.start_call("sleep", json!({ "ms": 3_600_000 }));
    client.wait_log("start sleep");
    client.cancel(id);
    client.wait_log("cancelled sleep");
    client.request("ping", json!({})).unwrap();
    assert!(client.untaken_responses().is_empty());
}

#[test]
fn a_stubborn_call_answers_in_spite_of_its_cancellation() {
    let client = ready(&[FIXTURE]);
    let id = client.start_call("stubborn", json!({ "ms": 100, "steps": 20 }));
    client.cancel(id);
    client.wait_log("ignored cancel stubborn");
    client.next_notification("notifications/progress");
    assert_eq!(text(&client.wait_response(id).unwrap()), "slept 100 ms");
}

#[test]
fn a_gate_waits_for_its_file() {
    let client = ready(&[FIXTURE]);
    let gate = client.home().path("gate");
    let id = client.start_call("gate", json!({ "path": gate }));
    assert_eq!(client.next_notification("notifications/progress")["params"]["message"], "waiting");
    assert!(client.untaken_responses().is_empty());
    File::create(gate).unwrap();
    assert_eq!(text(&client.wait_response(id).unwrap()), "opened");
}

#[test]
fn the_end_of_stdin_ends_the_fixture_in_the_middle_of_a_call() {
    let client = ready(&[FIXTURE]);
    client.start_call("sleep", json!({ "ms": 3_600_000 }));
    client.wait_log("start sleep");
    client.close_stdin();
    assert!(client.wait_exit().success());
    client.wait_log("exit");
    assert!(!client.home().log().contains("end sleep"));
    assert!(client.untaken_responses().is_empty());
}

#[test]
fn a_crash_ends_the_process_with_code_3() {
    let client = ready(&[FIXTURE]);
    client.start_call("crash", json!({}));
    assert_eq!(client.wait_exit().code(), Some(3));
    client.wait_log("start crash");
}

#[test]
fn crash_once_survives_the_second_time() {
    let home = Home::new();
    let first = Client::bare_in(&home, &[FIXTURE], &[]);
    first.initialize();
    first.start_call("crash_once", json!({}));
    assert_eq!(first.wait_exit().code(), Some(3));
    let second = Client::bare_in(&home, &[FIXTURE], &[("MOOD", "fine")]);
    second.initialize();
    assert_eq!(text(&second.call("crash_once", json!({}))), "survived");
    assert_eq!(text(&second.call("env", json!({ "name": "MOOD" }))), "fine");
}

#[test]
fn a_killed_process_is_reaped() {
    let client = ready(&[FIXTURE]);
    client.kill();
    assert!(!client.wait_exit().success());
    assert!(!client.home().log().contains("exit"));
}

#[test]
fn the_fixture_asks_its_client() {
    let client = ready(&[FIXTURE]);
    for (tool, method, answer) in [
        ("ask_roots", "roots/list", json!({ "roots": [{ "uri": "file:///root" }] })),
        (
            "ask_sampling",
            "sampling/createMessage",
            json!({ "role": "assistant", "content": { "type": "text", "text": "three" }, "model": "m" }),
        ),
        (
            "ask_elicitation",
            "elicitation/create",
            json!({ "action": "accept", "content": { "colour": "blue" } }),
        ),
    ] {
        let id = client.start_call(tool, json!({}));
        client.respond(&client.next_request(method)["id"], answer.clone());
        let result = client.wait_response(id).unwrap();
        assert_eq!(serde_json::from_str::<Value>(text(&result)).unwrap(), answer);
    }
    let id = client.start_call("ask_roots", json!({}));
    client.respond_error(&client.next_request("roots/list")["id"], -1, "no roots");
    assert_eq!(client.wait_response(id).unwrap()["isError"], true);
}

#[test]
fn the_fixture_notifies_its_client() {
    let client = ready(&[FIXTURE]);
    client.request("logging/setLevel", json!({ "level": "debug" })).unwrap();
    client.wait_log("set level debug");
    client.call("log", json!({ "message": "psst" }));
    let logged = client.next_notification("notifications/message");
    assert_eq!(logged["params"], json!({ "level": "info", "logger": "fixture", "data": "psst" }));

    let uri = "fixture://notes/one";
    client.request("resources/subscribe", json!({ "uri": uri })).unwrap();
    client.wait_log("subscribe fixture://notes/one");
    assert_eq!(client.next_notification("notifications/resources/updated")["params"]["uri"], uri);
}

#[test]
fn growing_and_colliding_change_the_list() {
    let client = ready(&[FIXTURE, "--collide"]);
    let before = client.request("tools/list", json!({})).unwrap();
    assert!(!tool_names(&before).contains(&"grown"));
    assert_eq!(text(&client.call("poll_result", json!({}))), "upstream's own poll_result");
    client.call("grow", json!({}));
    client.next_notification("notifications/tools/list_changed");
    let after = client.request("tools/list", json!({})).unwrap();
    let unique: BTreeSet<&str> = tool_names(&after).into_iter().collect();
    assert_eq!(unique.len(), tool_names(&before).len() + 1);
    assert_eq!(text(&client.call("grown", json!({}))), "grown up");
}

#[test]
fn resources_prompts_and_completions_are_there() {
    let client = ready(&[FIXTURE]);
    let get = |method: &str, params: Value| client.request(method, params).unwrap();
    assert_eq!(get("resources/list", json!({}))["resources"][1]["uri"], "fixture://pixel");
    assert_eq!(
        get("resources/templates/list", json!({}))["resourceTemplates"][0]["uriTemplate"],
        "fixture://notes/{name}"
    );
    assert_eq!(get("resources/read", json!({ "uri": "fixture://notes/x" }))["contents"][0]["text"], "note x");
    assert_eq!(get("prompts/list", json!({}))["prompts"][0]["name"], "greet");
    let prompt = get("prompts/get", json!({ "name": "greet", "arguments": { "name": "Ada" } }));
    assert_eq!(prompt["messages"][0]["content"]["text"], "Say hello to Ada, in a good mood.");
    let completion = json!({
        "ref": { "type": "ref/prompt", "name": "greet" },
        "argument": { "name": "name", "value": "al" },
    });
    assert_eq!(get("completion/complete", completion)["completion"]["values"], json!(["alpha", "alpine"]));
}

#[test]
fn unknown_fields_arrive_exactly() {
    let client = ready(&[RAW]);
    let raw = client.request_raw("tools/call", json!({ "name": "unknown_fields" }));
    assert!(raw.ends_with(&format!(r#""result":{}}}"#, UNKNOWN_FIELDS.trim_end())), "{raw}");
}

#[test]
fn the_raw_upstream_records_and_echoes_what_it_got() {
    let client = ready(&[RAW]);
    let params = r#"{"name":"echo_meta","arguments":{"z":1.0,"a":12345678901234567890123},"_meta":{"k":1}}"#;
    let line = format!(r#"{{"jsonrpc":"2.0","id":"mine","method":"tools/call","params":{params}}}"#);
    client.send_line(line.as_bytes());
    assert_eq!(text(&client.wait_response("mine").unwrap()), params);
    client.wait_log(&line);
    let echo = client.request("x/anything", json!({ "novel": [1] })).unwrap();
    assert_eq!(echo, json!({ "echo": { "novel": [1] } }));
    assert_eq!(client.request("nonsense", json!({})).unwrap_err()["code"], -32601);
}

#[test]
fn the_raw_upstream_misbehaves_as_told() {
    let client = ready(&[RAW]);
    assert_eq!(text(&client.call("garbage", json!({}))), "garbage done");
    let malformed = client.malformed();
    assert_eq!(malformed[..3], ["this is not JSON", "", "42"]);
    assert!(malformed[3].contains(char::REPLACEMENT_CHARACTER), "invalid UTF-8 is not a message");
    assert_eq!(text(&client.wait_response(999_999).unwrap()), "nobody asked");
    assert_eq!(text(&client.wait_response("nobody").unwrap()), "nobody asked");

    let id = client.start_call("duplicate", json!({}));
    assert_eq!(text(&client.wait_response(id).unwrap()), "duplicate done");
    assert_eq!(text(&client.wait_response(id).unwrap()), "duplicate again");

    assert_eq!(text(&client.call("batch", json!({}))), "batch done");
    assert_eq!(client.next_notification("notifications/x-custom")["extra"], "top level");
    client.call("custom_notify", json!({}));
    assert_eq!(client.next_notification("notifications/x-custom")["params"]["novel"]["z"], 1.0);

    assert_eq!(text(&client.call("huge", json!({ "bytes": 3_000_000 }))).len(), 3_000_000);
    assert_eq!(text(&client.call("bad_schema", json!({}))), "bad_schema done");
    assert_eq!(text(&client.call("any", json!({ "x": 1 }))), "any done");

    client.start_call("silent", json!({}));
    client.request("ping", json!({})).unwrap();
    assert!(client.untaken_responses().is_empty());
}

#[test]
fn the_raw_upstream_pages_its_list_and_picks_its_revision() {
    let client = Client::bare(&[RAW, "--page", "4", "--revision", "1999-01-01"]);
    assert_eq!(client.initialize()["protocolVersion"], "1999-01-01");
    let first = client.request("tools/list", json!({})).unwrap();
    assert_eq!((tool_names(&first).len(), &first["nextCursor"]), (4, &json!("4")));
    let last = client.request("tools/list", json!({ "cursor": "8" })).unwrap();
    assert_eq!(tool_names(&last), ["bad_schema", "any"]);
    assert_eq!(last.get("nextCursor"), None);
}

#[test]
fn any_command_can_be_spawned() {
    let client = Client::spawn(&["sh", "-c", "echo $MEANWHILE_STATE_DIR >&2; exit 7"]);
    assert_eq!(client.wait_exit().code(), Some(7));
    client.wait_stderr(client.home().state_dir().to_str().unwrap());
}
