//! Requests of the modern era: what their headers and their `_meta` must say.

use serde_json::{Value, json};

use super::web::{Answer, Served};
use crate::client::{Home, RAW, example, text, tool_names};
use crate::faces::Gate;
use crate::modern::with_tasks;

const PATH: &str = "/mcp/fixture";
pub(super) const VERSION: &str = "2026-07-28";

pub(super) fn meta(version: &str) -> Value {
    json!({"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}})
}

/// A request whose headers fit its body, but for those that are given.
pub(super) fn ask(served: &Served, method: &str, params: &Value, headers: &[(&str, &str)]) -> Answer {
    let version = params["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str().unwrap_or(VERSION);
    let mut all = vec![("MCP-Protocol-Version", version), ("Mcp-Method", method)];
    if let Some(name) =
        params.get("name").or(params.get("uri")).or(params.get("taskId")).and_then(Value::as_str)
    {
        all.push(("Mcp-Name", name));
    }
    all.retain(|(name, _)| !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)));
    all.extend(headers.iter().filter(|(_, value)| !value.is_empty()));
    let body = json!({"jsonrpc": "2.0", "id": "m", "method": method, "params": params});
    served.post(PATH, &all, &body.to_string())
}

#[test]
fn headers_that_do_not_fit_the_body_are_refused() {
    let served = Served::fixture(&[]);
    let call = json!({"name": "echo", "arguments": {"text": "x"}, "_meta": meta(VERSION)});
    for headers in [
        ("MCP-Protocol-Version", ""),
        ("MCP-Protocol-Version", "2025-11-25"),
        ("Mcp-Method", ""),
        ("Mcp-Method", "tools/list"),
        ("Mcp-Method", "TOOLS/CALL"),
        ("Mcp-Name", ""),
        ("Mcp-Name", "other"),
        ("Mcp-Name", "=?base64?!!?="),
    ] {
        let answer = ask(&served, "tools/call", &call, &[headers]);
        let status = answer.status;
        let body = answer.json();
        assert_eq!(
            (status, &body["error"]["code"], &body["id"]),
            (400, &json!(-32020), &json!("m")),
            "{headers:?}"
        );
    }
    let task = json!({"taskId": "job_x", "_meta": meta(VERSION)});
    assert_eq!(ask(&served, "tasks/get", &task, &[("Mcp-Name", "job_y")]).refusal(), (400, -32020));
    let read = json!({"uri": "fixture://a", "_meta": meta(VERSION)});
    assert_eq!(ask(&served, "resources/read", &read, &[("Mcp-Name", "")]).refusal(), (400, -32020));
}

#[test]
fn what_every_request_must_say_is_asked_for() {
    let served = Served::fixture(&[]);
    let refusal = |meta: Value| ask(&served, "tools/list", &json!({"_meta": meta}), &[]).refusal();
    let version = "io.modelcontextprotocol/protocolVersion";
    let capabilities = "io.modelcontextprotocol/clientCapabilities";
    assert_eq!(refusal(json!({})), (400, -32602));
    assert_eq!(refusal(json!({capabilities: {}})), (400, -32602));
    assert_eq!(refusal(json!({version: VERSION})), (400, -32602));
    assert_eq!(refusal(json!({version: VERSION, capabilities: 7})), (400, -32602));
    assert_eq!(ask(&served, "tools/list", &json!({}), &[]).refusal(), (400, -32602));
    let unknown = ask(&served, "tools/list", &json!({"_meta": meta("2099-01-01")}), &[]);
    assert_eq!(unknown.status, 400);
    let error = unknown.json()["error"].clone();
    assert_eq!(error["code"], -32022);
    assert_eq!(error["data"], json!({"supported": [VERSION], "requested": "2099-01-01"}));
    // A known one that is spoken with `initialize` is none for this.
    assert_eq!(refusal(meta("2025-11-25")), (400, -32022));
}

#[test]
fn there_is_nothing_but_post_and_one_message_at_a_time() {
    let served = Served::fixture(&[]);
    let modern = ("MCP-Protocol-Version", VERSION);
    for method in ["GET", "DELETE"] {
        let answer = served.send(method, PATH, &[modern, ("Accept", "text/event-stream")], "");
        assert_eq!(answer.header("allow"), Some("POST"));
        assert_eq!(answer.refusal(), (405, -32600));
    }
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#;
    assert_eq!(served.post(PATH, &[modern], batch).refusal(), (400, -32600));
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(served.post(PATH, &[modern], response).refusal(), (400, -32600));
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let accepted = served.post(PATH, &[modern], cancelled);
    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.text(), "");
    let accept = [("Content-Type", "application/json"), modern, ("Accept", "application/json")];
    assert_eq!(
        served.send("POST", PATH, &accept, r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).refusal(),
        (406, -32600)
    );
}

/// The parameters of a call of a tool, by a client that can do this.
pub(super) fn call(tool: &str, arguments: &Value, capabilities: &Value) -> Value {
    let mut meta = meta(VERSION);
    meta["io.modelcontextprotocol/clientCapabilities"] = capabilities.clone();
    meta["progressToken"] = json!("p");
    json!({"name": tool, "arguments": arguments, "_meta": meta})
}

#[test]
fn a_request_stands_for_itself() {
    let served = Served::fixture(&[]);
    let found = ask(&served, "server/discover", &json!({"_meta": meta(VERSION)}), &[]);
    assert_eq!((found.status, found.header("mcp-session-id")), (200, None));
    assert_eq!(found.json()["result"]["supportedVersions"], json!([VERSION]));
    let strange = [("Mcp-Session-Id", "x"), ("Last-Event-ID", "7")];
    let list = ask(&served, "tools/list", &json!({"_meta": meta(VERSION)}), &strange).json();
    assert!(tool_names(&list["result"]).contains(&"poll_result"));
    let answer = ask(&served, "tools/call", &call("echo", &json!({"text": "hi"}), &json!({})), &[]).json();
    assert_eq!((&answer["id"], text(&answer["result"])), (&json!("m"), "hi"));
    // Both eras on one path.
    assert_eq!(text(&served.session(PATH, None, "2025-11-25").call("echo", &json!({"text": "ho"}))), "ho");
}

