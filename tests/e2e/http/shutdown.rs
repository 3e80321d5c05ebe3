//! The end of `meanwhile serve`: what is on its way is answered, and no job is lost.

use std::process::Command;

use serde_json::json;

use super::web::Served;
use crate::client::{Home, text};
use crate::faces::Gate;

const PATH: &str = "/mcp/fixture";

pub(super) fn tell(served: &Served, signal: &str) {
    let told =
        Command::new("kill").args([signal, &served.process.pid().to_string()]).status().expect("kill runs");
    assert!(told.success());
}

#[test]
fn a_signal_lets_requests_and_jobs_end_and_closes_streams() {
    let home = Home::new();
    let served = Served::fixture_in(
        &home,
        &["--linger", "20s", "--inline-budget", "30ms", "--tool", "gate=inline-budget=30ms"],
    );
    let session = served.session(PATH, None, "2025-11-25");
    let mut listening = session.listen();
    listening.event().expect("it listens");
    let (job, call) = (Gate::new(&home, "job"), Gate::new(&home, "call"));
    let handle = session.call("gate", &job.arguments())["structuredContent"]["handle"].clone();
    let mut waiting =
        session.ask("w", "tools/call", &json!({"name": "poll_result", "arguments": {"handle": handle}}));
    tell(&served, "-TERM");
    assert!(listening.event().is_none(), "nothing more is said unasked");
    job.open();
    assert_eq!(text(&waiting.response()["result"]), "opened");
    drop(waiting);
    assert!(served.process.wait_exit().success());
    call.open();
    assert!(home.log().contains("end gate") && home.log().contains("exit"));
}

#[test]
fn what_does_not_end_in_time_is_not_lost() {
    let home = Home::new();
    let served = Served::fixture_in(&home, &["--linger", "100ms", "--inline-budget", "30ms"]);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(&home, "gate");
    let handle = session.call("gate", &gate.arguments())["structuredContent"]["handle"].clone();
    let safe = session.call("read_only_sleep", &json!({"ms": 1000}))["structuredContent"]["handle"].clone();
    tell(&served, "-INT");
    assert!(served.process.wait_exit().success());
    let next = Served::fixture_in(&home, &[]);
    let session = next.session(PATH, None, "2025-11-25");
    let ended = session.call("poll_result", &json!({"handle": handle}));
    assert_eq!(ended["structuredContent"]["reason"], "interrupted", "{ended}");
    let ended = session.call("poll_result", &json!({"handle": safe, "wait_ms": 25000}));
    assert_eq!(text(&ended), "slept 1000 ms", "what is safe to repeat was run again");
}

#[test]
fn a_second_signal_does_not_wait_for_jobs() {
    let home = Home::new();
    let served = Served::fixture_in(&home, &["-v", "--linger", "1h", "--inline-budget", "30ms"]);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(&home, "gate");
    let handle = session.call("gate", &gate.arguments())["structuredContent"]["handle"].clone();
    tell(&served, "-INT");
    served.process.wait_stderr("answering what is on its way");
    tell(&served, "-INT");
    assert!(served.process.wait_exit().success());
    let next = Served::fixture_in(&home, &[]);
    let session = next.session(PATH, None, "2025-11-25");
    let ended = session.call("poll_result", &json!({"handle": handle}));
    assert_eq!(ended["structuredContent"]["reason"], "interrupted", "{ended}");
}

#[test]
fn the_time_to_linger_counts_once_for_requests_and_for_jobs() {
    let home = Home::new();
    let options = ["--linger", "3s", "--inline-budget", "30ms", "--tool", "gate=inline"];
    let served = Served::fixture_in(&home, &options);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(&home, "gate");
    // The request takes all the time there is. The job would end if it were then given as much again.
    let _waiting = session.ask("w", "tools/call", &json!({"name": "gate", "arguments": gate.arguments()}));
    served.process.wait_log("start gate");
    let handle = session.call("sleep", &json!({"ms": 5500}))["structuredContent"]["handle"].clone();
    tell(&served, "-TERM");
    assert!(served.process.wait_exit().success());
    assert!(!home.log().contains("end sleep"), "{}", home.log());
    let next = Served::fixture_in(&home, &[]);
    let ended = next.session(PATH, None, "2025-11-25").call("poll_result", &json!({"handle": handle}));
    assert_eq!(ended["structuredContent"]["reason"], "interrupted", "{ended}");
}
