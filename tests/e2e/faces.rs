//! Which face a call gets: the answer itself while it is fast, a handle once it is slow, and what the handle leads to.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Hello, Home, text, tool_names};

/// A gateway whose calls become jobs soon, so that a test need not wait for one.
pub(crate) fn impatient(extra: &[&str]) -> Client {
    let client = Client::wrap(&[&["--inline-budget", "30ms"], extra].concat(), &[FIXTURE]);
    client.initialize();
    client
}

/// The handle in an answer, after a look at the answer itself.
pub(crate) fn handle(answer: &Value) -> String {
    let structured = &answer["structuredContent"];
    let handle = structured["handle"].as_str().unwrap_or_else(|| panic!("no handle in {answer}"));
    let letters = handle.strip_prefix("job_").expect("a handle begins with job_");
    assert!(
        letters.len() == 26 && letters.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')),
        "{handle}"
    );
    assert_eq!(structured["status"], "working");
    assert!(text(answer).contains(handle) && text(answer).contains("Never guess"), "{answer}");
    handle.to_owned()
}

/// A gate that stays shut until the test opens it: a tool call that lasts exactly as long as the test wants.
pub(crate) struct Gate(std::path::PathBuf);

impl Gate {
    pub(crate) fn new(home: &Home, name: &str) -> Gate {
        Gate(home.path(name))
    }

    pub(crate) fn arguments(&self) -> Value {
        json!({"path": self.0})
    }

    pub(crate) fn open(&self) {
        std::fs::write(&self.0, "").expect("the gate opens");
    }
}

pub(crate) fn poll(client: &Client, handle: &str) -> Value {
    client.call("poll_result", json!({"handle": handle}))
}

fn jobs_on_disk(client: &Client) -> bool {
    client.home().state_dir().join("meanwhile.db").exists()
}

#[test]
fn a_fast_call_answers_as_the_bare_server_does_and_touches_no_disk() {
    let bare = Client::bare(&[FIXTURE]);
    let wrapped = Client::wrap(&[], &[FIXTURE]);
    for client in [&bare, &wrapped] {
        client.initialize();
    }
    for (tool, arguments) in [
        ("echo", json!({"text": "é\u{1f600}\n\"x\""})),
        ("structured", json!({"n": 4})),
        ("image", json!({})),
        ("fail", json!({})),
        ("protocol_error", json!({})),
        ("big", json!({"lines": 2000})),
        ("no_such_tool", json!({})),
    ] {
        let params = json!({"name": tool, "arguments": arguments});
        assert_eq!(
            wrapped.request("tools/call", params.clone()),
            bare.request("tools/call", params),
            "{tool}"
        );
    }
    assert!(!jobs_on_disk(&wrapped), "a fast call is never written down");
}

#[test]
fn a_slow_call_becomes_a_job_and_its_poll_is_answered_with_the_tools_own_answer() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let pending = client.call("poll_result", json!({"handle": handle, "wait_ms": 0}));
    assert_eq!(pending["structuredContent"]["status"], "working");
    assert!(pending["structuredContent"]["poll_after_ms"].as_u64().is_some_and(|wait| wait >= 1000));
    gate.open();
    let bare = Client::bare(&[FIXTURE]);
    bare.initialize();
    assert_eq!(poll(&client, &handle), bare.call("gate", gate.arguments()));
    assert_eq!(
        poll(&client, &handle),
        bare.call("gate", gate.arguments()),
        "a collected result can be read again"
    );
    let log = client.home().log();
    assert_eq!(log.matches("start gate").count(), 1, "the hand-off does not start it again");
}

#[test]
fn a_poll_ends_the_moment_the_job_does() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let id = client.start_call("poll_result", json!({"handle": handle, "wait_ms": 25000}));
    client.call("echo", json!({"text": "other work goes on"}));
    gate.open();
    assert_eq!(text(&client.wait_response(id).unwrap()), "opened");
}

#[test]
fn several_handles_are_waited_for_until_any_or_all_have_ended() {
    let client = impatient(&[]);
    let gates = [Gate::new(client.home(), "one"), Gate::new(client.home(), "two")];
    let handles: Vec<String> =
        gates.iter().map(|gate| handle(&client.call("gate", gate.arguments()))).collect();
    gates[1].open();
    let any = client.call("poll_result", json!({"handles": handles, "until": "any"}));
    let jobs = &any["structuredContent"]["jobs"];
    assert_eq!((&jobs[0]["status"], &jobs[1]["status"]), (&json!("working"), &json!("completed")));
    let id = client
        .start_call("poll_result", json!({"handles": [&handles[0], "job_x", &handles[1]], "until": "all"}));
    gates[0].open();
    let all = client.wait_response(id).unwrap();
    let statuses: Vec<&Value> =
        (0..3).map(|index| &all["structuredContent"]["jobs"][index]["status"]).collect();
    assert_eq!(statuses, ["completed", "not_found", "completed"]);
    let opened = all["content"].as_array().unwrap().iter().filter(|block| block["text"] == "opened").count();
    assert_eq!(opened, 2, "{all}");
}

