//! What a server asks in the middle of a call: passed to the client that waits and can answer, else put to the call's job.

use serde_json::{Value, json};

use crate::client::{CONFORMANCE, Client, FIXTURE, Hello, RAW, text};
use crate::faces::Gate;

#[test]
fn a_client_that_cannot_be_asked_gets_the_question_with_a_handle_and_its_agent_answers() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let asked = client.call("ask_elicitation", json!({}));
    assert_eq!(asked["structuredContent"]["status"], "input_required", "{asked}");
    assert!(text(&asked).contains("Which colour?") && text(&asked).contains("answer_job"), "{asked}");
    let handle = asked["structuredContent"]["handle"].clone();
    let polled = client.call("poll_result", json!({"handle": handle}));
    assert_eq!(polled["structuredContent"]["status"], "input_required", "a question ends a wait at once");
    let listed = client.call("list_jobs", json!({"status": "input_required"}));
    assert!(text(&listed).contains("waits for input"), "{listed}");
    let answer = |answers| client.call("answer_job", json!({"handle": handle, "answers": answers}));
    let wrong = answer(json!({"q1": {"colour": 7}}));
    assert!(wrong["isError"] == true && text(&wrong).contains("colour"), "{wrong}");
    let unknown = answer(json!({"q9": {"colour": "red"}}));
    assert!(text(&unknown).contains("asks q1"), "{unknown}");
    let right = answer(json!({"q1": {"colour": "red"}}));
    assert!(right["isError"] == false, "{right}");
    let result = client.call("poll_result", json!({"handle": handle}));
    assert!(text(&result).contains("red"), "{result}");
    let late = answer(json!({"q1": {"colour": "red"}}));
    assert!(text(&late).contains("asks nothing"), "{late}");
}

#[test]
fn a_job_that_asks_is_answered_by_the_client_that_can_or_by_the_agent_whoever_is_first() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    client.initialize_as(Hello { capabilities: json!({"elicitation": {}}), ..Hello::default() });
    let handle = client.call("ask_elicitation", json!({}))["structuredContent"]["handle"].clone();
    let asked = client.next_request("elicitation/create");
    client.respond(&asked["id"], json!({"action": "accept", "content": {"colour": "blue"}}));
    client.poll("the result", || {
        let polled = client.call("poll_result", json!({"handle": handle}));
        text(&polled).contains("blue").then_some(())
    });
    let handle = client.call("ask_elicitation", json!({}))["structuredContent"]["handle"].clone();
    let asked = client.next_request("elicitation/create");
    let answered = client.call("answer_job", json!({"handle": handle, "answers": {"q1": {"colour": "red"}}}));
    assert!(answered["isError"] == false, "{answered}");
    let withdrawn = client.next_notification("notifications/cancelled");
    assert_eq!(withdrawn["params"]["requestId"], asked["id"]);
    assert!(text(&client.call("poll_result", json!({"handle": handle}))).contains("red"));
}

#[test]
fn a_question_that_nobody_answers_in_time_is_declined() {
    let client = Client::wrap(&["--answer-timeout", "200ms"], &[FIXTURE]);
    client.initialize();
    let handle = client.call("ask_elicitation", json!({}))["structuredContent"]["handle"].clone();
    client.poll("the result", || {
        let polled = client.call("poll_result", json!({"handle": handle}));
        text(&polled).contains("decline").then_some(())
    });
}

#[test]
fn a_call_that_cannot_become_a_job_is_declined_its_question() {
    let client = Client::wrap(&["--mode", "inline"], &[FIXTURE]);
    client.initialize();
    assert!(text(&client.call("ask_elicitation", json!({}))).contains("decline"));
}

#[test]
fn a_client_that_cannot_be_asked_is_not_while_it_waits_for_a_prompt() {
    let client = Client::wrap(&[], &[RAW]);
    client.initialize();
    let prompt = client.request("prompts/get", json!({"name": "asks_1"})).expect("a prompt");
    assert!(prompt["description"].as_str().unwrap().contains("decline"), "{prompt}");
}

