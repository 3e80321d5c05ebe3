//! The common endpoint: several servers as one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::modern::{VERSION, meta};
use super::web::{Answer, Served};
use crate::client::{FIXTURE, Home, RAW, example, text, tool_names};
use crate::faces::Gate;
use crate::modern::with_tasks;

const PATH: &str = "/mcp";

/// Two servers, and one that cannot be started.
fn three(extra: &[&str]) -> Served {
    let fixture = json!({"command": example(FIXTURE)});
    let servers = json!({"one": fixture, "two": {"command": example(FIXTURE), "args": ["--collide"], "tools": {"gate": "handle"}},
        "broken": {"command": "surely-not-there"}});
    Served::start(&Home::new(), &servers, extra)
}

#[test]
fn tools_and_prompts_have_their_servers_name_and_ours_are_there_once() {
    let served = three(&[]);
    let session = served.session(PATH, None, "2025-11-25");
    assert_eq!(session.introduction["serverInfo"]["name"], "meanwhile");
    assert_eq!(session.introduction["capabilities"]["resources"]["subscribe"], true);
    let instructions = session.introduction["instructions"].as_str().expect("instructions");
    assert!(
        instructions.starts_with("one: Fixture instructions.\n\ntwo: Fixture instructions.\n\nA slow tool"),
        "{instructions}"
    );
    assert_eq!(instructions.matches("A slow tool").count(), 1);
    let list = session.request("tools/list", &json!({}))["result"].clone();
    let names = tool_names(&list);
    for name in ["one__echo", "two__echo", "two__poll_result", "poll_result", "list_jobs", "control_job"] {
        assert_eq!(names.iter().filter(|known| **known == name).count(), 1, "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("meanwhile_")));
    assert_eq!(text(&session.call("one__echo", &json!({"text": "a"}))), "a");
    assert_eq!(text(&session.call("two__poll_result", &json!({}))), "upstream's own poll_result");
    let prompts = session.request("prompts/list", &json!({}))["result"]["prompts"].clone();
    assert_eq!((&prompts[0]["name"], &prompts[1]["name"]), (&json!("one__greet"), &json!("two__greet")));
    let greet = session.request("prompts/get", &json!({"name": "two__greet", "arguments": {"name": "Ada"}}));
    assert!(greet["result"]["messages"].is_array(), "{greet}");
    assert_eq!(session.request("tools/call", &json!({"name": "echo"}))["error"]["code"], -32602);
    assert_eq!(session.request("x/y", &json!({}))["error"]["code"], -32601);
    assert_eq!(session.request("ping", &json!({}))["result"], json!({}));
    for what in ["tools", "prompts", "resources", "resources/templates"] {
        for cursor in ["", "from elsewhere"] {
            let refused = session.request(&format!("{what}/list"), &json!({"cursor": cursor}));
            assert_eq!(refused["error"]["code"], -32602, "{what}: {refused}");
        }
    }
}

#[test]
fn resources_go_to_who_has_them() {
    let served = three(&[]);
    let session = served.session(PATH, None, "2025-11-25");
    let read = |uri: &str| session.request("resources/read", &json!({"uri": uri}));
    assert_eq!(read("fixture://notes/x")["result"]["contents"][0]["text"], "note x");
    assert_eq!(read("other://x")["error"]["code"], -32602);
    let complete = json!({"ref": {"type": "ref/prompt", "name": "one__greet"}, "argument": {"name": "name", "value": "al"}});
    assert_eq!(
        session.request("completion/complete", &complete)["result"]["completion"]["values"],
        json!(["alpha", "alpine"])
    );
}

#[test]
fn a_job_is_seen_from_every_endpoint() {
    let served = three(&["--inline-budget", "30ms"]);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(served.process.home(), "gate");
    let handle = session.call("two__gate", &gate.arguments())["structuredContent"]["handle"].clone();
    let one = served.session("/mcp/one", None, "2025-11-25");
    assert_eq!(one.call("poll_result", &json!({"handle": handle}))["structuredContent"]["status"], "working");
    gate.open();
    assert_eq!(text(&session.call("poll_result", &json!({"handle": handle}))), "opened");
}

#[test]
fn changes_and_questions_of_any_of_them_reach_the_client() {
    let served = three(&["--mode", "inline"]);
    let session = served.session(PATH, None, "2025-11-25");
    let mut listening = session.listen();
    session.call("two__grow", &json!({}));
    assert_eq!(listening.message().expect("a change")["method"], "notifications/tools/list_changed");
    let mut calls: Vec<_> = ["one__ask_elicitation", "two__ask_elicitation"]
        .map(|tool| session.ask(tool, "tools/call", &json!({"name": tool, "arguments": {}})))
        .into();
    let questions: Vec<Value> = calls.iter_mut().map(|call| call.message().expect("a question")).collect();
    assert_ne!(questions[0]["id"], questions[1]["id"]);
    for (question, colour) in questions.iter().zip(["red", "blue"]) {
        session.respond(&question["id"], &json!({"action": "accept", "content": {"colour": colour}}));
    }
    for (call, colour) in calls.iter_mut().zip(["red", "blue"]) {
        assert!(text(&call.response()["result"]).contains(colour));
    }
}

/// A request of the modern era.
fn modern(served: &Served, method: &str, mut params: Value, name: &str) -> Answer {
    params["_meta"] = meta(VERSION);
    let mut headers = vec![("MCP-Protocol-Version", VERSION), ("Mcp-Method", method)];
    headers.extend((!name.is_empty()).then_some(("Mcp-Name", name)));
    let body = json!({"jsonrpc": "2.0", "id": "m", "method": method, "params": params});
    served.post(PATH, &headers, &body.to_string())
}

const CHANGES: [&str; 3] = [
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
];

#[test]
fn that_any_list_of_any_of_them_has_changed_is_told_to_whoever_listens() {
    let lively = json!({"command": example(RAW), "args": ["--lively"]});
    let servers = json!({"still": {"command": example(FIXTURE)}, "lively": lively});
    let served = Served::start(&Home::new(), &servers, &["--mode", "inline"]);
    let session = served.session(PATH, None, "2025-11-25");
    let mut listening = session.listen();
    session.call("lively__change", &json!({}));
    assert_eq!(CHANGES.map(|_| listening.message().expect("a change")["method"].clone()), CHANGES);
    let wanted = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true});
    let mut listening = modern(&served, "subscriptions/listen", json!({"notifications": wanted}), "");
    let acknowledged = listening.message().expect("an acknowledgement");
    assert_eq!(acknowledged["params"]["notifications"], wanted);
    let changed =
        modern(&served, "tools/call", json!({"name": "lively__change"}), "lively__change").response();
    assert!(changed["error"].is_null(), "{changed}");
    for method in CHANGES {
        let told = listening.message().expect("a change");
        assert_eq!(told["method"], method);
        assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "m");
    }
}

