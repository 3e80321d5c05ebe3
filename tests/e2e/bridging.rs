//! Servers with native tasks, of either dialect, behind a client that knows no tasks.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::client::{CONFORMANCE, Client, Hello, Home, LEGACY_TASKS, text};
use crate::modern::with_tasks;
use crate::remote::{Asked, Server, json_answer, scripted, wrap};

const EXTENSION: &[&str] = &[CONFORMANCE, "--tasks", "extension"];

fn ready(options: &[&str], upstream: &[&str]) -> Client {
    let client = Client::wrap(options, upstream);
    client.initialize();
    client.request("tools/list", json!({})).expect("the tools are listed");
    client
}

/// Answers what a job asks, and returns its result.
fn answered(client: &Client, asked: &Value, answers: &Value) -> Value {
    assert_eq!(asked["structuredContent"]["status"], "input_required", "{asked}");
    let handle = &asked["structuredContent"]["handle"];
    let taken = client.call("answer_job", json!({"handle": handle, "answers": answers}));
    assert_eq!(taken["isError"], false, "{taken}");
    client.call("poll_result", json!({"handle": handle, "wait_ms": 10_000}))
}

#[test]
fn a_legacy_task_asks_and_is_answered_through_its_job() {
    let client = ready(&[], &[LEGACY_TASKS]);
    let asked = client.call("confirm", json!({"what": "the roof"}));
    assert!(text(&asked).contains("Go on with the roof?"), "{asked}");
    let result = answered(&client, &asked, &json!({"q1": {"sure": true}}));
    assert!(text(&result).starts_with("the roof: ") && text(&result).contains("true"), "{result}");
    assert_eq!(result["_meta"].get("io.modelcontextprotocol/related-task"), None);
    let log = client.home().log();
    assert!(log.contains("tasks/result") && log.contains(r#""ttl":86400000"#), "{log}");
}

#[test]
fn how_a_legacy_task_ends_is_how_its_call_ends() {
    let client = ready(&[], &[LEGACY_TASKS]);
    assert_eq!(text(&client.call("slow", json!({"ms": 40}))), "it took 40 ms");
    assert!(!client.take_notifications("notifications/progress").is_empty(), "its call's token still holds");
    let failed = client.call("fail", json!({}));
    assert_eq!((&failed["isError"], text(&failed)), (&json!(true), "it failed"));
    let error = client.request("tools/call", json!({"name": "break"})).unwrap_err();
    assert_eq!(error["code"], -32050);
    assert_eq!(text(&client.call("plain", json!({}))), "done");
    assert_eq!(
        client.home().log().matches(r#""task":{"#).count(),
        3,
        "a tool that is no task is called as ever"
    );
}

#[test]
fn a_server_that_has_tasks_is_driven_as_one_in_an_older_revision_as_well() {
    let client = Client::wrap(&[], &[LEGACY_TASKS]);
    let hello = client.initialize_as(Hello { version: "2025-06-18".into(), ..Hello::default() });
    assert!(
        hello["protocolVersion"] == "2025-06-18" && hello["capabilities"].get("tasks").is_none(),
        "{hello}"
    );
    client.request("tools/list", json!({})).expect("the tools are listed");
    assert_eq!(text(&client.call("slow", json!({"ms": 40}))), "it took 40 ms");
    assert!(client.home().log().contains(r#""task":{"#), "{}", client.home().log());
}

#[test]
fn an_extension_task_asks_and_is_answered_through_its_job() {
    let client = ready(&[], EXTENSION);
    let asked = client.call("confirm_delete", json!({"filename": "a.txt"}));
    assert!(text(&asked).contains("Delete a.txt?"), "{asked}");
    let result = answered(&client, &asked, &json!({"q1": {"confirm": true}}));
    assert_eq!(text(&result), "a.txt: confirmed = true");
    assert_eq!(result.get("resultType"), None);
}

#[test]
fn how_an_extension_task_ends_is_how_its_call_ends() {
    let client = ready(&["--inline-budget", "20s"], EXTENSION);
    assert_eq!(
        text(&client.call("slow_compute", json!({"seconds": 0.1, "label": "x"}))),
        "x took 0.1 seconds"
    );
    assert_eq!(client.call("failing_job", json!({}))["isError"], true);
    let error = client.request("tools/call", json!({"name": "protocol_error_job"})).unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("the job broke"), "{error}");
}

#[test]
fn a_task_is_cancelled_with_its_job_in_either_dialect() {
    for (upstream, tool, arguments) in [
        (&[LEGACY_TASKS][..], "slow", json!({"ms": 3_600_000})),
        (EXTENSION, "slow_compute", json!({"seconds": 3600, "label": "x"})),
    ] {
        let client = ready(&["--mode", "handle"], upstream);
        let handle = client.call(tool, arguments)["structuredContent"]["handle"].clone();
        client.wait_log("task");
        let _ = client.call("poll_result", json!({"handle": handle, "wait_ms": 300}));
        let cancelled = client.call("control_job", json!({"handle": handle, "action": "cancel"}));
        assert_eq!(cancelled["structuredContent"]["status"], "cancelled", "{cancelled}");
        assert!(text(&cancelled).contains("confirmed"), "{cancelled}");
    }
}

#[test]
fn a_task_of_a_server_elsewhere_is_found_again_after_a_crash_of_ours() {
    for (name, options, tool, arguments, done) in [
        (LEGACY_TASKS, &[][..], "slow", json!({"ms": 1500}), "it took 1500 ms"),
        (
            CONFORMANCE,
            &["--tasks", "extension"][..],
            "slow_compute",
            json!({"seconds": 1.5, "label": "x"}),
            "x took 1.5 seconds",
        ),
    ] {
        let home = Home::new();
        let server = Server::start(name, options);
        let wrap = || {
            let meanwhile = crate::client::meanwhile();
            let args = ["wrap", "--mode", "handle", "--name", "far", "--no-linger", "--lease", "1s", "--url"];
            let client = Client::spawn_in(
                &home,
                &[&[meanwhile], &args[..], &[server.url.as_str()]].concat(),
                &[("MEANWHILE_LOG", "info")],
            );
            client.initialize();
            client.request("tools/list", json!({})).expect("the tools are listed");
            client
        };
        let first = wrap();
        let handle = first.call(tool, arguments)["structuredContent"]["handle"].clone();
        first.wait_stderr("attached");
        first.kill();
        first.wait_exit();
        let second = wrap();
        let result = second.call("poll_result", json!({"handle": handle, "wait_ms": 15_000}));
        assert_eq!(text(&result), done, "{result}");
    }
}

/// What a server elsewhere answers whose only tool is always a task, of which it says these things as well.
fn task_of_another(asked: &Asked, is_done: bool, more: &Value) -> (u16, String, String) {
    let with = |more: Value| {
        let mut task = json!({"taskId": "t", "createdAt": "2026-07-28T00:00:00Z", "ttlMs": null,
            "lastUpdatedAt": "2026-07-28T00:00:00Z", "pollIntervalMs": 20, "status": "working"});
        let fields = task.as_object_mut().expect("it is an object");
        fields.extend(more.as_object().expect("it is an object").clone());
        json_answer(asked, task)
    };
    match asked.body["method"].as_str() {
        Some("server/discover") => json_answer(
            asked,
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "serverInfo": {"name": "s", "version": "1"},
                "capabilities": {"tools": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}}, "ttlMs": 0, "cacheScope": "private"}),
        ),
        Some("tools/call") => with(more.clone()),
        Some("tasks/get") if !is_done => with(json!({"resultType": "complete"})),
        Some("tasks/get") => with(json!({"resultType": "complete", "status": "completed",
            "result": {"resultType": "complete", "content": [{"type": "text", "text": "done"}]}})),
        Some("subscriptions/listen") => {
            let told = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
                "notifications": {"taskIds": ["t"]}, "_meta": {"io.modelcontextprotocol/subscriptionId": asked.body["id"]}}});
            (200, "content-type: text/event-stream\r\n".to_owned(), format!("data: {told}\n\n"))
        }
        _ => json_answer(
            asked,
            json!({"resultType": "complete", "tools": [{"name": "x", "inputSchema": {"type": "object"}}], "ttlMs": 0,
                "cacheScope": "private"}),
        ),
    }
}

