//! Processes that nobody asks anything end, and are there again when they are asked.

use serde_json::json;

use super::web::Served;
use crate::client::{FIXTURE, Home, RAW, example, text};
use crate::faces::Gate;
use crate::remote::{initialized, json_answer, refused, scripted};

const PATH: &str = "/mcp/fixture";
const RESTS: &str = "it rests until somebody does";

#[test]
fn the_process_of_a_session_left_alone_rests_and_others_do_not() {
    let home = Home::new();
    let served = Served::fixture_in(&home, &["-v", "--server-idle", "1s", "--inline-budget", "30ms"]);
    let listening = served.session(PATH, None, "2025-11-25");
    let _stream = listening.listen();
    let subscribed = served.session(PATH, None, "2025-11-25");
    subscribed.request("resources/subscribe", &json!({"uri": "fixture://notes/a"}));
    let working = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(&home, "gate");
    let handle = working.call("gate", &gate.arguments())["structuredContent"]["handle"].clone();
    let idle = served.session(PATH, None, "2025-11-25");
    idle.request("logging/setLevel", &json!({"level": "debug"}));
    served.process.wait_stderr(RESTS);
    served.process.wait_log("exit");
    let echo = json!({"text": "here"});
    for session in [&listening, &subscribed, &working] {
        assert_eq!(text(&session.call("echo", &echo)), "here");
    }
    assert_eq!(home.log().matches("spawned").count(), 4, "these were there all the time");
    gate.open();
    assert_eq!(text(&working.call("poll_result", &json!({"handle": handle}))), "opened");
    // It is what it was, and knows what it was told.
    assert_eq!(text(&idle.call("echo", &echo)), "here");
    assert!(home.log().matches("spawned").count() >= 5);
    served.process.wait_log_count("set level debug", 2);
}

#[test]
fn a_shared_process_rests_when_all_leave_it_alone() {
    let home = Home::new();
    let servers = json!({"fixture": {"command": example(FIXTURE), "share": true}});
    let served = Served::start(&home, &servers, &["-v", "--server-idle", "300ms"]);
    let sessions = [(); 2].map(|()| served.session(PATH, None, "2025-11-25"));
    served.process.wait_stderr(RESTS);
    served.process.wait_log("exit");
    for session in &sessions {
        assert_eq!(text(&session.call("echo", &json!({"text": "here"}))), "here");
    }
    assert!(home.log().matches("spawned").count() >= 2);
}

#[test]
fn a_connection_to_a_server_elsewhere_that_nobody_uses_is_ended_and_made_anew_at_need() {
    for share in [false, true] {
        let (url, seen) =
            scripted(|asked, before| match (asked.method.as_str(), asked.body["method"].as_str()) {
                ("POST", Some("initialize")) => initialized(asked, before),
                ("POST", Some("server/discover")) => refused(),
                ("POST", Some(_)) if asked.body["id"].is_null() => (202, String::new(), String::new()),
                ("POST", Some(_)) => {
                    json_answer(asked, json!({"in": asked.header("mcp-session-id"), "tools": []}))
                }
                ("DELETE", _) => (200, String::new(), String::new()),
                _ => (405, String::new(), String::new()),
            });
        let ended = || {
            let seen = seen.lock().expect("as the test has it");
            let ended = seen.iter().filter(|asked| asked.method == "DELETE");
            ended.filter_map(|asked| asked.header("mcp-session-id").map(str::to_owned)).collect::<Vec<_>>()
        };
        let servers = json!({"far": {"type": "http", "url": url, "share": share}});
        let served = Served::start(&Home::new(), &servers, &["-v", "--server-idle", "300ms"]);
        let session = served.session("/mcp/far", None, "2025-06-18");
        let any = || session.request("x/any", &json!({}))["result"]["in"].clone();
        assert_eq!(any(), "session-0");
        served.process.wait_stderr(RESTS);
        served.process.poll("the end of the session there", || (ended() == ["session-0"]).then_some(()));
        assert_eq!(any(), "session-1", "of which its client has not noticed anything");
    }
}

#[test]
fn a_request_that_was_taken_back_and_is_never_answered_keeps_no_process_awake() {
    let servers = json!({"raw": {"command": example(RAW)}});
    let served = Served::start(&Home::new(), &servers, &["-v", "--server-idle", "300ms"]);
    let session = served.session("/mcp/raw", None, "2025-06-18");
    let body = json!({"jsonrpc": "2.0", "id": "held", "method": "x/hold"}).to_string();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(session.send("POST", &[], &body)));
        served.process.wait_log("x/hold");
        session.notify("notifications/cancelled", &json!({"requestId": "held"}));
        served.process.wait_stderr(RESTS);
    });
}