#[test]
fn in_handle_mode_the_job_is_committed_before_the_upstream_is_called() {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    client.initialize();
    let handle = handle(&client.call("echo", json!({"text": "hello"})));
    assert!(jobs_on_disk(&client));
    assert_eq!(text(&poll(&client, &handle)), "hello");
}

#[test]
fn a_rule_gives_the_tools_of_a_name_their_own_face() {
    let client = impatient(&["--tool", "ech*=handle", "--tool", "sleep=inline"]);
    handle(&client.call("echo", json!({"text": "x"})));
    assert_eq!(text(&client.call("sleep", json!({"ms": 200}))), "slept 200 ms");
    let list = client.request("tools/list", json!({})).unwrap();
    let described = |tool: &str| {
        let tools = list["tools"].as_array().unwrap();
        tools.iter().find(|shown| shown["name"] == tool).unwrap()["description"].as_str().unwrap().to_owned()
    };
    assert!(described("echo").contains("returns a handle at once"));
    assert!(described("gate").contains("If this is slow"));
    assert!(!described("sleep").contains("handle"));
}

#[test]
fn tools_are_shown_as_they_are_and_ours_are_added() {
    let bare = Client::bare(&[FIXTURE]);
    let client = Client::wrap(&[], &[FIXTURE]);
    let (theirs, ours) = (bare.initialize(), client.initialize());
    assert!(ours["instructions"].as_str().unwrap().starts_with("Fixture instructions.\n\n"));
    let mut capabilities = theirs["capabilities"].clone();
    capabilities["tasks"] = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
    assert_eq!((&ours["capabilities"], &ours["serverInfo"]), (&capabilities, &theirs["serverInfo"]));
    let theirs = bare.request("tools/list", json!({})).unwrap();
    let ours = client.request("tools/list", json!({})).unwrap();
    let expected = theirs["tools"].as_array().unwrap();
    let shown = ours["tools"].as_array().unwrap();
    assert_eq!(shown.len(), expected.len() + 5);
    for (shown, expected) in shown.iter().zip(expected) {
        let mut expected = expected.clone();
        let description = shown["description"].as_str().unwrap();
        assert!(description.starts_with(expected["description"].as_str().unwrap()));
        expected["description"] = json!(description);
        expected["execution"] = json!({"taskSupport": "optional"});
        // A handle is not what it promises.
        expected.as_object_mut().unwrap().remove("outputSchema");
        assert_eq!(*shown, expected);
    }
    assert_eq!(
        tool_names(&ours)[expected.len()..],
        ["poll_result", "list_jobs", "control_job", "read_result", "answer_job"]
    );
}

#[test]
fn equal_calls_at_once_both_run_and_the_second_job_says_so() {
    let client = Client::wrap(&["--inline-budget", "300ms"], &[FIXTURE]);
    client.initialize();
    let gate = Gate::new(client.home(), "gate");
    let calls = [(); 2].map(|()| client.start_call("gate", gate.arguments()));
    let answers = calls.map(|call| client.wait_response(call).unwrap());
    let handles = [handle(&answers[0]), handle(&answers[1])];
    let beside = answers.iter().map(|answer| answer["structuredContent"]["same_call_as"].as_str());
    let beside: Vec<Option<&str>> = beside.collect();
    assert!(
        beside == [None, Some(handles[0].as_str())] || beside == [Some(handles[1].as_str()), None],
        "{answers:?}"
    );
    let again = client.call("gate", gate.arguments());
    assert_eq!(again["structuredContent"]["joined"], true, "a later one joins: {again}");
    gate.open();
    for handle in handles {
        assert_eq!(text(&poll(&client, &handle)), "opened");
    }
}

#[test]
fn our_names_give_way_to_an_upstream_that_has_them() {
    let client = Client::wrap(&["--tool", "gate=handle"], &[FIXTURE, "--collide"]);
    client.initialize();
    assert_eq!(text(&client.call("poll_result", json!({}))), "upstream's own poll_result");
    let gate = Gate::new(client.home(), "gate");
    let answer = client.call("gate", gate.arguments());
    assert!(text(&answer).contains("meanwhile_poll_result"), "{answer}");
    gate.open();
    let polled = client.call("meanwhile_poll_result", json!({"handle": handle(&answer)}));
    assert_eq!(text(&polled), "opened");
}

