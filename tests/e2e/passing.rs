//! What is not ours passes both ways untouched.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Hello, RAW, text};

fn both(upstream: &[&str]) -> [Client; 2] {
    let clients = [Client::bare(upstream), Client::wrap(&[], upstream)];
    for client in &clients {
        let capabilities = json!({"roots": {"listChanged": true}, "sampling": {}, "elicitation": {}});
        client.initialize_as(Hello { capabilities, ..Hello::default() });
    }
    clients
}

#[test]
fn every_revision_is_spoken_on_either_side() {
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let client = Client::wrap(&[], &[RAW, "--revision", "2024-11-05"]);
        let result = client.initialize_as(Hello { version: revision.into(), ..Hello::default() });
        assert_eq!(result["protocolVersion"], revision);
        assert!(result["capabilities"].get("x-novel").is_some(), "{result}");
        let log = client.home().log();
        let asked = log.lines().find(|line| line.contains("\"initialize\"")).unwrap_or_default();
        assert!(asked.contains(revision), "the upstream is asked for what the client speaks: {asked}");
    }
    let client = Client::wrap(&[], &[FIXTURE]);
    let result = client.initialize_as(Hello { version: "1999-01-01".into(), ..Hello::default() });
    assert_eq!(result["protocolVersion"], "2025-11-25");
}

#[test]
fn resources_prompts_completion_logging_and_ping_are_as_bare() {
    let [bare, wrapped] = both(&[FIXTURE]);
    for (method, params) in [
        ("ping", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({"uri": "fixture://notes/one"})),
        ("resources/read", json!({"uri": "fixture://pixel"})),
        ("resources/read", json!({"uri": "fixture://nowhere"})),
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "greet", "arguments": {"name": "Ada", "mood": "glad"}})),
        ("prompts/get", json!({"name": "nobody"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "al"}}),
        ),
        ("logging/setLevel", json!({"level": "debug"})),
        ("no/such/method", json!({"a": 1})),
    ] {
        assert_eq!(wrapped.request(method, params.clone()), bare.request(method, params), "{method}");
    }
}

#[test]
fn a_refusal_of_nobody_knows_which_request_arrives_too() {
    let [bare, wrapped] = both(&[FIXTURE]);
    let refused = |client: &Client| {
        client.start_request("tools/call", json!([1]));
        client.wait_response(Value::Null).unwrap_err()
    };
    assert_eq!(refused(&wrapped), refused(&bare));
}

#[test]
fn an_answer_that_nobody_has_heard_of_arrives_word_for_word() {
    let expected = include_str!("../fixture/unknown_fields.json").trim();
    let client = Client::wrap(&[], &[RAW]);
    client.initialize();
    let raw = client.request_raw("tools/call", json!({"name": "unknown_fields", "arguments": {}}));
    assert!(raw.contains(expected), "{raw}");
    let handle_mode = Client::wrap(&["--mode", "handle"], &[RAW]);
    handle_mode.initialize();
    let handle = crate::faces::handle(&handle_mode.call("unknown_fields", json!({})));
    let raw = handle_mode
        .request_raw("tools/call", json!({"name": "poll_result", "arguments": {"handle": handle}}));
    assert!(raw.contains(expected), "also from the store: {raw}");
}