#[test]
fn another_process_may_answer() {
    let client = Client::wrap(&["--scope", "shared"], &[FIXTURE]);
    client.initialize();
    let handle = client.call("ask_elicitation", json!({}))["structuredContent"]["handle"].clone();
    let other = Client::wrap_in(client.home(), &["--scope", "shared"], &[FIXTURE], &[]);
    other.initialize();
    let answered = other.call("answer_job", json!({"handle": handle, "answers": {"q1": {"colour": "gold"}}}));
    assert!(answered["isError"] == false, "{answered}");
    assert!(text(&client.call("poll_result", json!({"handle": handle}))).contains("gold"));
}

#[test]
fn a_question_that_was_put_to_the_wrong_call_finds_the_one_that_asked() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    client.initialize();
    let [ask, end] = ["ask", "end"].map(|name| Gate::new(client.home(), name));
    let start = |tool: &str, arguments| client.call(tool, arguments)["structuredContent"]["handle"].clone();
    let asking = start("ask_elicitation", json!({"after": ask.arguments()["path"]}));
    let other = start("gate", end.arguments());
    let asks = |handle: &Value| {
        let job = client.request("tasks/get", json!({"taskId": handle})).expect("a job");
        (job["status"] == "input_required").then_some(())
    };
    // Both are at work before one of them asks: over stdio a question does not say whose it is.
    for handle in [&asking, &other] {
        client.poll("the work", || {
            let polled = client.call("poll_result", json!({"handle": handle, "wait_ms": 0}));
            text(&polled).contains("waiting").then_some(())
        });
    }
    ask.open();
    client.poll("a question of the call that was made last", || asks(&other));
    end.open();
    client.poll("the question of the call that is left", || asks(&asking));
    let result = client.call("poll_result", json!({"handle": other}));
    assert!(text(&result).contains("opened"), "{result}");
    client.call("answer_job", json!({"handle": asking, "answers": {"q1": {"colour": "red"}}}));
    let result = client.call("poll_result", json!({"handle": asking}));
    assert!(text(&result).contains("red"), "{result}");
}

#[test]
fn a_question_that_is_taken_back_in_the_same_breath_is_not_asked() {
    let client = Client::wrap(&["--mode", "handle"], &[RAW]);
    client.initialize();
    let handle = client.call("take_back", json!({}))["structuredContent"]["handle"].clone();
    client.poll("the question that stays", || {
        let polled = client.call("poll_result", json!({"handle": handle}));
        assert!(!text(&polled).contains("Never mind"), "{polled}");
        text(&polled).contains("Which one?").then_some(())
    });
    client.call("control_job", json!({"handle": handle, "action": "cancel"}));
}

/// A client that is asked in the middle of a call, and does not answer while it waits: the handle that it then gets.
fn left_open(client: &Client) -> (Value, Value) {
    client.initialize_as(Hello { capabilities: json!({"elicitation": {}}), ..Hello::default() });
    let call = client.start_call("ask_elicitation", json!({}));
    let asked = client.next_request("elicitation/create");
    let job = client.wait_response(call).expect("a handle")["structuredContent"]["handle"].clone();
    client.poll("the question of the job", || {
        let polled = client.call("poll_result", json!({"handle": job}));
        (polled["structuredContent"]["status"] == "input_required").then_some(())
    });
    (job, asked["id"].clone())
}

#[test]
fn a_question_that_outlasts_the_call_is_one_of_the_job_whoever_answers_first() {
    let client = Client::wrap(&["--inline-budget", "50ms"], &[FIXTURE]);
    let (job, asked) = left_open(&client);
    let answered = client.call("answer_job", json!({"handle": job, "answers": {"q1": {"colour": "red"}}}));
    assert!(answered["isError"] == false, "{answered}");
    assert_eq!(client.next_notification("notifications/cancelled")["params"]["requestId"], asked);
    assert!(text(&client.call("poll_result", json!({"handle": job}))).contains("red"));
    let client = Client::wrap(&["--inline-budget", "50ms"], &[FIXTURE]);
    let (job, asked) = left_open(&client);
    client.respond(&asked, json!({"action": "accept", "content": {"colour": "blue"}}));
    client.poll("the result", || {
        text(&client.call("poll_result", json!({"handle": job}))).contains("blue").then_some(())
    });
}

