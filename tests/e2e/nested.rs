//! A gateway in front of a gateway: a session over stdio with servers that are served over HTTP, or one wrapped twice.

use serde_json::json;

use crate::client::{Client, FIXTURE, Home, example, meanwhile, text, tool_names};
use crate::faces::{Gate, handle, poll};
use crate::http::guard::token_file;
use crate::http::web::Served;

/// Our tools are there once, under their own names, and what is said of them is said once.
fn is_one(client: &Client, gate_tool: &str) {
    let hello = client.initialize();
    let said = hello["instructions"].as_str().expect("instructions");
    assert_eq!(said.matches("may return a handle").count(), 1, "{said}");
    let listed = client.request("tools/list", json!({})).expect("the tools are listed");
    let names = tool_names(&listed);
    let ours = ["poll_result", "list_jobs", "control_job", "read_result", "answer_job"];
    assert!(ours.iter().all(|our| names.iter().filter(|name| name.ends_with(our)).count() == 1), "{names:?}");
    assert!(ours.iter().all(|our| names.contains(our)), "{names:?}");
    let tools = listed["tools"].as_array().expect("tools");
    let described = tools.iter().find(|tool| tool["name"] == gate_tool).expect("it is there");
    let described = described["description"].as_str().expect("a description");
    assert_eq!(described.matches("returns a handle").count(), 1, "{described}");

    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call(gate_tool, gate.arguments()));
    gate.open();
    assert_eq!(text(&poll(client, &handle)), "opened");
    assert_eq!(client.home().log().matches("start gate").count(), 1);
}

#[test]
fn who_wraps_servers_that_want_a_token_is_told_how_to_give_it() {
    let home = Home::new();
    let file = token_file(&home, 0o600);
    let served = Served::fixture_in(&home, &["--token-file", &file]);
    let url = format!("http://{}/mcp", served.address);
    let client = Client::spawn_in(&home, &[meanwhile(), "wrap", "--url", &url], &[]);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e2e", "version": "1"}});
    let refused = client.request("initialize", params).unwrap_err();
    let why = refused["message"].as_str().expect("a message");
    assert!(why.contains("HTTP 401") && why.contains("or give it its token with --header"), "{why}");
}

#[test]
fn a_gateway_behind_a_gateway_is_as_one() {
    let inner = [meanwhile(), "wrap", "--inline-budget", "30ms", "--", &example(FIXTURE)];
    is_one(&Client::wrap(&["--inline-budget", "30ms"], &inner), "gate");
}

#[test]
fn servers_that_are_served_over_http_are_wrapped_as_any_other() {
    for (path, gate) in [("/mcp", "fixture__gate"), ("/mcp/fixture", "gate")] {
        let home = Home::new();
        let served = Served::fixture_in(&home, &["--inline-budget", "30ms"]);
        let url = format!("http://{}{path}", served.address);
        let args = [meanwhile(), "wrap", "--inline-budget", "30ms", "--url", &url];
        is_one(&Client::spawn_in(&home, &args, &[]), gate);
    }
}