#[test]
fn a_task_whose_question_for_a_model_is_declined_is_stopped_for_it_cannot_be_told_so() {
    let stopped = AtomicU32::new(0);
    let (url, seen) = scripted(move |asked, _| {
        let method = asked.body["method"].as_str().unwrap_or_default();
        stopped.fetch_add(u32::from(method == "tasks/cancel"), Ordering::SeqCst);
        let (status, requests) = match stopped.load(Ordering::SeqCst) {
            0 => (
                "input_required",
                json!({"k": {"method": "sampling/createMessage", "params": {"messages": []}}}),
            ),
            _ => ("cancelled", json!({})),
        };
        match method {
            "tasks/get" => json_answer(
                asked,
                json!({"resultType": "complete", "taskId": "t", "createdAt": "2026-07-28T00:00:00Z", "ttlMs": null,
                    "lastUpdatedAt": "2026-07-28T00:00:00Z", "pollIntervalMs": 20, "status": status, "inputRequests": requests}),
            ),
            _ => task_of_another(asked, false, &json!({"resultType": "task"})),
        }
    });
    let client = wrap(&url, &[]);
    client.initialize();
    let failed = answered(&client, &client.call("x", json!({})), &json!({"q1": {"action": "decline"}}));
    assert!(failed["isError"] == true && text(&failed).contains("declined"), "{failed}");
    let seen = seen.lock().unwrap();
    let count = |method: &str| seen.iter().filter(|asked| asked.body["method"] == method).count();
    assert_eq!((count("tasks/cancel"), count("tasks/update")), (1, 0));
}