#[test]
fn a_question_that_outlasts_the_call_is_declined_when_its_time_is_over() {
    let client = Client::wrap(&["--inline-budget", "50ms", "--answer-timeout", "300ms"], &[FIXTURE]);
    client.initialize_as(Hello { capabilities: json!({"elicitation": {}}), ..Hello::default() });
    let job = client.call("ask_elicitation", json!({}))["structuredContent"]["handle"].clone();
    client.poll("the result", || {
        text(&client.call("poll_result", json!({"handle": job}))).contains("decline").then_some(())
    });
}

/// The job of a call of this tool whose question the client has not declared that it answers.
fn asking(client: &Client, tool: &str, hint: &str) -> Value {
    let asked = client.call(tool, json!({}));
    assert_eq!(asked["structuredContent"]["status"], "input_required", "{asked}");
    assert!(text(&asked).contains(hint), "{asked}");
    asked["structuredContent"]["handle"].clone()
}

#[test]
fn what_a_client_has_not_declared_is_its_jobs_question_and_answered_as_it_is_told_to() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let no_form = json!({"action": "accept", "content": {"text": "three"}});
    for (tool, hint, wrong, right, shown) in [
        ("ask_sampling", r#""answers":{"q1":"…"}"#, no_form.clone(), json!("three"), r#""role":"assistant""#),
        ("ask_roots", r#""answers":{"q1":["file:///…"]}"#, no_form, json!(["file:///a"]), "file:///a"),
    ] {
        let handle = asking(&client, tool, hint);
        let answer = |answer| client.call("answer_job", json!({"handle": handle, "answers": {"q1": answer}}));
        let refused = answer(wrong);
        assert!(refused["isError"] == true && text(&refused).contains("answers/q1"), "{refused}");
        let polled = client.call("poll_result", json!({"handle": handle}));
        assert_eq!(polled["structuredContent"]["status"], "input_required", "nothing is lost");
        let answered = answer(right);
        assert!(answered["isError"] == false, "{answered}");
        let result = client.call("poll_result", json!({"handle": handle}));
        assert!(text(&result).contains(shown), "{result}");
    }
}

#[test]
fn a_question_that_is_no_form_can_be_declined() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let decline = |client: &Client, handle: &Value| {
        let answers = json!({"q1": {"action": "decline"}});
        let answered = client.call("answer_job", json!({"handle": handle, "answers": answers}));
        assert!(answered["isError"] == false, "{answered}");
        client.call("poll_result", json!({"handle": handle}))
    };
    let no_message = decline(&client, &asking(&client, "ask_sampling", "says no"));
    assert!(no_message["isError"] == true && text(&no_message).contains("declined"), "{no_message}");
    let no_roots = decline(&client, &asking(&client, "ask_roots", "says no"));
    assert_eq!(text(&no_roots), r#"{"roots":[]}"#);
    // One of the modern era cannot be told so: its request is not made again.
    let client = Client::wrap(&[], &[CONFORMANCE]);
    client.initialize();
    let asks = asking(&client, "test_input_required_result_sampling", "says no");
    let failed = decline(&client, &asks);
    assert!(failed["isError"] == true && text(&failed).contains("declined"), "{failed}");
}

#[test]
fn what_a_client_has_not_declared_and_no_job_can_be_asked_is_refused() {
    let client = Client::wrap(&["--mode", "inline"], &[FIXTURE]);
    client.initialize();
    for tool in ["ask_sampling", "ask_roots"] {
        let refused = client.call(tool, json!({}));
        assert!(refused["isError"] == true && text(&refused).contains("-32601"), "{refused}");
    }
}