#[test]
fn parameters_that_nobody_has_heard_of_reach_the_upstream_word_for_word() {
    let client = Client::wrap(&[], &[RAW]);
    client.initialize();
    client.send_line(br#"{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"echo_meta","x":1.0,"arguments":{"n":12345678901234567890123},"_meta":{"a/b":[1e2]}}}"#);
    client.wait_response("q").unwrap();
    let log = client.home().log();
    let call = log.lines().find(|line| line.contains("echo_meta")).unwrap();
    assert!(
        call.contains(
            r#""x":1.0,"arguments":{"n":12345678901234567890123},"_meta":{"a/b":[1e2],"progressToken":"#
        ),
        "{call}"
    );
    client.send_line(br#"{"jsonrpc":"2.0","id":7,"method":"x/y","params":{"z":1.50},"trace":"t"}"#);
    assert!(client.wait_raw(7).contains(r#""echo":{"z":1.50}"#));
    assert!(client.home().log().contains(r#""trace":"t""#));
}

#[test]
fn notifications_of_the_upstream_arrive_as_they_are() {
    let [bare, wrapped] = both(&[RAW]);
    for client in [&bare, &wrapped] {
        client.call("custom_notify", json!({}));
    }
    let method = "notifications/x-custom";
    assert_eq!(wrapped.next_notification(method), bare.next_notification(method));
    let [bare, wrapped] = both(&[FIXTURE]);
    for client in [&bare, &wrapped] {
        client.call("log", json!({"message": "hello"}));
    }
    let method = "notifications/message";
    assert_eq!(wrapped.next_notification(method), bare.next_notification(method));
}

#[test]
fn the_upstream_can_ask_the_client() {
    let [bare, wrapped] = both(&[FIXTURE]);
    let ask = |client: &Client, tool: &str, method: &str, answer: Value| {
        let id = client.start_call(tool, json!({}));
        let question = client.next_request(method);
        client.respond(&question["id"], answer);
        (question["params"].clone(), client.wait_response(id))
    };
    for (tool, method, answer) in [
        ("ask_roots", "roots/list", json!({"roots": [{"uri": "file:///a", "name": "a"}]})),
        (
            "ask_sampling",
            "sampling/createMessage",
            json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "hi"}}),
        ),
        ("ask_elicitation", "elicitation/create", json!({"action": "decline"})),
    ] {
        assert_eq!(ask(&wrapped, tool, method, answer.clone()), ask(&bare, tool, method, answer), "{tool}");
    }
}

#[test]
fn a_changed_list_is_forwarded_and_read_again() {
    let client = Client::wrap(&["--tool", "grown=handle"], &[FIXTURE]);
    client.initialize();
    client.request("tools/list", json!({})).unwrap();
    client.call("grow", json!({}));
    client.next_notification("notifications/tools/list_changed");
    crate::faces::handle(&client.call("grown", json!({})));
}

#[test]
fn a_batch_is_answered_as_a_batch_where_the_revision_has_them() {
    let client = Client::wrap(&["--inline-budget", "1h"], &[FIXTURE]);
    client.initialize_as(Hello { version: "2025-03-26".into(), ..Hello::default() });
    client.send_line(br#"[{"jsonrpc":"2.0","id":101,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"},7,{"jsonrpc":"2.0","id":102,"method":"tools/call","params":{"name":"echo","arguments":{"text":"b"}}}]"#);
    assert_eq!(client.wait_response(101).unwrap(), json!({}));
    assert_eq!(text(&client.wait_response(102).unwrap()), "b");
    let newer = Client::wrap(&[], &[FIXTURE]);
    newer.initialize();
    newer.send_line(br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#);
    assert_eq!(newer.wait_response(Value::Null).unwrap_err()["code"], -32600);
}

#[test]
fn what_a_client_sends_at_once_reaches_the_upstream_in_that_order() {
    let client = Client::wrap(&[], &[RAW]);
    for line in [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"x/one"}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/x-two"}"#,
        r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"any"}}"#,
    ] {
        client.send_line(line.as_bytes());
    }
    for id in 1..=4 {
        client.wait_response(id).unwrap();
    }
    let log = client.home().log();
    let methods: Vec<Value> =
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["method"].clone()).collect();
    let expected = [
        "server/discover",
        "initialize",
        "notifications/initialized",
        "x/one",
        "tools/list",
        "notifications/x-two",
    ];
    assert_eq!(methods[..6], expected);
    assert_eq!(methods.last().unwrap(), "tools/call");
}

#[test]
fn a_burst_of_progress_arrives_whole() {
    let client = Client::wrap(&["--mode", "inline"], &[FIXTURE]);
    client.initialize();
    let id = client.start_call("sleep", json!({"ms": 0, "steps": 200}));
    client.wait_response(id).unwrap();
    assert_eq!(client.take_notifications("notifications/progress").len(), 200);
}
