//! Whoever asks for a job of somebody else is answered as if there were none, by whichever method or tool they ask.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::guard::write;
use super::modern::{VERSION, ask, meta};
use super::web::{Served, Session};
use crate::client::{Home, RAW, example};
use crate::faces::Gate;

const PATH: &str = "/mcp/fixture";
const NAMES: [&str; 3] = ["ann", "bob", "cat"];

/// What a principal may do to a job; `THAT` stands for its handle.
const REQUESTS: [(&str, &str); 19] = [
    ("legacy", r#"{"method": "tasks/get", "params": {"taskId": "THAT"}}"#),
    ("legacy", r#"{"method": "tasks/result", "params": {"taskId": "THAT"}}"#),
    ("legacy", r#"{"method": "tasks/cancel", "params": {"taskId": "THAT"}}"#),
    ("legacy", r#"{"method": "tasks/list", "params": {}}"#),
    ("modern", r#"{"method": "tasks/get", "params": {"taskId": "THAT"}}"#),
    ("modern", r#"{"method": "tasks/cancel", "params": {"taskId": "THAT"}}"#),
    (
        "modern",
        r#"{"method": "tasks/update", "params": {"taskId": "THAT", "inputResponses": {"q1": {"action": "decline"}}}}"#,
    ),
    ("modern", r#"{"method": "subscriptions/listen", "params": {"notifications": {"taskIds": ["THAT"]}}}"#),
    (
        "modern",
        r#"{"method": "tools/call", "params": {"name": "ask_elicitation", "arguments": {}, "requestState": "THAT",
            "inputResponses": {"q1": {"action": "decline"}}}}"#,
    ),
    ("tool", r#"{"name": "poll_result", "arguments": {"handle": "THAT"}}"#),
    ("tool", r#"{"name": "poll_result", "arguments": {"handles": ["THAT"], "until": "all", "wait_ms": 10}}"#),
    ("tool", r#"{"name": "control_job", "arguments": {"handle": "THAT", "action": "cancel"}}"#),
    ("tool", r#"{"name": "control_job", "arguments": {"handle": "THAT", "action": "pause"}}"#),
    ("tool", r#"{"name": "control_job", "arguments": {"handle": "THAT", "action": "resume"}}"#),
    ("tool", r#"{"name": "read_result", "arguments": {"handle": "THAT", "offset": 0}}"#),
    ("tool", r#"{"name": "read_result", "arguments": {"handle": "THAT", "grep": "."}}"#),
    (
        "tool",
        r#"{"name": "answer_job", "arguments": {"handle": "THAT", "answers": {"q1": {"action": "decline"}}}}"#,
    ),
    ("tool", r#"{"name": "list_jobs", "arguments": {}}"#),
    ("tool", r#"{"name": "list_jobs", "arguments": {"status": "input_required", "limit": 100}}"#),
];

/// Somebody with a token, in both eras at once, and their jobs: one that works, one that asks, and one that has ended.
struct Principal<'a> {
    served: &'a Served,
    session: Session<'a>,
    token: String,
    jobs: Vec<String>,
}

impl Principal<'_> {
    fn modern(&self, method: &str, mut params: Value) -> Value {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": {
                "elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}},
        });
        let mut answer =
            ask(self.served, method, &params, &[("Authorization", &format!("Bearer {}", self.token))]);
        if method == "subscriptions/listen" {
            return answer.message().expect("an acknowledgement");
        }
        json!([answer.status, answer.response()])
    }

    /// What comes of a request about this handle, with no sign of the handle itself.
    fn does(&self, (kind, request): (&str, &str), through_modern: bool, handle: &str) -> String {
        let request: Value = serde_json::from_str(&request.replace("THAT", handle)).expect("it is JSON");
        let method = request["method"].as_str().unwrap_or("tools/call");
        let params = if kind == "tool" { request.clone() } else { request["params"].clone() };
        let answer = match kind {
            "legacy" => self.session.request(method, &params),
            "tool" if !through_modern => self.session.request(method, &params),
            _ => self.modern(method, params),
        };
        answer.to_string().replace(handle, "HANDLE")
    }

    fn states(&self) -> Vec<Value> {
        let state =
            |job| self.session.request("tasks/get", &json!({"taskId": job}))["result"]["status"].clone();
        self.jobs.iter().map(state).collect()
    }
}

fn begin<'a>(served: &'a Served, home: &Home, name: &str) -> Principal<'a> {
    let token = format!("{name}-0123456789abcdef");
    let session = served.session(PATH, Some(&token), "2025-11-25");
    let gate = Gate::new(home, name);
    let start = |tool: &str, arguments: Value| {
        let params = json!({"name": tool, "arguments": arguments, "task": {}});
        let task = session.request("tools/call", &params)["result"]["task"].clone();
        task["taskId"].as_str().expect("a task").to_owned()
    };
    let jobs = vec![
        start("gate", gate.arguments()),
        start("ask_elicitation", json!({})),
        start("echo", json!({"text": name})),
    ];
    // A result that was fetched is news no more, which would come with any answer.
    session.request("tasks/result", &json!({"taskId": jobs[2]}));
    let principal = Principal { served, session, token, jobs };
    served.process.poll("the question", || (principal.states()[1] == "input_required").then_some(()));
    principal
}

#[test]
fn nothing_tells_a_job_of_somebody_else_from_one_that_never_was() {
    let home = Home::new();
    let tokens: String = NAMES.iter().map(|name| format!("{name}: {name}-0123456789abcdef\n")).collect();
    let file = write(&home.path("tokens"), &tokens, 0o600);
    let served = Served::fixture_in(&home, &["--token-file", &file]);
    let principals = NAMES.map(|name| begin(&served, &home, name));
    let before = ["working", "input_required", "completed"].map(Value::from);
    let seen = Cell::new(0);
    let step = (0..3_usize, 1..3_usize, 0..3_usize, any::<bool>(), prop::sample::select(&REQUESTS[..]));
    let steps = prop::collection::vec(step, 1..12);
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let unknown = "job_[a-z2-7]{26}";
    let outcome = TestRunner::new(config).run(&(steps, unknown), |(steps, unknown)| {
        for (who, further, job, through_modern, request) in steps {
            let (stranger, owner) = (&principals[who], &principals[(who + further) % NAMES.len()]);
            let foreign = stranger.does(request, through_modern, &owner.jobs[job]);
            // A list names nobody, and tells of one's own jobs, which grow older.
            if request.1.contains("THAT") {
                prop_assert_eq!(&foreign, &stranger.does(request, through_modern, &unknown));
            }
            for handle in owner.jobs.iter() {
                prop_assert!(!foreign.contains(handle.as_str()), "{} shows {}", foreign, handle);
            }
            seen.set(seen.get() + 1);
        }
        for principal in &principals {
            prop_assert_eq!(&principal.states()[..], &before[..]);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(seen.get() > 0);
}

#[test]
fn a_prompt_that_asks_goes_on_only_for_whom_it_was_asked() {
    let home = Home::new();
    let tokens: String = NAMES.iter().map(|name| format!("{name}: {name}-0123456789abcdef\n")).collect();
    let file = write(&home.path("tokens"), &tokens, 0o600);
    let servers = json!({"fixture": {"command": example(RAW)}});
    let served = Served::start(&home, &servers, &["--token-file", &file]);
    let get = |name: &str, round: &Value| {
        let mut params = json!({"name": "asks_1", "_meta": meta(VERSION)});
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        if round["requestState"].is_string() {
            params["requestState"] = round["requestState"].clone();
            params["inputResponses"] = json!({"q1": {"action": "accept", "content": {"who": name}}});
        }
        let authorization = format!("Bearer {name}-0123456789abcdef");
        ask(&served, "prompts/get", &params, &[("Authorization", &authorization)]).json()
    };
    let [anns, bobs] = ["ann", "bob"].map(|name| get(name, &Value::Null)["result"].clone());
    assert_eq!(
        (&anns["resultType"], &bobs["resultType"]),
        (&json!("input_required"), &json!("input_required"))
    );
    let unknown = json!({"requestState": "MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U"});
    assert_eq!(get("bob", &anns), get("bob", &unknown), "as if it did not exist");
    for (name, round) in [("bob", &bobs), ("ann", &anns)] {
        let prompt = get(name, round);
        assert!(prompt["result"]["description"].as_str().expect("a prompt").contains(name), "{prompt}");
    }
}