#[test]
fn errors_have_the_status_that_belongs_to_them() {
    let served = Served::fixture(&[]);
    let params = json!({"_meta": meta(VERSION)});
    for gone in ["initialize", "ping", "tasks/list"] {
        assert_eq!(ask(&served, gone, &params, &[]).refusal(), (404, -32601), "{gone}");
    }
    assert_eq!(ask(&served, "tools/call", &params, &[]).refusal(), (200, -32602), "it names no tool");
    let task = json!({"taskId": "job_x", "_meta": meta(VERSION)});
    assert_eq!(ask(&served, "tasks/get", &task, &[]).refusal(), (400, -32021));
    let mut task = call("x", &json!({}), &with_tasks());
    task["taskId"] = json!("job_x");
    task.as_object_mut().expect("an object").remove("name");
    assert_eq!(
        ask(&served, "tasks/get", &task, &[]).refusal(),
        (200, -32602),
        "of the handler, not of the transport"
    );
}

#[test]
fn progress_makes_a_stream_and_closing_it_cancels() {
    let served = Served::fixture(&["--mode", "inline"]);
    let gate = Gate::new(served.process.home(), "gate");
    let mut slow = ask(&served, "tools/call", &call("gate", &gate.arguments(), &json!({})), &[]);
    assert!(slow.is_stream());
    let progress = slow.event().expect("progress");
    assert_eq!(progress.id, "", "there is nothing to resume");
    assert!(progress.data.contains("notifications/progress"));
    gate.open();
    assert_eq!(text(&slow.response()["result"]), "opened");
    assert!(slow.event().is_none());

    let sleeping = call("sleep", &json!({"ms": 3_600_000, "steps": 1000}), &json!({}));
    let cut = ask(&served, "tools/call", &sleeping, &[]);
    drop(cut);
    served.process.wait_log("cancelled sleep");
}

#[test]
fn a_task_outlives_its_request_and_is_seen_by_any_other() {
    let home = Home::new();
    let served = Served::fixture_in(&home, &["--inline-budget", "30ms"]);
    let gate = Gate::new(&home, "gate");
    let created = ask(&served, "tools/call", &call("gate", &gate.arguments(), &with_tasks()), &[]);
    let task = { created }.response()["result"].clone();
    assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")));
    let mut params = call("x", &json!({}), &with_tasks());
    params["taskId"] = task["taskId"].clone();
    params.as_object_mut().expect("an object").remove("name");
    let mut listen = call("x", &json!({}), &with_tasks());
    listen["notifications"] = json!({"taskIds": [task["taskId"]]});
    listen.as_object_mut().expect("an object").remove("name");
    let mut listening = ask(&served, "subscriptions/listen", &listen, &[]);
    let acknowledged = listening.message().expect("an acknowledgement");
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"]["taskIds"], json!([task["taskId"]]));
    gate.open();
    let done =
        std::iter::from_fn(|| listening.message()).find(|told| told["params"]["status"] == "completed");
    assert_eq!(text(&done.expect("its end is told")["params"]["result"]), "opened");
    let got = ask(&served, "tasks/get", &params, &[]).json();
    assert_eq!((&got["result"]["status"], text(&got["result"]["result"])), (&json!("completed"), "opened"));
}

#[test]
fn a_listener_hears_of_changes_and_of_the_end() {
    let served = Served::fixture(&[]);
    let listen = json!({"notifications": {"toolsListChanged": true}, "_meta": meta(VERSION)});
    let mut listening = ask(&served, "subscriptions/listen", &listen, &[]);
    assert_eq!(listening.message().expect("first")["method"], "notifications/subscriptions/acknowledged");
    ask(&served, "tools/call", &call("grow", &json!({}), &json!({})), &[]).response();
    assert_eq!(listening.message().expect("second")["method"], "notifications/tools/list_changed");
    super::shutdown::tell(&served, "-TERM");
    let end = listening.message().expect("third");
    assert_eq!((&end["id"], &end["result"]["resultType"]), (&json!("m"), &json!("complete")), "{end}");
    assert!(listening.event().is_none());
}

#[test]
fn progress_reaches_the_request_that_it_is_of_also_when_several_call_it_the_same() {
    let servers = json!({"fixture": {"command": example(RAW)}});
    let served = Served::start(&Home::new(), &servers, &[]);
    let params = |who: &str| {
        let mut meta = meta(VERSION);
        meta["progressToken"] = json!("p");
        json!({"who": who, "_meta": meta})
    };
    std::thread::scope(|scope| {
        let holding = ["a", "b"].map(|who| {
            let (served, params) = (&served, params(who));
            (who, scope.spawn(move || ask(served, "x/hold", &params, &[])))
        });
        served.process.wait_log_count("x/hold", 2);
        ask(&served, "x/let-go", &params("c"), &[]);
        for (who, holding) in holding {
            let mut held = holding.join().expect("a client");
            let progress = held.message().expect("progress")["params"].clone();
            assert_eq!((&progress["of"]["who"], &progress["progressToken"]), (&json!(who), &json!("p")));
            let answer = held.message().expect("the answer");
            assert_eq!(answer["result"]["echo"]["who"], who, "and nothing before it");
        }
    });
}
