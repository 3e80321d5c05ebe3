//! One process of a server for all who use it.

use serde_json::{Value, json};

use super::guard::{ANN, BOB, token_file};
use super::modern::{ask, call};
use super::web::{Served, Session};
use crate::client::{FIXTURE, Home, example, text};
use crate::faces::Gate;

const PATH: &str = "/mcp/fixture";

fn shared(extra: &[&str]) -> Served {
    Served::start(&Home::new(), &json!({"fixture": {"command": example(FIXTURE), "share": true}}), extra)
}

#[test]
fn all_sessions_and_clients_without_one_have_one_process() {
    let served = shared(&[]);
    let first = served.session(PATH, None, "2025-06-18");
    let second = served.session(PATH, None, "2025-11-25");
    let together = served.session("/mcp", None, "2025-11-25");
    assert_eq!(first.introduction["protocolVersion"], "2025-06-18");
    assert_eq!(second.introduction["protocolVersion"], "2025-11-25");
    assert_eq!(first.introduction["serverInfo"], second.introduction["serverInfo"]);
    let echo = json!({"text": "hello"});
    let answer = ask(&served, "tools/call", &call("echo", &echo, &json!({})), &[]).json();
    assert_eq!(text(&answer["result"]), "hello");
    assert_eq!(text(&together.call("fixture__echo", &echo)), "hello");
    assert_eq!(text(&first.call("echo", &echo)), "hello");
    // Who goes takes nothing away from the others.
    assert_eq!(first.send("DELETE", &[], "").status, 204);
    assert_eq!(text(&second.call("echo", &echo)), "hello");
    assert_eq!(served.process.home().log().matches("spawned").count(), 1);
    super::shutdown::tell(&served, "-TERM");
    assert!(served.process.wait_exit().success());
    assert_eq!(served.process.home().log().matches("exit").count(), 1);
}

#[test]
fn all_hear_of_changes_and_each_of_its_own_calls() {
    let served = shared(&["--mode", "inline"]);
    let sessions = [(); 2].map(|()| served.session(PATH, None, "2025-11-25"));
    let mut listening = sessions.each_ref().map(|session| session.listen());
    sessions[0].call("grow", &json!({}));
    for listening in &mut listening {
        assert_eq!(listening.message().expect("a change")["method"], "notifications/tools/list_changed");
    }
    let gates = ["a", "b"].map(|name| Gate::new(served.process.home(), name));
    let slow = |number: usize| {
        let params =
            json!({"name": "gate", "arguments": gates[number].arguments(), "_meta": {"progressToken": "p"}});
        sessions[number].ask("slow", "tools/call", &params)
    };
    let mut calls = [slow(0), slow(1)];
    for call in &mut calls {
        assert_eq!(call.message().expect("progress")["params"]["progressToken"], "p");
    }
    for (gate, call) in gates.iter().zip(&mut calls) {
        gate.open();
        assert_eq!(text(&call.message().expect("the answer")["result"]), "opened", "and nothing before it");
    }
}

#[test]
fn a_question_goes_to_whose_call_it_is_about() {
    let served = shared(&["--mode", "inline"]);
    let sessions = [(); 2].map(|()| served.session(PATH, None, "2025-11-25"));
    let asking = json!({"name": "ask_elicitation", "arguments": {}});
    let mut calls = Vec::new();
    for session in &sessions {
        let mut call = session.ask("a", "tools/call", &asking);
        let question = call.message().expect("a question");
        assert_eq!(question["method"], "elicitation/create", "{question}");
        calls.push((call, question["id"].clone()));
    }
    assert_ne!(calls[0].1, calls[1].1);
    for ((session, (call, question)), colour) in sessions.iter().zip(&mut calls).zip(["red", "blue"]) {
        session.respond(question, &json!({"action": "accept", "content": {"colour": colour}}));
        assert!(text(&call.response()["result"]).contains(colour));
    }
}

#[test]
fn a_question_that_may_be_about_the_call_of_another_user_is_put_to_nobody() {
    let home = Home::new();
    let file = token_file(&home, 0o600);
    let servers = json!({"fixture": {"command": example(FIXTURE), "share": true, "mode": "inline"}});
    let served = Served::start(&home, &servers, &["--token-file", &file]);
    let [ann, bob] = [ANN, BOB].map(|token| served.session(PATH, Some(token), "2025-11-25"));
    let asking = json!({"name": "ask_elicitation", "arguments": {}});
    let gate = Gate::new(&home, "gate");
    let mut slow = bob.ask("b", "tools/call", &json!({"name": "gate", "arguments": gate.arguments()}));
    served.process.wait_log("start gate");
    let declined = ann.ask("a", "tools/call", &asking).message().expect("an answer");
    assert!(text(&declined["result"]).contains("decline"), "{declined}");
    gate.open();
    assert_eq!(text(&slow.response()["result"]), "opened");
    let question = ann.ask("a", "tools/call", &asking).message().expect("a question");
    assert_eq!(question["method"], "elicitation/create", "nobody else has a call: {question}");
}

