//! Sessions of the legacy era and several processes on one store: beside each other, and one after the other.

use std::time::Instant;

use serde_json::{Value, json};

use super::guard::write;
use super::modern::{VERSION, ask, meta};
use super::shutdown::tell;
use super::web::{Served, Session};
use crate::client::{FIXTURE, Home, RAW, example, store_of, text, tool_names};
use crate::faces::Gate;
use crate::inbox::PATIENCE;

const PATH: &str = "/mcp/fixture";
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const BUDGET: [&str; 2] = ["--inline-budget", "30ms"];

fn two() -> (Home, Served, Served) {
    let home = Home::new();
    let [one, other] = [(); 2].map(|()| Served::fixture_in(&home, &BUDGET));
    (home, one, other)
}

fn ping(session: &Session<'_>) -> u16 {
    session.send("POST", &[], PING).status
}

fn handle(answer: &Value) -> Value {
    let handle = answer["structuredContent"]["handle"].clone();
    assert!(handle.is_string(), "{answer}");
    handle
}

#[test]
fn of_which_era_a_server_is_is_asked_once_for_all_sessions() {
    let home = Home::new();
    let server = json!({"fixture": {"command": example(RAW), "args": ["--probe", "exit"]}});
    let served = Served::start(&home, &server, &[]);
    for _ in 0..3 {
        let session = served.session(PATH, None, "2025-11-25");
        assert_eq!(text(&session.call("any", &json!({}))), "any done");
    }
    assert_eq!(home.log().matches("server/discover").count(), 1, "{}", home.log());
}

#[test]
fn a_server_that_does_not_come_up_is_left_alone_for_a_while_whoever_asks() {
    let home = Home::new();
    let (fixture, mended) = (example(RAW), home.path("mended"));
    let script = format!(
        "echo began >> '{}'; [ -e '{}' ] || exit 7; exec '{}'",
        home.log_path().display(),
        mended.display(),
        fixture
    );
    let servers = json!({"fixture": {"command": "sh", "args": ["-c", script]}});
    let served = Served::start(&home, &servers, &["-v"]);
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}});
    let begin = || served.post(PATH, &[], &hello.to_string()).json();
    for _ in 0..20 {
        let why = begin()["error"]["message"].as_str().expect("an error").to_owned();
        assert!(why.contains("ended (exit status: 7)"), "{why}");
    }
    // Each start that fails takes two processes, for the first may have ended because it was asked who it is.
    let begun = home.log().matches("began").count();
    assert!((2..20).contains(&begun) && begun.is_multiple_of(2), "{begun}");
    served.process.wait_stderr("server=\"fixture\"");
    std::fs::write(mended, "").expect("a file");
    let until = Instant::now() + PATIENCE;
    while begin()["result"].is_null() {
        assert!(Instant::now() < until, "it is not tried again");
    }
    // Whoever comes now need not wait.
    assert_eq!(text(&served.session(PATH, None, "2025-11-25").call("any", &json!({}))), "any done");
}

#[test]
fn a_server_that_goes_instead_of_introducing_itself_is_left_alone_as_well() {
    let home = Home::new();
    for share in [false, true] {
        let before = home.log().matches(r#""initialize""#).count();
        let server = json!({"command": example(RAW), "args": ["--initialize", "exit"], "share": share});
        let served = Served::start(&home, &json!({"fixture": server}), &[]);
        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}});
        for _ in 0..10 {
            let why = served.post(PATH, &[], &hello.to_string()).json()["error"]["message"].to_string();
            assert!(why.contains("ended (exit status: 1)"), "{why}");
            let answer = ask(&served, "tools/list", &json!({"_meta": meta(VERSION)}), &[]).json();
            assert!(answer["error"]["message"].to_string().contains("ended (exit status: 1)"), "{answer}");
        }
        let asked = home.log().matches(r#""initialize""#).count() - before;
        assert!(asked < 10, "{asked} starts");
    }
}

