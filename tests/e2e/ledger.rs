//! What the agent is told of its jobs unasked, and how a repeated call finds the job of the first.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Home, text};
use crate::faces::{Gate, handle, impatient, poll};

fn echo(client: &Client) -> Value {
    client.call("echo", json!({"text": "x"}))
}

/// The texts of an answer's content.
fn texts(answer: &Value) -> Vec<&str> {
    let content = answer["content"].as_array().expect("content");
    content.iter().filter_map(|block| block["text"].as_str()).collect()
}

/// A call under the id that its client gave it.
fn call_as(client: &Client, id: &str, gate: &Gate) -> Value {
    let params =
        json!({"name": "gate", "arguments": gate.arguments(), "_meta": {"claudecode/toolUseId": id}});
    client.request("tools/call", params).expect("an answer")
}

fn wait_for_the_end(client: &Client) {
    let ended = (0..20_000).any(|_| {
        let listed = client.call("list_jobs", json!({}));
        listed["structuredContent"]["jobs"][0]["status"] == "completed"
    });
    assert!(ended, "the job ends");
}

#[test]
fn a_job_that_ended_unasked_for_is_named_once_behind_the_next_answer() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    assert_eq!(texts(&echo(&client)), ["x"]);
    gate.open();
    wait_for_the_end(&client);
    let block =
        format!("<meanwhile-jobs>{handle} (gate) completed; get it with poll_result</meanwhile-jobs>");
    assert_eq!(texts(&echo(&client)), ["x", block.as_str()]);
    assert_eq!(texts(&echo(&client)), ["x"]);
    assert_eq!(texts(&poll(&client, &handle)), ["opened"]);
    assert_eq!(texts(&echo(&client)), ["x"]);
}

#[test]
fn a_poll_that_delivers_a_job_does_not_name_it_too() {
    let client = impatient(&[]);
    let gates = [Gate::new(client.home(), "one"), Gate::new(client.home(), "two")];
    let handles: Vec<String> =
        gates.iter().map(|gate| handle(&client.call("gate", gate.arguments()))).collect();
    gates[0].open();
    assert_eq!(texts(&poll(&client, &handles[0])), ["opened"]);
    assert_eq!(texts(&echo(&client)), ["x"], "nor any answer after it");
    gates[1].open();
    wait_for_the_end(&client);
    let polled = poll(&client, &handles[0]);
    assert!(texts(&polled)[1].contains(&handles[1]), "another one is news: {polled}");
}

#[test]
fn a_new_session_is_told_how_many_results_wait() {
    let home = Home::new();
    let start = || Client::wrap_in(&home, &["--inline-budget", "30ms"], &[FIXTURE], &[]);
    let first = start();
    let greeting = first.initialize();
    assert!(!greeting["instructions"].as_str().unwrap().contains("wait"), "{greeting}");
    let gate = Gate::new(&home, "gate");
    let handle = handle(&first.call("gate", gate.arguments()));
    gate.open();
    wait_for_the_end(&first);
    let second = start();
    let greeting = second.initialize();
    assert!(
        greeting["instructions"].as_str().unwrap().ends_with("\n1 finished job waits for you: list_jobs."),
        "{greeting}"
    );
    assert!(texts(&echo(&second))[1].contains(&handle));
    assert_eq!(texts(&echo(&second)), ["x"]);
    assert_eq!(text(&poll(&second, &handle)), "opened");
}

#[test]
fn a_call_repeated_in_another_process_joins() {
    let home = Home::new();
    let start = || {
        let client = Client::wrap_in(&home, &["--inline-budget", "30ms"], &[FIXTURE], &[]);
        client.initialize();
        client
    };
    let first = start();
    let gate = Gate::new(&home, "gate");
    let job = handle(&first.call("gate", gate.arguments()));
    let second = start();
    let again = second.call("gate", gate.arguments());
    assert_eq!((handle(&again), &again["structuredContent"]["joined"]), (job.clone(), &json!(true)));
    gate.open();
    assert_eq!(text(&poll(&second, &job)), "opened", "and is woken by the end in the other one");
    assert_eq!(home.log().matches("start gate").count(), 1);
}

#[test]
fn a_retry_under_the_same_id_gets_the_result_also_after_the_end() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let job = handle(&call_as(&client, "toolu_1", &gate));
    gate.open();
    assert_eq!(text(&poll(&client, &job)), "opened");
    assert_eq!(texts(&call_as(&client, "toolu_1", &gate)), ["opened"]);
    assert_eq!(client.home().log().matches("start gate").count(), 1, "it is not run again");
    assert_eq!(texts(&call_as(&client, "toolu_2", &gate)), ["opened"]);
    assert_eq!(client.home().log().matches("start gate").count(), 2, "another call is");
}

#[test]
fn joining_can_be_turned_off_but_a_retry_still_joins() {
    let client = impatient(&["--tool", "gate=join=no"]);
    let gate = Gate::new(client.home(), "gate");
    let first = handle(&call_as(&client, "toolu_1", &gate));
    assert_ne!(handle(&call_as(&client, "toolu_2", &gate)), first);
    assert_eq!(handle(&call_as(&client, "toolu_1", &gate)), first);
    gate.open();
    assert_eq!(text(&poll(&client, &first)), "opened");
}
