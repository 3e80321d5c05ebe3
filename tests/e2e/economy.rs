//! What waiting costs: clients that give up teach their limit, eager polls are slowed, budgets learn.

use serde_json::json;

use crate::client::{Client, FIXTURE, RAW, store_of, text};
use crate::faces::{Gate, handle, impatient, poll};

/// A client that waits for any call as long as it takes.
fn patient() -> Client {
    let client = Client::wrap(&["--inline-budget", "1h"], &[FIXTURE]);
    client.initialize();
    client
}

fn give_up(client: &Client, id: u64, reason: &str) {
    client.notify("notifications/cancelled", json!({"requestId": id, "reason": reason}));
}

/// A call that the client gives up as soon as it runs, as one whose time is over.
fn time_out(client: &Client, gate: &Gate) -> u64 {
    let id = client.start_call("gate", gate.arguments());
    client.wait_log("start gate");
    give_up(client, id, "McpError: MCP error -32001: Request timed out");
    id
}

#[test]
fn a_call_that_the_client_gives_up_goes_on_and_its_retry_joins_it() {
    let client = patient();
    let gate = Gate::new(client.home(), "gate");
    time_out(&client, &gate);
    let retried = client.call("gate", gate.arguments());
    assert_eq!(retried["structuredContent"]["joined"], true, "{retried}");
    let first = handle(&retried);
    gate.open();
    assert_eq!(text(&poll(&client, &first)), "opened");
    assert_eq!(client.home().log().matches("start gate").count(), 1);
    assert!(!client.home().log().contains("cancelled gate"));
    assert!(client.untaken_responses().is_empty(), "what was given up is not answered");
}

#[test]
fn a_client_that_gives_up_is_not_made_to_wait_so_long_again() {
    let client = patient();
    let gates = [Gate::new(client.home(), "one"), Gate::new(client.home(), "two")];
    time_out(&client, &gates[0]);
    let handle = handle(&client.call("gate", gates[1].arguments()));
    let id = client.start_call("poll_result", json!({"handle": handle, "wait_ms": 3_600_000}));
    assert_eq!(client.wait_response(id).unwrap()["structuredContent"]["status"], "working");
}

#[test]
fn a_call_that_the_user_stops_is_cancelled() {
    let client = patient();
    let gate = Gate::new(client.home(), "gate");
    let id = client.start_call("gate", gate.arguments());
    client.wait_log("start gate");
    give_up(&client, id, "the user pressed escape");
    client.wait_log("cancelled gate");
    assert_eq!(client.call("list_jobs", json!({}))["structuredContent"]["jobs"], json!([]));
}

#[test]
fn a_job_without_a_sign_of_life_is_answered_with_advice_until_it_shows_one() {
    let client = Client::wrap(&["--inline-budget", "30ms"], &[RAW]);
    client.initialize();
    let handle = handle(&client.call("silent", json!({})));
    let poll = || client.call("poll_result", json!({"handle": handle, "wait_ms": 0}));
    assert!(!text(&poll()).contains("poll_no_progress"));
    let earlier = "UPDATE job SET updated_at = updated_at + ?1";
    let store = store_of(client.home());
    store.execute(earlier, [-601_000_000]).unwrap();
    let polled = poll();
    assert!(
        text(&polled).starts_with("poll_no_progress: ") && text(&polled).contains("control_job"),
        "{polled}"
    );
    let said = &polled["structuredContent"];
    assert_eq!((&said["status"], &said["no_progress"]), (&json!("working"), &json!(true)));
    store.execute(earlier, [601_000_000]).unwrap();
    assert!(!text(&poll()).contains("poll_no_progress"));
}

#[test]
fn eager_polls_are_slowed_and_still_end_the_moment_the_job_does() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let eager = json!({"handle": handle, "wait_ms": 0});
    for _ in 0..4 {
        assert_eq!(client.call("poll_result", eager.clone())["structuredContent"]["status"], "working");
    }
    let slowed = client.start_call("poll_result", eager);
    client.call("echo", json!({"text": "other work goes on"}));
    assert!(client.untaken_responses().is_empty(), "it is not answered at once any more");
    gate.open();
    assert_eq!(text(&client.wait_response(slowed).unwrap()), "opened");
}

#[test]
fn a_tool_that_is_always_slow_is_not_waited_for() {
    let client = patient();
    // The client waits for a second at the most.
    time_out(&client, &Gate::new(client.home(), "gate"));
    let sleep = |ms: u64| client.start_call("sleep", json!({"ms": ms}));
    let slow: Vec<u64> = (1200..1206).map(sleep).collect();
    let handles: Vec<String> =
        slow.into_iter().map(|id| handle(&client.wait_response(id).unwrap())).collect();
    client.call("poll_result", json!({"handles": handles, "until": "all"}));
    client.call("poll_result", json!({"handles": handles, "until": "all"}));
    // It would end in time, but what is known of the tool says that it will not.
    handle(&client.call("sleep", json!({"ms": 700})));
}

#[test]
fn a_tool_that_ends_in_time_is_waited_for_beyond_the_budget() {
    let client = Client::wrap(&["--tool", "read_only*=inline-budget=2s"], &[FIXTURE]);
    client.initialize();
    let sleep = |tool: &str, ms: u64| client.start_call(tool, json!({"ms": ms}));
    let all: Vec<u64> =
        (3000..3006).flat_map(|ms| ["sleep", "read_only_sleep"].map(|tool| sleep(tool, ms))).collect();
    for handle in all.into_iter().map(|id| handle(&client.wait_response(id).unwrap())) {
        assert!(text(&poll(&client, &handle)).starts_with("slept"));
    }
    let [learned, most, longer] =
        [sleep("sleep", 3000), sleep("read_only_sleep", 3000), sleep("sleep", 12_000)];
    assert_eq!(text(&client.wait_response(learned).unwrap()), "slept 3000 ms");
    handle(&client.wait_response(most).unwrap());
    // It takes far longer than any before.
    handle(&client.wait_response(longer).unwrap());
}

#[test]
fn a_budget_that_the_user_has_set_is_never_exceeded() {
    let client = Client::wrap(&["--inline-budget", "1s"], &[FIXTURE]);
    client.initialize();
    for ms in 1..=6 {
        assert_eq!(text(&client.call("sleep", json!({"ms": ms}))), format!("slept {ms} ms"));
    }
    handle(&client.call("sleep", json!({"ms": 3000})));
}
