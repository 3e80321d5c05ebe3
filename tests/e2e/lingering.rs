//! The gateway outlives the client that started it: closed, killed or crashed, the jobs are finished and kept.

use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Home, RAW, example, meanwhile, store_of, text, wait_gone};
use crate::faces::{Gate, handle, impatient, poll};

/// A job that runs, and the gate that ends it.
fn running(client: &Client) -> (String, Gate) {
    let gate = Gate::new(client.home(), "gate");
    (handle(&client.call("gate", gate.arguments())), gate)
}

/// The process id of the keeper that runs a job, as the job's log has it.
fn keeper_of(home: &Home, handle: &str) -> u32 {
    let output = Command::new(meanwhile())
        .args(["jobs", "events", handle, "--json"])
        .env("MEANWHILE_STATE_DIR", home.state_dir())
        .output()
        .expect("meanwhile runs");
    let events: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let started = events.as_array().expect("events").iter().rfind(|event| event["kind"] == "started");
    let peer = started.expect("it has started")["peer"].as_str().expect("by a peer");
    peer.split(':').next().expect("a peer begins with its process id").parse().expect("a number")
}

fn signal(name: &str, pid: u32) {
    let told = Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs");
    assert!(told.success());
}

fn next_session(home: &Home) -> Client {
    let client =
        Client::wrap_in(home, &["--inline-budget", "30ms"], &[FIXTURE], &[("MEANWHILE_LEASE", "300ms")]);
    client.initialize();
    client
}

fn finishes_after(end: impl FnOnce(&Client)) {
    let client = impatient(&[]);
    let home = client.home().clone();
    let (handle, gate) = running(&client);
    let keeper = keeper_of(&home, &handle);
    assert_ne!(keeper, client.pid(), "the client's child is only the shim");
    end(&client);
    client.wait_exit();
    let next = next_session(&home);
    gate.open();
    assert_eq!(text(&poll(&next, &handle)), "opened");
    assert_eq!(home.log().matches("start gate").count(), 1);
    wait_gone(keeper);
}

#[test]
fn a_client_that_closes_its_stdin_finds_its_jobs_finished() {
    finishes_after(Client::close_stdin);
}

#[test]
fn a_client_that_kills_what_it_started_finds_its_jobs_finished() {
    finishes_after(Client::kill);
    finishes_after(|client| signal("-TERM", client.pid()));
    finishes_after(|client| signal("-HUP", client.pid()));
}

#[test]
fn nothing_is_left_when_there_is_nothing_to_finish() {
    let client = impatient(&[]);
    let (handle, gate) = running(&client);
    let keeper = keeper_of(client.home(), &handle);
    gate.open();
    poll(&client, &handle);
    client.close_stdin();
    assert!(client.wait_exit().success());
    assert!(
        client.home().log().contains("exit"),
        "the server has ended before the client is told that we have"
    );
    wait_gone(keeper);
}

#[test]
fn lingering_is_bounded() {
    let client = impatient(&["--linger", "100ms"]);
    let home = client.home().clone();
    let (handle, _gate) = running(&client);
    client.close_stdin();
    assert!(client.wait_exit().success(), "the client is not kept waiting");
    let polled = poll(&next_session(&home), &handle);
    assert_eq!(polled["structuredContent"]["reason"], "interrupted", "{polled}");
}

#[test]
fn what_is_safe_to_repeat_is_left_to_the_next_session_when_the_time_to_linger_is_over() {
    let client = impatient(&["--linger", "100ms"]);
    let home = client.home().clone();
    let handle = handle(&client.call("read_only_sleep", json!({"ms": 1000})));
    let keeper = keeper_of(&home, &handle);
    client.close_stdin();
    client.wait_exit();
    wait_gone(keeper);
    assert_eq!(text(&poll(&next_session(&home), &handle)), "slept 1000 ms");
    assert_eq!(home.log().matches("start read_only_sleep").count(), 2);
}

#[test]
fn a_keeper_that_is_killed_leaves_its_job_interrupted_and_not_run_twice() {
    let home = Home::new();
    let first = next_session(&home);
    let (handle, gate) = running(&first);
    signal("-KILL", keeper_of(&home, &handle));
    assert_eq!(first.wait_exit().code(), Some(1), "the shim tells that its keeper has died");
    let next = next_session(&home);
    let polled = next.call("poll_result", json!({"handle": handle}));
    assert_eq!(polled["structuredContent"]["reason"], "interrupted", "{polled}");
    gate.open();
    assert_eq!(home.log().matches("start gate").count(), 1);
}