#[test]
fn a_resource_is_told_of_as_long_as_anybody_wants_it() {
    let served = shared(&[]);
    let sessions = [(); 2].map(|()| served.session(PATH, None, "2025-11-25"));
    let uri = json!({"uri": "fixture://notes/a"});
    let of =
        |session: usize, method: &str| -> Value { sessions[session].request(method, &uri)["result"].clone() };
    assert_eq!(of(0, "resources/subscribe"), json!({}));
    assert_eq!(of(1, "resources/subscribe"), json!({}));
    assert_eq!(of(0, "resources/unsubscribe"), json!({}));
    assert_eq!(of(1, "resources/read")["contents"][0]["text"], "note a");
    assert!(!served.process.home().log().contains("unsubscribe"));
    assert_eq!(sessions[1].send("DELETE", &[], "").status, 204);
    served.process.wait_log("unsubscribe fixture://notes/a");
}

#[test]
fn that_a_resource_has_changed_is_told_to_those_who_asked_for_it_alone() {
    let served = shared(&[]);
    let sessions = [(); 2].map(|()| served.session(PATH, None, "2025-11-25"));
    let mut streams = sessions.each_ref().map(Session::listen);
    for (session, uri) in sessions.iter().zip(["fixture://notes/a", "fixture://notes/b"]) {
        assert_eq!(session.request("resources/subscribe", &json!({"uri": uri}))["result"], json!({}));
    }
    for (stream, uri) in streams.iter_mut().zip(["fixture://notes/a", "fixture://notes/b"]) {
        let told = stream.message().expect("a notification");
        assert_eq!(
            (&told["method"], &told["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(uri))
        );
    }
}

#[test]
fn it_is_started_again_for_all() {
    let served = shared(&["--inline-budget", "5s"]);
    let sessions = [(); 2].map(|()| served.session(PATH, None, "2025-11-25"));
    sessions[0].request("tools/call", &json!({"name": "crash", "arguments": {}}));
    for session in &sessions {
        assert_eq!(text(&session.call("echo", &json!({"text": "again"}))), "again");
    }
    assert_eq!(served.process.home().log().matches("spawned").count(), 2);
}

#[test]
fn each_hears_log_messages_from_the_level_on_that_it_has_said_itself() {
    let served = shared(&[]);
    let [loud, quiet, silent] = [(); 3].map(|()| served.session(PATH, None, "2025-11-25"));
    let level = |session: &Session<'_>, level: &str| {
        assert_eq!(session.request("logging/setLevel", &json!({"level": level}))["result"], json!({}));
    };
    let mut hears = loud.listen();
    level(&loud, "debug");
    level(&quiet, "warning");
    let log = served.process.home().log();
    assert!(log.matches("set level debug").count() == 2 && !log.contains("set level warning"), "{log}");
    let speak = json!({"name": "log", "arguments": {"message": "psst"}});
    let first = quiet.ask("q", "tools/call", &speak).message().expect("an answer");
    assert!(first["result"].is_object(), "nothing comes before the answer: {first}");
    assert_eq!(hears.message().expect("a log message")["params"]["data"], "psst");
    let mut usual = silent.ask("s", "tools/call", &speak);
    assert_eq!(usual.message().expect("a log message")["method"], "notifications/message");
    // The one who wanted most goes, and the others lose nothing by it.
    assert_eq!(loud.send("DELETE", &[], "").status, 204);
    served.process.wait_log("set level warning");
}

#[test]
fn only_so_many_jobs_run_at_once_of_each_session_or_of_all_that_share_a_server() {
    for (share, of_the_other) in [(true, "queued as"), (false, "goes on in the background")] {
        let fixture = json!({"command": example(FIXTURE), "share": share, "mode": "handle", "maxRunning": 1});
        let served = Served::start(&Home::new(), &json!({"fixture": fixture}), &[]);
        let sessions = [(); 2].map(|()| served.session(PATH, None, "2025-11-25"));
        let gates = ["a", "b"].map(|name| Gate::new(served.process.home(), name));
        let start = |number: usize| sessions[number].call("gate", &gates[number].arguments());
        let (first, second) = (start(0), start(1));
        assert!(!text(&first).contains("queued") && text(&second).contains(of_the_other), "{second}");
        for (started, gate) in [first, second].iter().zip(&gates) {
            gate.open();
            let poll = json!({"handle": started["structuredContent"]["handle"], "wait_ms": 25000});
            assert_eq!(text(&sessions[1].call("poll_result", &poll)), "opened");
        }
    }
}