#[test]
fn a_session_is_gone_on_with_at_another_process() {
    let (home, one, other) = two();
    let here = one.session(PATH, None, "2025-03-26");
    let there = here.at(&other);
    assert!(tool_names(&there.request("tools/list", &json!({}))["result"]).contains(&"poll_result"));
    let gate = Gate::new(&home, "gate");
    let job = json!({"handle": handle(&here.call("gate", &gate.arguments()))});
    let pending = there.call("poll_result", &json!({"handle": job["handle"], "wait_ms": 0}));
    assert_eq!(pending["structuredContent"]["status"], "working", "{pending}");
    let second = Gate::new(&home, "second");
    let other_job = json!({"handle": handle(&there.call("gate", &second.arguments()))});
    gate.open();
    second.open();
    assert_eq!(text(&here.call("poll_result", &other_job)), "opened");
    assert_eq!(text(&there.call("poll_result", &job)), "opened");
    // Only a client of this revision may do that, and only one that has said so may be asked.
    let batch = format!("[{PING}]");
    assert_eq!(there.send("POST", &[], &batch).message().expect("an answer")["id"], 1);
    let mut call = there.ask("a", "tools/call", &json!({"name": "ask_elicitation", "arguments": {}}));
    assert_eq!(call.message().expect("a question")["method"], "elicitation/create");
}

#[test]
fn several_servers_as_one_are_gone_on_with_too() {
    let (_home, one, other) = two();
    let session = one.session("/mcp", None, "2025-11-25").at(&other);
    assert_eq!(text(&session.call("fixture__echo", &json!({"text": "hello"}))), "hello");
}

#[test]
fn requests_that_come_at_once_take_a_session_up_once() {
    let (home, one, other) = two();
    let session = one.session(PATH, None, "2025-11-25").at(&other);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let session = &session;
            scope.spawn(move || {
                let said = number.to_string();
                assert_eq!(text(&session.call("echo", &json!({"text": said}))), said);
            });
        }
    });
    assert_eq!(home.log().matches("spawned").count(), 2, "one server for each process");
}

#[test]
fn a_process_whose_server_does_not_start_refuses_a_session_and_does_not_end_it() {
    let home = Home::new();
    let one = Served::fixture_in(&home, &BUDGET);
    let session = one.session(PATH, None, "2025-11-25");
    let broken = json!({"mcpServers": {"fixture": {"command": "surely-not-there"}}});
    let other = Served::configured(&home, "broken.json", &broken.to_string(), &BUDGET);
    for _ in 0..2 {
        let refused = session.at(&other).send("POST", &[], PING);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.refusal(), (503, -32603));
    }
    assert_eq!(ping(&session), 200);
}

#[test]
fn a_deleted_session_ends_at_every_process() {
    let (home, one, other) = two();
    let here = one.session(PATH, None, "2025-11-25");
    let kept = one.session(PATH, None, "2025-11-25");
    let there = here.at(&other);
    let mut listening = here.listen();
    assert!(listening.event().expect("a primer").data.is_empty());
    assert_eq!(ping(&there), 200);
    assert_eq!(there.send("DELETE", &[], "").status, 204);
    assert!(listening.event().is_none(), "its stream ends here");
    let later = Served::fixture_in(&home, &BUDGET);
    for session in [&here, &there, &here.at(&later)] {
        assert_eq!(session.send("POST", &[], PING).refusal(), (404, -32600));
        assert_eq!(session.send("DELETE", &[], "").refusal(), (404, -32600));
    }
    assert_eq!((ping(&kept), ping(&kept.at(&other))), (200, 200), "the others go on");
    // Who has never been asked about a session can end it as well.
    assert_eq!(kept.at(&later).send("DELETE", &[], "").status, 204);
    assert_eq!(ping(&kept.at(&later)), 404);
}

#[test]
fn a_session_is_its_principals_and_its_places_alone() {
    let home = Home::new();
    let (ann, bob) = ("token-of-ann-0123456789", "token-of-bob-0123456789");
    let tokens = write(&home.path("tokens"), &format!("ann: {ann}\nbob: {bob}\n"), 0o600);
    let [one, other] = [(); 2].map(|()| Served::fixture_in(&home, &["--token-file", &tokens]));
    let session = one.session(PATH, Some(ann), "2025-11-25");
    for served in [&one, &other, &one, &other] {
        let stolen = session.at(served).of(bob);
        assert_eq!(stolen.send("POST", &[], PING).refusal(), (404, -32600));
        assert_eq!(stolen.send("GET", &[], "").refusal(), (404, -32600));
        assert_eq!(stolen.send("DELETE", &[], "").refusal(), (404, -32600));
        assert_eq!(session.at(served).on("/mcp").send("POST", &[], PING).refusal(), (404, -32600));
        assert_eq!(ping(&session.at(served)), 200);
    }
}

