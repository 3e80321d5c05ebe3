//! Malformed input from either side: an answer or a line in the log, never a crash, never a hang.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, RAW, text};

fn is_well(client: &Client, upstream_tool: &str, arguments: Value) {
    let answer = client.call(upstream_tool, arguments);
    assert_ne!(answer["isError"], true, "{answer}");
}

#[test]
fn whatever_a_client_writes_the_session_goes_on() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let unanswered = |client: &Client| client.wait_response(Value::Null).unwrap_err();
    for line in [
        &b"{"[..],
        b"nonsense",
        b"7",
        b"\"x\"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
    ] {
        client.send_line(line);
        let code = unanswered(&client)["code"].as_i64().unwrap();
        assert!([-32700, -32600].contains(&code), "{}: {code}", String::from_utf8_lossy(line));
    }
    client.send_line(br#"{"jsonrpc":"1.0","id":50,"method":"ping"}"#);
    assert_eq!(client.wait_response(50).unwrap_err()["code"], -32600);
    // Answers to nothing, cancellations of nothing, and progress of nothing are nobody's concern.
    client.send_line(br#"{"jsonrpc":"2.0","id":999,"result":{}}"#);
    client.send_line(br#"{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":"m"}}"#);
    client.notify("notifications/cancelled", json!({"requestId": 12345}));
    client.notify("notifications/cancelled", json!({}));
    client.notify("notifications/cancelled", json!([]));
    client.notify("notifications/progress", json!({"progressToken": "meanwhile-1", "progress": "far"}));
    is_well(&client, "echo", json!({"text": "still here"}));
}

#[test]
fn an_id_used_twice_at_once_is_answered_twice() {
    let client = Client::wrap(&["--inline-budget", "1h"], &[FIXTURE]);
    client.initialize();
    for text in ["a", "b"] {
        client.send_line(
            json!({"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": text}}})
                .to_string()
                .as_bytes(),
        );
    }
    let mut answers = [(); 2].map(|()| text(&client.wait_response(77).unwrap()).to_owned());
    answers.sort();
    assert_eq!(answers, ["a", "b"]);
}

#[test]
fn a_message_beyond_the_bound_is_refused_from_either_side() {
    let client = Client::wrap(&["--max-message", "100KiB"], &[RAW]);
    client.initialize();
    let mut line =
        format!(r#"{{"jsonrpc":"2.0","id":5,"method":"ping","params":{{"x":"{}"}}}}"#, "y".repeat(200_000))
            .into_bytes();
    client.send_line(&line);
    assert!(client.wait_response(5).unwrap_err()["message"].as_str().unwrap().contains("--max-message"));
    line.truncate(90_000);
    client.send_line(&line);
    assert_eq!(client.wait_response(Value::Null).unwrap_err()["code"], -32700);
    let error =
        client.request("tools/call", json!({"name": "huge", "arguments": {"bytes": 300_000}})).unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("more than the limit of 102400"), "{error}");
    is_well(&client, "huge", json!({"bytes": 50_000}));
}

#[test]
fn whatever_an_upstream_writes_its_proper_answers_arrive() {
    let bare = Client::bare(&[RAW]);
    let client = Client::wrap(&[], &[RAW]);
    for client in [&bare, &client] {
        client.initialize();
    }
    for tool in ["garbage", "duplicate", "batch", "bad_schema"] {
        assert_eq!(client.call(tool, json!({})), bare.call(tool, json!({})), "{tool}");
    }
    client.wait_stderr("is ignored");
    assert_eq!(client.malformed(), Vec::<String>::new(), "nothing malformed is passed on");
    is_well(&client, "any", json!({}));
}

#[test]
fn an_upstream_that_never_answers_holds_up_nobody_else() {
    let client = Client::wrap(&["--inline-budget", "30ms"], &[RAW]);
    client.initialize();
    let handle = crate::faces::handle(&client.call("silent", json!({})));
    is_well(&client, "any", json!({}));
    let cancelled = client.call("control_job", json!({"handle": handle, "action": "cancel"}));
    assert_eq!(cancelled["structuredContent"]["status"], "cancelled");
}

#[test]
fn what_is_there_twice_is_refused_and_reaches_nobody() {
    let client = Client::wrap(&[], &[RAW]);
    client.initialize();
    client.send_line(br#"{"jsonrpc":"2.0","id":601,"id":1,"method":"x/y"}"#);
    assert_eq!(client.wait_response(Value::Null).unwrap_err()["code"], -32600);
    client.send_line(
        br#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"any","name":"silent"}}"#,
    );
    assert!(
        client.wait_response(9).unwrap_err()["message"].as_str().unwrap().contains("`name` is there twice")
    );
    assert!(!client.home().log().contains("x/y") && !client.home().log().contains("silent"));
}

#[test]
fn arguments_that_are_json_but_more_than_we_can_hold_reach_the_upstream() {
    let client = Client::wrap(&["--mode", "handle"], &[RAW]);
    client.initialize();
    for arguments in [r#"{"x":1e400}"#, r#"{"x":"\ud83d"}"#] {
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{{"name":"any","arguments":{arguments}}}}}"#
        );
        client.send_line(line.as_bytes());
        let handle = crate::faces::handle(&client.wait_response("a").unwrap());
        crate::faces::poll(&client, &handle);
        assert!(client.home().log().contains(arguments), "{arguments}");
    }
}

#[test]
fn the_refusal_of_a_message_that_is_too_long_names_its_request() {
    let client = Client::wrap(&["--max-message", "10KiB"], &[RAW]);
    client.initialize();
    client.send_line(
        format!(r#"{{"method":"ping","params":"{}","jsonrpc":"2.0","id":77}}"#, "y".repeat(20_000))
            .as_bytes(),
    );
    assert!(client.wait_response(77).unwrap_err()["message"].as_str().unwrap().contains("--max-message"));
}