#[test]
fn what_none_of_them_tells_of_is_not_acknowledged() {
    let servers = json!({"one": {"command": example(RAW)}, "two": {"command": example(FIXTURE)}});
    let served = Served::start(&Home::new(), &servers, &["--mode", "inline"]);
    let wanted =
        json!({"toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": ["x:y"]});
    let mut listening = modern(&served, "subscriptions/listen", json!({"notifications": wanted}), "");
    let acknowledged = listening.message().expect("an acknowledgement");
    let expected = json!({"toolsListChanged": true, "resourceSubscriptions": ["x:y"]});
    assert_eq!(acknowledged["params"]["notifications"], expected);
    // What it says all the same is not passed on.
    modern(&served, "tools/call", json!({"name": "one__change"}), "one__change").response();
    modern(&served, "tools/call", json!({"name": "two__grow"}), "two__grow").response();
    let mut told = std::iter::from_fn(|| listening.message().map(|told| told["method"].clone()))
        .filter(|method| method != "notifications/resources/updated");
    assert_eq!([told.next(), told.next()], [(); 2].map(|()| Some(json!(CHANGES[0]))));
}

#[test]
fn jobs_are_reached_whichever_of_them_is_not_there() {
    let home = Home::new();
    let gate = Gate::new(&home, "gate");
    let servers = json!({"a": {"command": "surely-not-there"}, "b": {"command": example(FIXTURE)}});
    let served = Served::start(&home, &servers, &["--inline-budget", "30ms"]);
    let ask_at = |path: &str, method: &str, name: &str, fields: Value| {
        let mut params = json!({"_meta": meta(VERSION)});
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = with_tasks();
        params.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        let headers = [("MCP-Protocol-Version", VERSION), ("Mcp-Method", method), ("Mcp-Name", name)];
        let headers = if name.is_empty() { &headers[..2] } else { &headers[..] };
        let body = json!({"jsonrpc": "2.0", "id": "m", "method": method, "params": params});
        served.post(path, headers, &body.to_string())
    };
    let ask = |method: &str, name: &str, fields: Value| ask_at(PATH, method, name, fields);
    let mut began = ask("tools/call", "b__gate", json!({"name": "b__gate", "arguments": gate.arguments()}));
    let task = began.response()["result"]["taskId"].as_str().expect("a task").to_owned();
    for path in [PATH, "/mcp/a"] {
        let got = ask_at(path, "tasks/get", &task, json!({"taskId": task})).json();
        assert_eq!(got["result"]["status"], "working", "{got}");
    }
    let poll = json!({"name": "poll_result", "arguments": {"handle": task, "wait_ms": 0}});
    let polled = ask("tools/call", "poll_result", poll).response();
    assert_eq!(polled["result"]["structuredContent"]["status"], "working", "{polled}");
    for malformed in [json!({}), json!({"notifications": 5}), json!({"notifications": {"taskIds": [5]}})] {
        assert_eq!(ask("subscriptions/listen", "", malformed).json()["error"]["code"], -32602);
    }
    let mut listening = ask("subscriptions/listen", "", json!({"notifications": {"taskIds": [task]}}));
    let acknowledged = listening.message().expect("an acknowledgement");
    assert_eq!(acknowledged["params"]["notifications"]["taskIds"], json!([task]), "{acknowledged}");
    gate.open();
    let told =
        std::iter::from_fn(|| listening.message()).find(|told| told["params"]["status"] == "completed");
    assert!(told.is_some());
}

