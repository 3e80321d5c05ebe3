//! Requests of the modern era: what their headers and their `_meta` must say.

use serde_json::{Value, json};

use super::web::{Answer, Served};

const PATH: &str = "/mcp/fixture";
pub(super) const VERSION: &str = "2026-07-28";

pub(super) fn meta(version: &str) -> Value {
    json!({"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}})
}

/// A request whose headers fit its body, but for those that are given.
fn ask(served: &Served, method: &str, params: &Value, headers: &[(&str, &str)]) -> Answer {
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
