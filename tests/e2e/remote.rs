//! Servers over HTTP, of both eras, behind a client on stdio.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::client::{CONFORMANCE, Client, example, meanwhile, text};

/// A fixture over HTTP.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(name: &str, options: &[&str]) -> Server {
        let mut child = Command::new(example(name))
            .args(["--transport", "http"])
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the fixture starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut lines = stderr.lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
        thread::spawn(move || lines.for_each(drop));
        Server { child, url: url.expect("it says where it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wrap(url: &str, extra: &[&str]) -> Client {
    let meanwhile = crate::client::meanwhile();
    Client::spawn(&[&[meanwhile, "wrap", "--url", url], extra].concat())
}

#[test]
fn a_server_over_http_is_wrapped_like_a_process() {
    let server = Server::start(CONFORMANCE, &[]);
    let client = wrap(&server.url, &[]);
    let hello = client.initialize();
    assert!(hello["serverInfo"]["name"].is_string(), "{hello}");
    let list = client.request("tools/list", json!({})).expect("as the test has it");
    assert!(crate::client::tool_names(&list).contains(&"test_custom_header"));
    assert!(!text(&client.call("test_simple_text", json!({}))).is_empty());
    let id = client.start_call("test_tool_with_progress", json!({}));
    client.wait_response(id).expect("as the test has it");
    assert_eq!(client.take_notifications("notifications/progress").len(), 3);
    client.close_stdin();
    assert!(client.wait_exit().success());
}

#[test]
fn a_question_of_a_modern_server_over_http_is_answered() {
    let server = Server::start(CONFORMANCE, &[]);
    let client = wrap(&server.url, &[]);
    let capabilities = json!({"elicitation": {}});
    client.initialize_as(crate::client::Hello { capabilities, ..Default::default() });
    let id = client.start_call("test_input_required_result_elicitation", json!({}));
    let asked = client.next_request("elicitation/create");
    client.respond(&asked["id"], json!({"action": "accept", "content": {"name": "Ada"}}));
    let answer = client.wait_response(id).expect("as the test has it");
    assert!(text(&answer).contains("Ada"), "{answer}");
}

#[test]
fn a_server_that_is_not_there_says_so() {
    let free = TcpListener::bind("127.0.0.1:0").expect("as the test has it");
    let url = format!("http://{}/mcp", free.local_addr().expect("as the test has it"));
    drop(free);
    let client = wrap(&url, &[]);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e2e", "version": "1"}});
    let error = client.request("initialize", params).expect_err("as the test has it");
    let why = error["message"].as_str().expect("as the test has it");
    assert_eq!(why.matches("cannot be reached").count(), 1, "{error}");
}

/// One request as a scripted server sees it.
pub(crate) struct Asked {
    pub(crate) method: String,
    headers: String,
    /// Null, if it is no JSON.
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Asked {
    /// The path and the query.
    pub(crate) fn path(&self) -> &str {
        self.headers.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .headers
            .lines()
            .find(|line| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name)))?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// A server that answers as it is told: the status, more headers, and the body. A connection is closed after each answer.
pub(crate) fn scripted(
    answer: impl Fn(&Asked, usize) -> (u16, String, String) + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
    let (answer, seen) = (Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
    let asked = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, asked) = (answer.clone(), asked.clone());
            thread::spawn(move || serve(stream, &*answer, &asked));
        }
    });
    (url, seen)
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&Asked, usize) -> (u16, String, String),
    seen: &Mutex<Vec<Asked>>,
) {
    let mut reader = BufReader::new(stream);
    let mut headers = String::new();
    while reader.read_line(&mut headers).is_ok_and(|bytes| bytes > 2) {}
    let method = headers.split(' ').next().unwrap_or_default().to_owned();
    let mut asked = Asked { method, headers, body: Value::Null, text: String::new() };
    let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    asked.body = serde_json::from_slice(&body).unwrap_or_default();
    asked.text = String::from_utf8(body).unwrap_or_default();
    let before = seen
        .lock()
        .expect("as the test has it")
        .iter()
        .filter(|earlier| earlier.method == asked.method && earlier.body["method"] == asked.body["method"])
        .count();
    let (status, more, body) = answer(&asked, before);
    seen.lock().expect("as the test has it").push(asked);
    let head = format!("HTTP/1.1 {status} Told\r\nconnection: close\r\n{more}\r\n{body}");
    let _ = reader.get_mut().write_all(head.as_bytes());
}

pub(crate) fn json_answer(asked: &Asked, result: Value) -> (u16, String, String) {
    let body = json!({"jsonrpc": "2.0", "id": asked.body["id"], "result": result}).to_string();
    (200, "content-type: application/json\r\n".to_owned(), body)
}

const STREAM: &str = "content-type: text/event-stream\r\n";

pub(crate) fn initialized(asked: &Asked, session: usize) -> (u16, String, String) {
    let result = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}});
    let (status, kind, body) = json_answer(asked, result);
    (status, format!("{kind}mcp-session-id: session-{session}\r\n"), body)
}