#[test]
fn a_subscription_to_a_task_that_breaks_off_is_made_again() {
    let subscribed = AtomicU32::new(0);
    let (url, _) = scripted(move |asked, _| {
        subscribed.fetch_add(u32::from(asked.body["method"] == "subscriptions/listen"), Ordering::SeqCst);
        task_of_another(asked, subscribed.load(Ordering::SeqCst) >= 2, &json!({"resultType": "task"}))
    });
    let client = wrap(&url, &["--mode", "handle"]);
    client.initialize();
    let handle = client.call("x", json!({}))["structuredContent"]["handle"].clone();
    let result = client.call("poll_result", json!({"handle": handle, "wait_ms": 15_000}));
    assert_eq!(text(&result), "done", "{result}");
}

#[test]
fn what_a_server_says_of_a_task_that_nobody_has_heard_of_yet_reaches_the_client() {
    let (url, _) = scripted(move |asked, _| {
        let meta = json!({"io.modelcontextprotocol/model-immediate-response": "Have a tea."});
        let source = json!({"name": "news", "since": 1.50});
        task_of_another(asked, false, &json!({"resultType": "task", "eventSource": source, "_meta": meta}))
    });
    let home = Home::new();
    let wrap = || {
        let meanwhile = crate::client::meanwhile();
        let args =
            [meanwhile, "wrap", "--inline-budget", "1s", "--no-linger", "--lease", "1s", "--url", &url];
        Client::spawn_in(&home, &args, &[("MEANWHILE_LOG", "info")])
    };
    let first = wrap();
    let plain = first.modern("tools/call", json!({"name": "x", "arguments": {"n": 1}}), &json!({})).unwrap();
    assert!(text(&plain).contains(r#"Its server says: "Have a tea.""#), "{plain}");
    let task = first.modern("tools/call", json!({"name": "x"}), &with_tasks()).unwrap();
    let says_so = |task: &Value| {
        assert_eq!(task["eventSource"], json!({"name": "news", "since": 1.5}), "{task}");
        assert!(task["_meta"]["io.modelcontextprotocol/model-immediate-response"].is_string(), "{task}");
    };
    says_so(&task);
    assert!(task["taskId"].as_str().unwrap().starts_with("job_"), "it is ours: {task}");
    let get = |client: &Client| {
        client.modern("tasks/get", json!({"taskId": task["taskId"]}), &with_tasks()).unwrap()
    };
    says_so(&get(&first));
    // Also where it is found again.
    first.kill();
    first.wait_exit();
    let second = wrap();
    says_so(&second.poll("the task", || Some(get(&second)).filter(|task| task["eventSource"].is_object())));
}
