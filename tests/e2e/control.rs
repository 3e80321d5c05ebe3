//! Cancelling, pausing and queueing, and what reaches the upstream of it.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, text};
use crate::faces::{Gate, handle, impatient, poll};

fn control(client: &Client, handle: &str, action: &str) -> Value {
    client.call("control_job", json!({"handle": handle, "action": action}))
}

#[test]
fn cancelling_a_job_reaches_the_upstream() {
    let client = impatient(&[]);
    let handle = handle(&client.call("sleep", json!({"ms": 3_600_000})));
    let answer = control(&client, &handle, "cancel");
    assert_eq!(answer["structuredContent"]["status"], "cancelled", "{answer}");
    client.wait_log("cancelled sleep");
    let polled = poll(&client, &handle);
    assert_eq!(
        (&polled["isError"], &polled["structuredContent"]["status"]),
        (&json!(true), &json!("cancelled"))
    );
    let again = control(&client, &handle, "cancel");
    assert!(text(&again).contains("already ended: cancelled"), "{again}");
}

#[test]
fn a_clients_own_cancellation_reaches_the_upstream_and_is_not_answered() {
    let client = Client::wrap(&["--inline-budget", "1h"], &[FIXTURE]);
    client.initialize();
    let id = client.start_call("sleep", json!({"ms": 3_600_000}));
    client.wait_log("start sleep");
    client.cancel(id);
    client.wait_log("cancelled sleep");
    client.call("echo", json!({"text": "the session goes on"}));
    assert!(client.untaken_responses().is_empty(), "{:?}", client.untaken_responses());
}

#[test]
fn a_cancelled_poll_stops_waiting_and_leaves_the_job_alone() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let id = client.start_call("poll_result", json!({"handle": handle}));
    client.cancel(id);
    client.call("echo", json!({"text": "x"}));
    gate.open();
    assert_eq!(text(&poll(&client, &handle)), "opened");
    assert!(client.untaken_responses().is_empty());
}

#[test]
fn work_that_cannot_be_stopped_is_reported_as_such() {
    let client = impatient(&[]);
    let handle = handle(&client.call("stubborn", json!({"ms": 1500, "steps": 100})));
    let answer = control(&client, &handle, "cancel");
    assert!(text(&answer).contains("could not be stopped"), "{answer}");
    client.wait_log("end stubborn");
    // The late answer is an event of the job. It is written behind the answer of whatever comes next on the same wire.
    client.call("echo", json!({"text": "x"}));
    let noted = (0..5000).any(|_| {
        let polled = poll(&client, &handle);
        assert_eq!(polled["structuredContent"]["status"], "cancelled");
        text(&polled).contains("answered after it had been cancelled")
    });
    assert!(noted, "the late answer is told");
}

#[test]
fn jobs_beyond_the_limit_are_queued_in_order_and_can_be_held() {
    let client = Client::wrap(&["--mode", "handle", "--max-running", "1"], &[FIXTURE]);
    client.initialize();
    let gates: Vec<Gate> = (0..4).map(|number| Gate::new(client.home(), &format!("gate-{number}"))).collect();
    let answers: Vec<Value> = gates.iter().map(|gate| client.call("gate", gate.arguments())).collect();
    let handles: Vec<String> = answers.iter().map(handle).collect();
    assert!(
        text(&answers[3]).contains("queued") && text(&answers[3]).contains("behind 2 others"),
        "{}",
        answers[3]
    );

    let running = control(&client, &handles[0], "pause");
    assert_eq!(running["isError"], true);
    assert!(text(&running).contains("no way to pause"), "{running}");
    assert_eq!(control(&client, &handles[1], "pause")["isError"], false);
    assert!(text(&control(&client, &handles[2], "cancel")).contains("now cancelled"));
    gates[0].open();
    gates[3].open();
    assert_eq!(text(&poll(&client, &handles[3])), "opened", "the one that is held is passed");
    let held = client.call("poll_result", json!({"handle": handles[1], "wait_ms": 0}));
    assert!(text(&held).contains("paused"), "{held}");
    assert_eq!(control(&client, &handles[1], "resume")["isError"], false);
    gates[1].open();
    assert_eq!(text(&poll(&client, &handles[1])), "opened");
    assert_eq!(client.home().log().matches("start gate").count(), 3, "the cancelled one never ran");
}

#[test]
fn a_time_limit_ends_a_call_only_where_it_is_configured() {
    let client = impatient(&["--tool", "sleep=timeout=200ms"]);
    let handle = handle(&client.call("sleep", json!({"ms": 3_600_000})));
    let polled = poll(&client, &handle);
    assert_eq!(polled["structuredContent"]["reason"], "timed_out", "{polled}");
    let refused = control(&client, &handle, "cancel");
    assert_eq!(refused["isError"], true);
    assert_eq!(refused["structuredContent"]["reason"], "timed_out", "{refused}");
    client.wait_log("cancelled sleep");
}
