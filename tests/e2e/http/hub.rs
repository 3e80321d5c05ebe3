//! The common endpoint: several servers as one.

use serde_json::{Value, json};

use super::modern::{VERSION, meta};
use super::web::Served;
use crate::client::{FIXTURE, Home, example, text, tool_names};
use crate::faces::Gate;

const PATH: &str = "/mcp";

/// Two servers, and one that cannot be started.
fn three(extra: &[&str]) -> Served {
    let fixture = json!({"command": example(FIXTURE)});
    let servers = json!({"one": fixture, "two": {"command": example(FIXTURE), "args": ["--collide"], "tools": {"gate": "handle"}},
        "broken": {"command": "surely-not-there"}});
    Served::start(&Home::new(), &servers, extra)
}

#[test]
fn tools_and_prompts_have_their_servers_name_and_ours_are_there_once() {
    let served = three(&[]);
    let session = served.session(PATH, None, "2025-11-25");
    assert_eq!(session.introduction["serverInfo"]["name"], "meanwhile");
    assert_eq!(session.introduction["capabilities"]["resources"]["subscribe"], true);
    let instructions = session.introduction["instructions"].as_str().expect("instructions");
    assert!(
        instructions.starts_with("one: Fixture instructions.\n\ntwo: Fixture instructions.\n\nSlow tools"),
        "{instructions}"
    );
    assert_eq!(instructions.matches("Slow tools").count(), 1);
    let list = session.request("tools/list", &json!({}))["result"].clone();
    let names = tool_names(&list);
    for name in ["one__echo", "two__echo", "two__poll_result", "poll_result", "list_jobs", "control_job"] {
        assert_eq!(names.iter().filter(|known| **known == name).count(), 1, "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("meanwhile_")));
    assert_eq!(text(&session.call("one__echo", &json!({"text": "a"}))), "a");
    assert_eq!(text(&session.call("two__poll_result", &json!({}))), "upstream's own poll_result");
    let prompts = session.request("prompts/list", &json!({}))["result"]["prompts"].clone();
    assert_eq!((&prompts[0]["name"], &prompts[1]["name"]), (&json!("one__greet"), &json!("two__greet")));
    let greet = session.request("prompts/get", &json!({"name": "two__greet", "arguments": {"name": "Ada"}}));
    assert!(greet["result"]["messages"].is_array(), "{greet}");
    assert_eq!(session.request("tools/call", &json!({"name": "echo"}))["error"]["code"], -32602);
    assert_eq!(session.request("x/y", &json!({}))["error"]["code"], -32601);
    assert_eq!(session.request("ping", &json!({}))["result"], json!({}));
}

#[test]
fn resources_go_to_who_has_them() {
    let served = three(&[]);
    let session = served.session(PATH, None, "2025-11-25");
    let read = |uri: &str| session.request("resources/read", &json!({"uri": uri}));
    assert_eq!(read("fixture://notes/x")["result"]["contents"][0]["text"], "note x");
    assert_eq!(read("other://x")["error"]["code"], -32602);
    let complete = json!({"ref": {"type": "ref/prompt", "name": "one__greet"}, "argument": {"name": "name", "value": "al"}});
    assert_eq!(
        session.request("completion/complete", &complete)["result"]["completion"]["values"],
        json!(["alpha", "alpine"])
    );
}

#[test]
fn a_job_is_seen_from_every_endpoint() {
    let served = three(&["--inline-budget", "30ms"]);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(served.process.home(), "gate");
    let handle = session.call("two__gate", &gate.arguments())["structuredContent"]["handle"].clone();
    let one = served.session("/mcp/one", None, "2025-11-25");
    assert_eq!(one.call("poll_result", &json!({"handle": handle}))["structuredContent"]["status"], "working");
    gate.open();
    assert_eq!(text(&session.call("poll_result", &json!({"handle": handle}))), "opened");
}

#[test]
fn changes_and_questions_of_any_of_them_reach_the_client() {
    let served = three(&["--mode", "inline"]);
    let session = served.session(PATH, None, "2025-11-25");
    let mut listening = session.listen();
    session.call("two__grow", &json!({}));
    assert_eq!(listening.message().expect("a change")["method"], "notifications/tools/list_changed");
    let mut calls: Vec<_> = ["one__ask_elicitation", "two__ask_elicitation"]
        .map(|tool| session.ask(tool, "tools/call", &json!({"name": tool, "arguments": {}})))
        .into();
    let questions: Vec<Value> = calls.iter_mut().map(|call| call.message().expect("a question")).collect();
    assert_ne!(questions[0]["id"], questions[1]["id"]);
    for (question, colour) in questions.iter().zip(["red", "blue"]) {
        session.respond(&question["id"], &json!({"action": "accept", "content": {"colour": colour}}));
    }
    for (call, colour) in calls.iter_mut().zip(["red", "blue"]) {
        assert!(text(&call.response()["result"]).contains(colour));
    }
}

#[test]
fn it_speaks_both_eras_and_is_listened_to_as_one() {
    let served = three(&["--server-idle", "100ms", "-v"]);
    let ask = |method: &str, params: Value, name: &str| {
        let mut params = params;
        params["_meta"] = meta(VERSION);
        let mut headers = vec![("MCP-Protocol-Version", VERSION), ("Mcp-Method", method)];
        headers.extend((!name.is_empty()).then_some(("Mcp-Name", name)));
        let body = json!({"jsonrpc": "2.0", "id": "m", "method": method, "params": params});
        served.post(PATH, &headers, &body.to_string())
    };
    let found = ask("server/discover", json!({}), "").json()["result"].clone();
    assert_eq!((&found["supportedVersions"], &found["resultType"]), (&json!([VERSION]), &json!("complete")));
    let list = ask("tools/list", json!({}), "").json()["result"].clone();
    assert!(tool_names(&list).contains(&"two__echo") && list["ttlMs"].is_u64(), "{list}");
    let mut listening = ask("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}), "");
    let first = listening.message().expect("an acknowledgement");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({"toolsListChanged": true}));
    let grown = ask("tools/call", json!({"name": "two__grow", "arguments": {}}), "two__grow").response();
    assert!(grown["error"].is_null(), "{grown}");
    let second = listening.message().expect("a change");
    assert_eq!(second["method"], "notifications/tools/list_changed");
    assert_eq!(second["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "m");
    drop(listening);
    // Left alone they end, and are there again when they are asked.
    served.process.wait_stderr("a server that nobody asks anything is ended");
    let again =
        ask("tools/call", json!({"name": "one__echo", "arguments": {"text": "a"}}), "one__echo").response();
    assert_eq!(text(&again["result"]), "a");
}