#[test]
fn a_keeper_that_is_killed_leaves_a_job_that_is_safe_to_repeat_to_the_next_session() {
    let home = Home::new();
    let first = next_session(&home);
    let handle = handle(&first.call("read_only_sleep", json!({"ms": 1000})));
    signal("-KILL", keeper_of(&home, &handle));
    first.wait_exit();
    let next = next_session(&home);
    assert_eq!(text(&poll(&next, &handle)), "slept 1000 ms");
    assert_eq!(home.log().matches("start read_only_sleep").count(), 2);
}

#[test]
fn what_another_session_left_waits_until_the_server_has_been_initialized() {
    let home = Home::new();
    let wrapped = |lease: &str, upstream: &str| {
        let args = ["--inline-budget", "30ms", "--tool", "silent=rerun=yes"];
        Client::wrap_in(&home, &args, &[upstream], &[("MEANWHILE_LEASE", lease)])
    };
    // That of the second is over long after that of the first, so once it has been settled the first has been seen.
    let (first, second) = (wrapped("100ms", RAW), wrapped("1500ms", FIXTURE));
    let orphan = json!({"orphan": 1});
    first.initialize();
    second.initialize();
    let left = handle(&first.call("silent", orphan.clone()));
    let witness = running(&second).0;
    for (client, handle) in [(&first, &left), (&second, &witness)] {
        signal("-KILL", keeper_of(&home, handle));
        client.wait_exit();
    }
    let next = wrapped("100ms", RAW);
    handle(&next.call("silent", json!({})));
    let status = "SELECT status FROM job WHERE handle = ?";
    let is_settled = || {
        let status: String = store_of(&home).query_row(status, [&witness], |row| row.get(0)).ok()?;
        (status == "failed").then_some(())
    };
    next.poll("settled witness", is_settled);
    assert_eq!(home.log().matches("orphan").count(), 1, "{}", home.log());
    next.initialize();
    next.wait_log_count("orphan", 2);
    let log = home.log();
    let initialized = log.rfind("notifications/initialized").expect("it was told");
    assert!(log.rfind("orphan").expect("it was called") > initialized, "{log}");
}

#[test]
fn a_session_that_began_before_there_was_a_store_takes_up_what_another_leaves_in_it() {
    let home = Home::new();
    let (early, first) = (next_session(&home), next_session(&home));
    let handle = handle(&first.call("read_only_sleep", json!({"ms": 1000})));
    signal("-KILL", keeper_of(&home, &handle));
    first.wait_exit();
    early.wait_log_count("start read_only_sleep", 2);
    assert_eq!(text(&poll(&early, &handle)), "slept 1000 ms");
}

#[test]
fn what_is_left_is_taken_up_by_one_of_those_who_could() {
    let home = Home::new();
    let sessions = [(); 3].map(|()| next_session(&home));
    let [first, others @ ..] = &sessions;
    // They have jobs of their own, and so look after the store.
    let gates = ["a", "b"].map(|name| Gate::new(&home, name));
    let own: Vec<String> = others
        .iter()
        .zip(&gates)
        .map(|(session, gate)| handle(&session.call("gate", gate.arguments())))
        .collect();
    let left = handle(&first.call("read_only_sleep", json!({"ms": 1000})));
    signal("-KILL", keeper_of(&home, &left));
    first.wait_exit();
    for ((session, gate), own) in others.iter().zip(&gates).zip(&own) {
        assert_eq!(text(&poll(session, &left)), "slept 1000 ms");
        gate.open();
        assert_eq!(text(&poll(session, own)), "opened");
    }
    assert_eq!(home.log().matches("start read_only_sleep").count(), 2, "{}", home.log());
}

#[test]
fn what_is_left_while_a_server_is_ended_is_left_to_a_session_that_lasts() {
    let home = Home::new();
    let session = |server: &[&str]| {
        let args = ["--inline-budget", "30ms", "--name", "one"];
        let client = Client::wrap_in(&home, &args, server, &[("MEANWHILE_LEASE", "300ms")]);
        client.initialize();
        client
    };
    let (ending, first) = (session(&["sh", "-c", "$0; sleep 2", &example(FIXTURE)]), session(&[FIXTURE]));
    let left = handle(&first.call("read_only_sleep", json!({"ms": 3000})));
    assert_eq!(text(&ending.call("echo", json!({"text": "x"}))), "x");
    ending.close_stdin();
    ending.wait_log_count("exit", 1);
    signal("-KILL", keeper_of(&home, &left));
    first.wait_exit();
    ending.wait_exit();
    assert_eq!(text(&poll(&session(&[FIXTURE]), &left)), "slept 3000 ms");
    assert_eq!(home.log().matches("start read_only_sleep").count(), 2, "{}", home.log());
}

#[test]
fn the_exit_code_of_wrong_usage_reaches_the_client() {
    let client = Client::spawn(&[meanwhile(), "wrap", "--mode", "sometimes", "--", "server"]);
    assert_eq!(client.wait_exit().code(), Some(2));
}