#[test]
fn progress_is_forwarded_while_the_client_waits_and_shown_in_polls_afterwards() {
    let client = Client::wrap(&["--inline-budget", "1h"], &[FIXTURE]);
    client.initialize();
    let bare = Client::bare(&[FIXTURE]);
    bare.initialize();
    let reports = |client: &Client| {
        let id = client.start_call("sleep", json!({"ms": 20, "steps": 2}));
        client.wait_response(id).unwrap();
        let mut reports = client.take_notifications("notifications/progress");
        reports.iter_mut().for_each(|report| assert_eq!(report["params"]["progressToken"].take(), json!(id)));
        reports
    };
    assert_eq!(reports(&client), reports(&bare));

    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    client.take_notifications("notifications/progress");
    let pending = client.call("poll_result", json!({"handle": handle, "wait_ms": 0}));
    assert_eq!(pending["structuredContent"]["progress"]["message"], "waiting", "{pending}");
    gate.open();
    poll(&client, &handle);
}

#[test]
fn wrong_arguments_start_nothing_and_the_field_is_named() {
    let client = Client::wrap(&["--mode", "handle", "--max-arguments", "1KiB"], &[FIXTURE]);
    client.initialize();
    for (tool, arguments, named) in [
        ("echo", json!({"text": 7}), "`text`"),
        ("echo", json!({}), "\"text\" is a required property"),
        ("sleep", json!({"ms": "long"}), "`ms`"),
        ("echo", json!({"text": "x".repeat(2000)}), "--max-arguments"),
        ("poll_result", json!({}), "give `handle`, or else `handles`"),
        ("poll_result", json!({"handle": 7}), "`handle`: 7 is not of type"),
        ("poll_result", json!({"handles": []}), "`handles`"),
        ("poll_result", json!({"handle": "job_x", "wait_ms": "long"}), "`wait_ms`"),
        ("poll_result", json!({"handle": "job_x", "wait": 5}), "'wait' was unexpected"),
        ("control_job", json!({"handle": "job_x", "action": "stop"}), "`action`"),
        ("read_result", json!({"lines": "1-2"}), "\"handle\" is a required property"),
        ("list_jobs", json!({"status": "lost"}), "`status`"),
    ] {
        let answer = client.call(tool, arguments);
        assert_eq!(answer["isError"], true, "{answer}");
        assert!(text(&answer).contains(named), "{tool}: {answer}");
    }
    assert!(!client.home().log().contains("start"), "{}", client.home().log());
    assert_eq!(client.call("list_jobs", json!({}))["structuredContent"], json!({"jobs": []}));
}

#[test]
fn an_unknown_handle_is_not_found_and_another_scopes_job_is_unknown() {
    let home = Home::new();
    let gate = Gate::new(&home, "gate");
    let start = |scope: &str| {
        let client = Client::wrap_in(&home, &["--inline-budget", "30ms", "--scope", scope], &[FIXTURE], &[]);
        client.initialize();
        client
    };
    let (mine, other) = (start("mine"), start("other"));
    let handle = handle(&mine.call("gate", gate.arguments()));
    for unknown in [&handle, "job_aaaaaaaaaaaaaaaaaaaaaaaaaa", "render-7", ""] {
        let answer = other.call("poll_result", json!({"handle": unknown}));
        assert_eq!(
            (&answer["isError"], &answer["structuredContent"]["status"]),
            (&json!(true), &json!("not_found"))
        );
    }
    for (tool, arguments) in [
        ("control_job", json!({"handle": handle, "action": "cancel"})),
        ("read_result", json!({"handle": handle})),
    ] {
        assert_eq!(other.call(tool, arguments)["structuredContent"]["status"], "not_found");
    }
    assert_eq!(other.call("list_jobs", json!({}))["structuredContent"]["jobs"], json!([]));
    assert_eq!(mine.call("list_jobs", json!({}))["structuredContent"]["jobs"][0]["handle"], json!(handle));
    gate.open();
    assert_eq!(text(&poll(&mine, &handle)), "opened");
}

#[test]
fn the_same_call_repeated_while_it_runs_gets_the_same_handle() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let first = handle(&client.call("gate", gate.arguments()));
    let again = client.call("gate", gate.arguments());
    assert_eq!((handle(&again), &again["structuredContent"]["joined"]), (first.clone(), &json!(true)));
    gate.open();
    poll(&client, &first);
    assert_eq!(client.home().log().matches("start gate").count(), 1);
}

#[test]
fn a_result_outlives_the_session_that_asked_for_it() {
    let home = Home::new();
    let session = || {
        let client = Client::wrap_in(&home, &["--mode", "handle"], &[FIXTURE], &[]);
        client.initialize_as(Hello::default());
        client
    };
    let first = session();
    let handle = handle(&first.call("echo", json!({"text": "kept"})));
    first.close_stdin();
    assert!(first.wait_exit().success(), "the job is finished before the gateway exits");
    let second = session();
    assert_eq!(second.call("list_jobs", json!({}))["structuredContent"]["jobs"][0]["fetched"], json!(false));
    assert_eq!(text(&poll(&second, &handle)), "kept");
}