pub(crate) fn refused() -> (u16, String, String) {
    let body = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "Bad Request: Server not initialized"}});
    (400, "content-type: application/json\r\n".to_owned(), body.to_string())
}

#[test]
fn a_session_that_has_ended_is_made_anew_and_nobody_notices() {
    let (url, seen) =
        scripted(|asked, before| match (asked.method.as_str(), asked.body["method"].as_str()) {
            ("POST", Some("initialize")) => initialized(asked, before),
            ("POST", Some("notifications/initialized")) => (202, String::new(), String::new()),
            ("POST", Some("server/discover")) => refused(),
            ("POST", Some("x/any")) if asked.header("mcp-session-id") == Some("session-0") => {
                (404, String::new(), String::new())
            }
            ("POST", Some(method)) => json_answer(asked, json!({"method": method, "tools": []})),
            ("DELETE", _) => (200, String::new(), String::new()),
            _ => (405, String::new(), String::new()),
        });
    let client = wrap(&url, &["--header", "Authorization=Bearer t0ken", "--name", "far"]);
    client.initialize();
    assert_eq!(client.request("x/any", json!({})).expect("as the test has it")["method"], "x/any");
    client.close_stdin();
    assert!(client.wait_exit().success());
    let seen = seen.lock().expect("as the test has it");
    let told = |asked: &Asked| asked.body["method"].as_str().unwrap_or(&asked.method).to_owned();
    assert!(seen.iter().all(|asked| asked.header("authorization") == Some("Bearer t0ken")));
    let again = seen.iter().skip_while(|asked| told(asked) != "x/any").map(told);
    let again: Vec<String> = again.filter(|method| method != "GET" && method != "tools/list").collect();
    assert_eq!(again, ["x/any", "initialize", "notifications/initialized", "x/any", "DELETE"]);
    let last = seen.iter().rfind(|asked| told(asked) == "x/any").expect("as the test has it");
    assert_eq!(last.header("mcp-session-id"), Some("session-1"));
    assert_eq!(last.header("mcp-protocol-version"), Some("2025-06-18"));
}

#[test]
fn a_session_that_has_ended_is_made_anew_also_by_a_server_that_calls_that_a_bad_request() {
    let (url, seen) =
        scripted(|asked, before| match (asked.method.as_str(), asked.body["method"].as_str()) {
            ("POST", Some("initialize")) => initialized(asked, before),
            ("POST", Some("notifications/initialized")) => (202, String::new(), String::new()),
            ("POST", Some("server/discover" | "x/wrong")) => refused(),
            // The server has been started again, and knows nobody.
            ("POST", Some("x/any" | "ping")) if asked.header("mcp-session-id") == Some("session-0") => {
                refused()
            }
            ("POST", Some(method)) => json_answer(asked, json!({"method": method, "tools": []})),
            _ => (405, String::new(), String::new()),
        });
    let client = wrap(&url, &[]);
    client.initialize();
    assert_eq!(client.request("x/any", json!({})).expect("as the test has it")["method"], "x/any");
    let error = client.request("x/wrong", json!({})).expect_err("as the test has it");
    assert_eq!(error["code"], -32000, "what is wrong with a request alone is told");
    let seen = seen.lock().expect("as the test has it");
    let sessions = seen.iter().filter(|asked| asked.body["method"] == "initialize").count();
    assert_eq!(sessions, 2);
}

#[test]
fn a_broken_stream_is_taken_up_again_where_it_broke() {
    let (url, _) = scripted(|asked, before| match (asked.method.as_str(), asked.body["method"].as_str()) {
        ("POST", Some("initialize")) => initialized(asked, before),
        ("POST", Some("server/discover")) => refused(),
        ("POST", Some("x/any")) => {
            (200, STREAM.to_owned(), format!("id: {}-first\nretry: 5\ndata:\n\n", asked.body["id"]))
        }
        ("GET", _) => match asked.header("last-event-id").and_then(|id| id.strip_suffix("-first")) {
            Some(id) => {
                let answer = json!({"jsonrpc": "2.0", "id": id.parse::<u64>().expect("as the test has it"), "result": {"resumed": true}});
                (200, STREAM.to_owned(), format!("id: second\ndata: {answer}\n\n"))
            }
            None => (405, String::new(), String::new()),
        },
        _ => (202, String::new(), String::new()),
    });
    let client = wrap(&url, &[]);
    client.initialize();
    assert_eq!(client.request("x/any", json!({})).expect("as the test has it")["resumed"], true);
}

/// What the client is told when the server answers everything so.
fn refusal(status: u16, headers: &'static str, body: &'static str) -> String {
    let (url, _) = scripted(move |_, _| (status, headers.to_owned(), body.to_owned()));
    let client = wrap(&url, &["--header", "Authorization: t0ken"]);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    let error = client.request("initialize", params).expect_err("as the test has it");
    error["message"].as_str().expect("as the test has it").to_owned()
}

#[test]
fn a_refusal_is_told_and_no_other_place_is_followed() {
    let why = refusal(401, "", "who are you?");
    assert!(why.contains("HTTP 401") && why.contains("who are you?") && why.contains("--header"), "{why}");
    let why = refusal(307, "location: http://127.0.0.1:1/else\r\n", "");
    assert!(why.contains("HTTP 307") && why.contains("is not followed"), "{why}");
}