#[test]
fn one_that_hangs_is_waited_for_once_and_taken_in_when_it_comes() {
    let home = Home::new();
    let (gate, raw) = (home.path("gate"), example(RAW));
    // It does not outlive the test's folder.
    let waits = format!(
        "until [ -e '{}' ]; do [ -d '{}' ] || exit; sleep 0.05; done",
        gate.display(),
        home.path("").display()
    );
    let script = format!("{waits}; exec '{raw}'");
    let servers =
        json!({"good": {"command": example(RAW)}, "hangs": {"command": "sh", "args": ["-c", script]}});
    let served = Served::start(&home, &servers, &[]);
    let tools = |list: &Value| tool_names(&list["result"]).contains(&"good__any");
    assert!(tools(&modern(&served, "tools/list", json!({}), "").json()));
    let began = Instant::now();
    for method in ["tools/list", "server/discover", "prompts/list", "tools/list"] {
        let answer = modern(&served, method, json!({}), "").json();
        assert!(!answer["result"].is_null() && (method != "tools/list" || tools(&answer)), "{answer}");
    }
    let wanted = json!({"toolsListChanged": true});
    let mut modern_hears = modern(&served, "subscriptions/listen", json!({"notifications": wanted}), "");
    assert_eq!(modern_hears.message().expect("an acknowledgement")["params"]["notifications"], wanted);
    // Nor does another client wait for it.
    let session = served.session(PATH, None, "2025-11-25");
    assert!(tools(&session.request("tools/list", &json!({}))));
    assert!(began.elapsed() < Duration::from_secs(10), "it was waited for again: {:?}", began.elapsed());
    let mut legacy_hears = session.listen();
    std::fs::write(gate, "").expect("a file");
    for listening in [&mut modern_hears, &mut legacy_hears] {
        assert_eq!(listening.message().expect("news")["method"], CHANGES[0]);
    }
    let has_it = |list: &Value| tool_names(&list["result"]).contains(&"hangs__any");
    assert!(has_it(&modern(&served, "tools/list", json!({}), "").json()));
    assert!(has_it(&session.request("tools/list", &json!({}))));
}

#[test]
fn a_server_that_comes_up_late_is_there_in_sessions_that_began_without_it() {
    let home = Home::new();
    let later = home.path("later");
    let servers = json!({"one": {"command": example(FIXTURE)}, "later": {"command": later}});
    let served = Served::start(&home, &servers, &[]);
    let session = served.session(PATH, None, "2025-11-25");
    let is_there =
        || tool_names(&session.request("tools/list", &json!({}))["result"]).contains(&"later__echo");
    assert!(!is_there());
    let refused = session.request("logging/setLevel", &json!({"level": "loud"}));
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    session.request("logging/setLevel", &json!({"level": "error"}));
    session.request("logging/setLevel", &json!({"level": "debug"}));
    served.process.wait_log_count("set level debug", 1);
    let mut listening = session.listen();
    std::os::unix::fs::symlink(example(FIXTURE), &later).expect("a link");
    // After a failure it is left alone for a while.
    served.process.poll("the tools of the server", || is_there().then_some(()));
    assert_eq!(listening.message().expect("news")["method"], CHANGES[0]);
    assert_eq!(text(&session.call("later__echo", &json!({"text": "here"}))), "here");
    // What the client has said before holds for it as well.
    served.process.wait_log_count("set level debug", 2);
    assert_eq!(served.process.home().log().matches("set level error").count(), 1);
}

#[test]
fn it_speaks_both_eras_and_is_listened_to_as_one() {
    let served = three(&["--server-idle", "100ms", "-v"]);
    let ask = |method: &str, params: Value, name: &str| modern(&served, method, params, name);
    let found = ask("server/discover", json!({}), "").json()["result"].clone();
    assert_eq!((&found["supportedVersions"], &found["resultType"]), (&json!([VERSION]), &json!("complete")));
    let list = ask("tools/list", json!({}), "").json()["result"].clone();
    assert!(tool_names(&list).contains(&"two__echo") && list["ttlMs"].is_u64(), "{list}");
    let mut listening = ask("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}), "");
    let first = listening.message().expect("an acknowledgement");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({"toolsListChanged": true}));
    let grown = ask("tools/call", json!({"name": "two__grow", "arguments": {}}), "two__grow").response();
    assert!(grown["error"].is_null(), "{grown}");
    let second = listening.message().expect("a change");
    assert_eq!(second["method"], "notifications/tools/list_changed");
    assert_eq!(second["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "m");
    drop(listening);
    // Left alone they end, and are there again when they are asked.
    served.process.wait_stderr("a server that nobody asks anything is ended server=\"one\"");
    // What is called by its place in a message has its name in the log.
    let broken = served.process.wait_stderr("cannot start the MCP server `surely-not-there`");
    assert!(broken.contains("server=\"broken\""), "{broken}");
    let again =
        ask("tools/call", json!({"name": "one__echo", "arguments": {"text": "a"}}), "one__echo").response();
    assert_eq!(text(&again["result"]), "a");
}