#[test]
fn a_session_outlives_its_process_and_polls_its_jobs() {
    let home = Home::new();
    let served = Served::fixture_in(&home, &BUDGET);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(&home, "gate");
    let job = json!({"handle": handle(&session.call("gate", &gate.arguments()))});
    gate.open();
    let store = store_of(&home);
    served.process.poll("the job to end", || {
        let count = "SELECT count(*) FROM job WHERE status = 'completed'";
        store.query_row(count, [], |row| row.get(0)).ok().filter(|ended: &i64| *ended == 1)
    });
    let mut listening = session.listen();
    let primer = listening.event().expect("a primer");
    served.process.kill();
    served.process.wait_exit();

    let next = Served::fixture_in(&home, &BUDGET);
    let session = session.at(&next);
    assert_eq!(text(&session.call("poll_result", &job)), "opened");
    // Who listens goes on listening, though nothing is left of the old stream.
    let mut listening = session.resume(&primer.id);
    assert_ne!(listening.event().expect("a primer").id, primer.id);
    session.call("grow", &json!({}));
    assert_eq!(listening.message().expect("a change")["method"], "notifications/tools/list_changed");
}

#[test]
fn the_stream_of_a_request_is_resumed_where_it_is_and_nowhere_else() {
    let home = Home::new();
    let [one, other] = [(); 2].map(|()| Served::fixture_in(&home, &["--mode", "inline"]));
    let here = one.session(PATH, None, "2025-11-25");
    let there = here.at(&other);
    let gates = ["one", "other"].map(|name| Gate::new(&home, name));
    let ask = |session: &Session<'_>, gate: &Gate| {
        let mut call =
            session.ask("slow", "tools/call", &json!({"name": "gate", "arguments": gate.arguments()}));
        call.event().expect("a primer").id
    };
    let (cut, theirs) = (ask(&here, &gates[0]), ask(&there, &gates[1]));
    // Both are the first stream of their process.
    assert_eq!(there.resume(&cut).refusal(), (400, -32600));
    assert_eq!(here.resume(&theirs).refusal(), (400, -32600));
    gates.iter().for_each(Gate::open);
    assert_eq!(text(&here.resume(&cut).response()["result"]), "opened");
    assert_eq!(text(&there.resume(&theirs).response()["result"]), "opened");
}

/// What is left of letters in the store, until there is nothing.
fn letters_are_taken(served: &Served) {
    let store = store_of(served.process.home());
    served.process.poll("all letters to be taken", || {
        let count = store.query_row("SELECT count(*) FROM letter", [], |row| row.get(0));
        (count == Ok(0)).then_some(())
    });
}

fn colour(name: &str) -> Value {
    json!({"action": "accept", "content": {"colour": name}})
}

#[test]
fn a_question_is_answered_by_whichever_process_the_answer_comes_to() {
    let home = Home::new();
    let servers = json!({"fixture": {"command": example(FIXTURE)}, "other": {"command": example(FIXTURE)}});
    let [one, other] = [(); 2].map(|()| Served::start(&home, &servers, &["--mode", "inline"]));
    for (path, tool) in [(PATH, "ask_elicitation"), ("/mcp", "other__ask_elicitation")] {
        let here = one.session(path, None, "2025-11-25");
        let sessions = [here.at(&other), here];
        let mut calls = sessions
            .each_ref()
            .map(|session| session.ask("a", "tools/call", &json!({"name": tool, "arguments": {}})));
        let questions = calls.each_mut().map(|call| call.message().expect("a question")["id"].clone());
        // Each answer comes to the process that has not asked.
        for ((session, question), answer) in sessions.iter().zip(questions.iter().rev()).zip(["blue", "red"])
        {
            session.respond(question, &colour(answer));
        }
        for (call, answer) in calls.iter_mut().zip(["red", "blue"]) {
            assert!(text(&call.response()["result"]).contains(answer));
        }
    }
    letters_are_taken(&one);
}