#[test]
fn a_legacy_server_may_say_in_any_way_that_it_does_not_know_the_question_who_it_is() {
    const JSON: &str = "content-type: application/json\r\n";
    let to_nobody =
        r#"{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "not initialized"}}"#;
    for (status, kind, body) in [
        (200, JSON, to_nobody),
        (200, JSON, "[]"),
        (202, "", ""),
        (404, "", "nothing here"),
        (500, JSON, to_nobody),
    ] {
        let (url, _) = scripted(move |asked, before| match asked.body["method"].as_str() {
            Some("initialize") => initialized(asked, before),
            Some("server/discover") => (status, kind.to_owned(), body.to_owned()),
            _ => (202, String::new(), String::new()),
        });
        assert_eq!(wrap(&url, &[]).initialize()["serverInfo"]["name"], "s", "{status} {body}");
    }
}

#[test]
fn a_call_that_is_sent_elsewhere_was_not_made() {
    let (url, _) = scripted(|asked, before| match asked.body["method"].as_str() {
        Some("initialize") => initialized(asked, before),
        Some("server/discover") => refused(),
        Some("tools/call") => (307, "location: http://127.0.0.1:1/else\r\n".to_owned(), String::new()),
        Some("tools/list") => json_answer(asked, json!({"tools": []})),
        _ => (202, String::new(), String::new()),
    });
    let client = wrap(&url, &[]);
    client.initialize();
    let why = client.request("tools/call", json!({"name": "x"})).expect_err("it was not made").to_string();
    assert!(why.contains("is not followed") && !why.contains("not known"), "{why}");
}

#[test]
fn the_old_transport_is_spoken_too() {
    let streams: Arc<Mutex<Vec<std::sync::mpsc::Sender<String>>>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").expect("as the test has it");
    let url = format!("http://{}/sse", listener.local_addr().expect("as the test has it"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let streams = streams.clone();
            thread::spawn(move || old_transport(stream, &streams));
        }
    });
    // Whoever does not know that it is the old one finds out.
    for known in [&["--sse"][..], &[]] {
        let client = wrap(&url, known);
        let hello = client.initialize();
        assert_eq!(hello["serverInfo"]["name"], "old");
        assert_eq!(
            client.request("x/any", json!({"a": 1})).expect("as the test has it")["echo"],
            json!({"a": 1})
        );
    }
}

/// One stream for all answers, and a place for messages that it names first.
fn old_transport(stream: TcpStream, streams: &Mutex<Vec<std::sync::mpsc::Sender<String>>>) {
    let mut out = stream.try_clone().expect("as the test has it");
    let (sender, answers) = std::sync::mpsc::channel();
    let answer = |asked: &Asked, _: usize| {
        if asked.method == "GET" {
            return (0, String::new(), String::new());
        }
        if asked.path() == "/sse" {
            return (405, String::new(), "Method Not Allowed".to_owned());
        }
        let result = match asked.body["method"].as_str() {
            Some("initialize") => {
                json!({"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "old", "version": "1"}})
            }
            _ => json!({"echo": asked.body["params"]}),
        };
        if !asked.body["id"].is_null() {
            let line = json!({"jsonrpc": "2.0", "id": asked.body["id"], "result": result}).to_string();
            streams
                .lock()
                .expect("as the test has it")
                .last()
                .expect("a stream")
                .send(line)
                .expect("as the test has it");
        }
        (202, String::new(), "Accepted".to_owned())
    };
    let mut first = [0; 3];
    stream.peek(&mut first).expect("as the test has it");
    if &first != b"GET" {
        return serve(stream, &answer, &Mutex::default());
    }
    streams.lock().expect("as the test has it").push(sender);
    write!(out, "HTTP/1.1 200 OK\r\n{STREAM}\r\nevent: endpoint\ndata: /messages?id=1\n\n")
        .expect("as the test has it");
    for answer in answers {
        write!(out, "event: message\ndata: {answer}\n\n").expect("as the test has it");
    }
}

#[test]
fn a_command_line_that_names_no_server_is_refused_as_such() {
    for (args, said) in [
        (&["wrap", "--url", "example.com/mcp?key=s3cret"][..], "--url: `example.com/mcp` is no URL"),
        (&["login", "--url", "example.com/mcp?key=s3cret"], "--url: `example.com/mcp` is no URL"),
        (&["wrap", "--url", "me:s3cret@example.com/mcp"], "--url: `example.com/mcp` is no URL"),
        (&["login"], "NAME with the --config FILE that it is in, or --url URL"),
    ] {
        let mut command = Command::new(meanwhile());
        let refused = command.args(args).env_remove("MEANWHILE_CONFIG").stdin(Stdio::null()).output();
        let refused = refused.expect("meanwhile runs");
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && stderr.contains(said), "{refused:?}");
        assert!(!stderr.contains("s3cret"), "{stderr}");
    }
}
