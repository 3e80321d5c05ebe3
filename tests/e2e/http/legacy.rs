//! Sessions of the legacy era.

use serde_json::{Value, json};

use super::web::Served;
use crate::client::{text, tool_names};
use crate::faces::Gate;

const PATH: &str = "/mcp/fixture";

#[test]
fn a_session_begins_with_initialize_and_ends_with_delete() {
    let served = Served::fixture(&[]);
    let session = served.session(PATH, None, "2025-06-18");
    assert!(session.id.len() >= 26 && session.id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(session.introduction["protocolVersion"], "2025-06-18");
    let list = session.request("tools/list", &json!({}));
    assert!(tool_names(&list["result"]).contains(&"poll_result"));
    assert_eq!(text(&session.call("echo", &json!({"text": "hello"}))), "hello");
    let spaced = "{\n  \"jsonrpc\": \"2.0\",\r\n \"id\": 1, \"method\": \"tools/call\",\n \"params\": {\"name\":\n \"echo\", \"arguments\": {\"text\": \"a\\nb\"}}}";
    assert_eq!(text(&session.send("POST", &[], spaced).response()["result"]), "a\nb");

    assert_eq!(session.send("DELETE", &[], "").status, 204);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(session.send("POST", &[], ping).refusal(), (404, -32600));
    assert_eq!(session.send("DELETE", &[], "").refusal(), (404, -32600));
    served.process.wait_log("exit");
}

#[test]
fn a_request_outside_of_a_session_is_refused() {
    let served = Served::fixture(&[]);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(served.post(PATH, &[], ping).refusal(), (400, -32600));
    assert_eq!(served.post(PATH, &[("Mcp-Session-Id", "x")], ping).refusal(), (404, -32600));
    let listen = |headers: &[(&str, &str)]| served.send("GET", PATH, headers, "").refusal();
    assert_eq!(listen(&[("Accept", "text/event-stream")]), (400, -32600));
    assert_eq!(listen(&[("Accept", "text/event-stream"), ("Mcp-Session-Id", "x")]), (404, -32600));
    assert_eq!(listen(&[("Accept", "text/html")]), (406, -32600));
    assert_eq!(served.send("DELETE", PATH, &[], "").refusal(), (400, -32600));
    let session = served.session(PATH, None, "2025-11-25");
    let version = |version: &str| session.send("POST", &[("MCP-Protocol-Version", version)], ping);
    assert_eq!(version("2025-11-25").status, 200);
    assert_eq!(version("1999-01-01").refusal(), (400, -32022));
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    assert_eq!(session.send("POST", &[], hello).refusal(), (400, -32600));
    assert_eq!(session.send("GET", &[("Last-Event-ID", "7-7")], "").refusal(), (400, -32600));
}

#[test]
fn a_server_that_does_not_start_leaves_no_session() {
    let home = crate::client::Home::new();
    let served =
        Served::start(&home, &json!({"broken": {"command": "surely-not-there"}}), &["--max-sessions", "1"]);
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    for _ in 0..2 {
        let answer = served.post("/mcp/broken", &[], hello);
        assert_eq!((answer.status, answer.header("mcp-session-id")), (200, None));
        assert_eq!(answer.json()["error"]["code"], -32000);
    }
}

#[test]
fn a_slow_request_has_a_stream_that_goes_on_after_a_disconnect() {
    let served = Served::fixture(&["--mode", "inline"]);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(served.process.home(), "gate");
    let params = json!({"name": "gate", "arguments": gate.arguments(), "_meta": {"progressToken": "p"}});
    let mut cut = session.ask("slow", "tools/call", &params);
    assert!(cut.is_stream());
    assert_eq!(cut.header("x-accel-buffering"), Some("no"));
    let primer = cut.event().unwrap();
    assert!(!primer.id.is_empty() && primer.data.is_empty() && !primer.retry.is_empty(), "{primer:?}");
    let progress = cut.event().unwrap();
    assert!(
        progress.data.contains("notifications/progress") && progress.data.contains("waiting"),
        "{progress:?}"
    );
    drop(cut);
    gate.open();
    served.process.wait_log("end gate");

    // Once more from the beginning, and once from behind the progress.
    let mut resumed = session.resume(&primer.id);
    assert_eq!(resumed.message().unwrap()["method"], "notifications/progress");
    assert_eq!(text(&resumed.message().unwrap()["result"]), "opened");
    assert!(resumed.event().is_none());
    let mut resumed = session.resume(&progress.id);
    let answer = resumed.message().unwrap();
    assert_eq!((&answer["id"], text(&answer["result"])), (&json!("slow"), "opened"));
    assert!(!served.process.home().log().contains("cancelled"));
}

#[test]
fn older_revisions_get_no_event_without_data() {
    let served = Served::fixture(&["--mode", "inline"]);
    let session = served.session(PATH, None, "2025-06-18");
    let gate = Gate::new(served.process.home(), "gate");
    let params = json!({"name": "gate", "arguments": gate.arguments()});
    let mut slow = session.ask("slow", "tools/call", &params);
    assert!(slow.is_stream());
    gate.open();
    assert!(slow.event().unwrap().data.contains("opened"));
}

#[test]
fn a_cancellation_is_said_and_not_guessed() {
    let served = Served::fixture(&["--mode", "inline"]);
    let session = served.session(PATH, None, "2025-11-25");
    let mut slow =
        session.ask("slow", "tools/call", &json!({"name": "sleep", "arguments": {"ms": 3_600_000}}));
    served.process.wait_log("start sleep");
    session.notify("notifications/cancelled", &json!({"requestId": "slow", "reason": "the test says so"}));
    served.process.wait_log("cancelled sleep");
    assert!(slow.message().is_none(), "its stream ends without an answer");
}

#[test]
fn what_is_said_unasked_comes_on_the_stream_that_listens() {
    let served = Served::fixture(&[]);
    let session = served.session(PATH, None, "2025-11-25");
    let mut listening = session.listen();
    let primer = listening.event().unwrap();
    assert!(primer.data.is_empty());
    session.call("grow", &json!({}));
    let first = listening.event().unwrap();
    assert!(first.data.contains("notifications/tools/list_changed"), "{first:?}");
    drop(listening);
    let mut again = session.resume(&primer.id);
    assert_eq!(again.event().unwrap(), first, "it is resumed as any other");
}

#[test]
fn a_question_of_the_server_is_asked_and_answered() {
    let served = Served::fixture(&["--mode", "inline"]);
    let session = served.session(PATH, None, "2025-11-25");
    let mut call = session.ask("a", "tools/call", &json!({"name": "ask_elicitation", "arguments": {}}));
    let question = call.message().expect("on the stream of the call that it is about");
    assert_eq!(question["method"], "elicitation/create");
    let answer = json!({"action": "accept", "content": {"colour": "blue"}});
    session.respond(&question["id"], &answer);
    let said: Value = serde_json::from_str(text(&call.response()["result"])).unwrap();
    assert_eq!(said, answer);
}

#[test]
fn batches_belong_to_one_revision() {
    let served = Served::fixture(&[]);
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"},{"jsonrpc":"2.0","id":2,"method":"ping"},7]"#;
    let session = served.session(PATH, None, "2025-03-26");
    let mut answers = session.send("POST", &[], batch);
    let mut ids: Vec<String> =
        std::iter::from_fn(|| answers.message()).map(|answer| answer["id"].to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["1", "2", "null"]);
    let told = session.send("POST", &[], r#"[{"jsonrpc":"2.0","method":"notifications/x"}]"#);
    assert_eq!((told.status, told.text()), (202, String::new()), "nothing of it is answered");
    let few = Served::fixture(&["--max-requests", "1"]);
    let refused = few.session(PATH, None, "2025-03-26").send("POST", &[], batch);
    assert_eq!(refused.status, 503, "each request of a batch counts");
    let newer = served.session(PATH, None, "2025-11-25");
    assert_eq!(newer.send("POST", &[], batch).refusal(), (400, -32600));
}

#[test]
fn a_session_left_alone_rests_and_its_jobs_run_on() {
    let served = Served::fixture(&["-v", "--session-idle", "200ms", "--inline-budget", "30ms"]);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(served.process.home(), "gate");
    let handle = session.call("gate", &gate.arguments())["structuredContent"]["handle"].clone();
    served.process.wait_stderr("a session that was left alone is ended");
    gate.open();
    assert_eq!(
        text(&session.call("poll_result", &json!({"handle": handle}))),
        "opened",
        "it is taken up again"
    );
    assert_eq!(served.process.home().log().matches("start gate").count(), 1);
}