#[test]
fn the_question_of_a_job_is_answered_at_another_process() {
    let (_home, one, other) = two();
    let session = one.session(PATH, None, "2025-11-25");
    let mut asking = session.ask("a", "tools/call", &json!({"name": "ask_elicitation", "arguments": {}}));
    let question = asking.message().expect("a question")["id"].clone();
    let handle = handle(&asking.response()["result"]);
    session.at(&other).respond(&question, &colour("green"));
    // A poll does not wait as long as the job is seen to ask.
    one.process.poll("the answer to come", || {
        let polled = session.call("poll_result", &json!({"handle": handle}));
        text(&polled).contains("green").then_some(())
    });
}

#[test]
fn a_request_is_cancelled_at_another_process() {
    let home = Home::new();
    let [one, other] = [(); 2].map(|()| Served::fixture_in(&home, &["--mode", "inline"]));
    let session = one.session(PATH, None, "2025-11-25");
    let gate = Gate::new(&home, "gate");
    let mut call = session.ask("slow", "tools/call", &json!({"name": "gate", "arguments": gate.arguments()}));
    call.event().expect("a primer");
    one.process.wait_log("start gate");
    session.at(&other).notify("notifications/cancelled", &json!({"requestId": "slow", "reason": "enough"}));
    one.process.wait_log("cancelled gate");
    letters_are_taken(&one);
}

#[test]
fn a_process_that_ends_is_told_by_others_what_its_client_answers() {
    let home = Home::new();
    let [one, other] = [(); 2].map(|()| Served::fixture_in(&home, &["--mode", "inline", "--linger", "1h"]));
    let session = one.session(PATH, None, "2025-11-25");
    let mut listening = session.listen();
    listening.event().expect("a primer");
    let mut call = session.ask("a", "tools/call", &json!({"name": "ask_elicitation", "arguments": {}}));
    let question = call.message().expect("a question")["id"].clone();
    tell(&one, "-TERM");
    assert!(listening.event().is_none(), "it is about to end");
    session.at(&other).respond(&question, &colour("violet"));
    assert!(text(&call.response()["result"]).contains("violet"));
    drop(call);
    assert!(one.process.wait_exit().success());
}

#[test]
fn an_answer_that_is_too_long_for_other_processes_is_refused_there() {
    let (_home, one, other) = two();
    let session = one.session(PATH, None, "2025-11-25");
    let answer = |session: &Session<'_>| {
        let text = "x".repeat(2 * 1024 * 1024);
        let body = json!({"jsonrpc": "2.0", "id": 12345, "result": {"text": text}});
        session.send("POST", &[], &body.to_string()).refusal()
    };
    assert_eq!(answer(&session.at(&other)), (413, -32600));
    assert_eq!(ping(&session), 200);
}

#[test]
fn nothing_secret_of_a_session_is_kept() {
    let served = Served::fixture(&[]);
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e2e", "version": "0"},
        "_meta": {"com.example/token": "hush"}}});
    let answer = served.post(PATH, &[], &hello.to_string());
    let id = answer.header("mcp-session-id").expect("a session").to_owned();
    let kept: String = store_of(served.process.home())
        .query_row("SELECT key || owner || place || opening FROM session", [], |row| row.get(0))
        .expect("it is kept");
    assert!(kept.contains("e2e") && !kept.contains(&id) && !kept.contains("hush"), "{kept}");
}

#[test]
fn a_client_with_much_to_say_of_itself_has_its_session_in_one_process() {
    let (_home, one, other) = two();
    let long = "x".repeat(20_000);
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": long, "version": "0"}}});
    let answer = one.post(PATH, &[], &hello.to_string());
    let id = answer.header("mcp-session-id").expect("a session").to_owned();
    let ping = |served: &Served| served.post(PATH, &[("Mcp-Session-Id", id.as_str())], PING).status;
    assert_eq!((ping(&one), ping(&other)), (200, 404));
    assert_eq!(one.send("DELETE", PATH, &[("Mcp-Session-Id", id.as_str())], "").status, 204);
    assert_eq!(ping(&one), 404);
}
