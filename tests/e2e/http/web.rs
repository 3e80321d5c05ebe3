//! A small HTTP client that sends exactly what it is told to, and reads what comes: a body, or events one by one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Home, example, meanwhile};
use crate::inbox::PATIENCE;

/// `meanwhile serve`, and where it listens.
pub(crate) struct Served {
    pub(crate) process: Client,
    pub(crate) address: String,
}

impl Served {
    /// One fixture, at `/mcp/fixture`.
    pub(crate) fn fixture(extra: &[&str]) -> Served {
        Served::fixture_in(&Home::new(), extra)
    }

    pub(crate) fn fixture_in(home: &Home, extra: &[&str]) -> Served {
        Served::start(home, &json!({"fixture": {"command": example(FIXTURE)}}), extra)
    }

    pub(crate) fn start(home: &Home, servers: &Value, extra: &[&str]) -> Served {
        Served::configured(home, "mcp.json", &json!({"mcpServers": servers}).to_string(), extra)
    }

    /// With a configuration that says exactly this.
    pub(crate) fn configured(home: &Home, file: &str, text: &str, extra: &[&str]) -> Served {
        let config = home.path(file);
        std::fs::write(&config, text).expect("the file is written");
        let config = config.to_str().expect("the path is UTF-8");
        let args = [&[meanwhile(), "serve", "--config", config, "--listen", "127.0.0.1:0"], extra].concat();
        let process = Client::spawn_in(home, &args, &[]);
        let line = process.wait_stderr("listening on http://");
        let (_, address) = line.split_once("http://").expect("it was waited for");
        let address = address.to_owned();
        Served { process, address }
    }

    /// A request with these headers besides `Host`.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let has_host = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !has_host {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        // The server may refuse, and close, before all of it is there.
        let _ = stream
            .write_all(format!("{head}\r\n").as_bytes())
            .and_then(|()| stream.write_all(body.as_bytes()));
        Answer::read(stream)
    }

    /// A POST as every client sends it.
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let usual = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
        self.send("POST", path, &[&usual, headers].concat(), body)
    }

    /// Begins a session of the legacy era at `path`.
    pub(crate) fn session<'a>(&'a self, path: &'a str, token: Option<&str>, version: &str) -> Session<'a> {
        let token = token.map(|token| format!("Bearer {token}"));
        let params = json!({"protocolVersion": version, "capabilities": {"elicitation": {}}, "clientInfo": {"name": "e2e", "version": "0"}});
        let hello =
            json!({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": params}).to_string();
        let authorization: Vec<_> = token.iter().map(|token| ("Authorization", token.as_str())).collect();
        let mut answer = self.post(path, &authorization, &hello);
        assert_eq!(answer.status, 200);
        let id = answer.header("mcp-session-id").expect("a session has an id").to_owned();
        let introduction = answer.response()["result"].clone();
        let session = Session { served: self, path, id, token, introduction };
        session.notify("notifications/initialized", &json!({}));
        session
    }
}

/// A session of the legacy era.
#[derive(Clone)]
pub(crate) struct Session<'a> {
    served: &'a Served,
    path: &'a str,
    pub(crate) id: String,
    token: Option<String>,
    pub(crate) introduction: Value,
}

impl<'a> Session<'a> {
    /// The same session at another process.
    pub(crate) fn at(&self, served: &'a Served) -> Session<'a> {
        Session { served, ..self.clone() }
    }

    /// The same id in somebody else's hands.
    pub(crate) fn of(&self, token: &str) -> Session<'a> {
        Session { token: Some(format!("Bearer {token}")), ..self.clone() }
    }

    /// The same id at another path.
    pub(crate) fn on(&self, path: &'a str) -> Session<'a> {
        Session { path, ..self.clone() }
    }

    pub(crate) fn send(&self, method: &str, more: &[(&str, &str)], body: &str) -> Answer {
        let mut headers = vec![
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
            ("Mcp-Session-Id", self.id.as_str()),
        ];
        headers.extend(self.token.iter().map(|token| ("Authorization", token.as_str())));
        headers.extend(more);
        self.served.send(method, self.path, &headers, body)
    }

    /// Sends a request, and does not wait for its answer.
    pub(crate) fn ask(&self, id: &str, method: &str, params: &Value) -> Answer {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send("POST", &[], &body.to_string())
    }

    pub(crate) fn request(&self, method: &str, params: &Value) -> Value {
        self.ask("r", method, params).response()
    }

    /// A tool's result.
    pub(crate) fn call(&self, tool: &str, arguments: &Value) -> Value {
        let answer = self.request("tools/call", &json!({"name": tool, "arguments": arguments}));
        assert!(answer["error"].is_null(), "{tool}: {answer}");
        answer["result"].clone()
    }

    pub(crate) fn notify(&self, method: &str, params: &Value) {
        let body = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.accepted(&body);
    }

    /// Answers a question of the server.
    pub(crate) fn respond(&self, id: &Value, result: &Value) {
        self.accepted(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    }

    fn accepted(&self, body: &Value) {
        let answer = self.send("POST", &[], &body.to_string());
        assert_eq!(answer.status, 202);
        assert_eq!(answer.text(), "");
    }

    /// The stream of what is said unasked.
    pub(crate) fn listen(&self) -> Answer {
        let listening = self.send("GET", &[], "");
        assert_eq!((listening.status, listening.is_stream()), (200, true));
        listening
    }

    /// Goes on behind an event.
    pub(crate) fn resume(&self, last: &str) -> Answer {
        self.send("GET", &[("Last-Event-ID", last)], "")
    }
}

/// What came back. To drop it is to close the connection.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: BufReader<Box<dyn Read + Send>>,
}

/// A server-sent event.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) data: String,
    pub(crate) retry: String,
}

impl Answer {
    fn read(stream: TcpStream) -> Answer {
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a head comes");
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let status =
            head.first().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers: Vec<(String, String)> = head
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let is_chunked =
            headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body: Box<dyn Read + Send> =
            if is_chunked { Box::new(Chunks { stream, left: 0, ended: false }) } else { Box::new(stream) };
        Answer { status: status.expect("a status line"), headers, body: BufReader::new(body) }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
    }

    /// The whole body.
    pub(crate) fn text(mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).expect("a body of text");
        text
    }

    /// The body as JSON.
    pub(crate) fn json(self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "status {}", self.status);
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Status and JSON-RPC error code of a refusal.
    pub(crate) fn refusal(self) -> (u16, i64) {
        let status = self.status;
        let body = self.json();
        (status, body["error"]["code"].as_i64().unwrap_or_else(|| panic!("no code in {body}")))
    }

    /// The next event, comments left out; `None` at the stream's end.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let mut event = Event::default();
        let mut is_empty = true;
        let began = Instant::now();
        loop {
            // Comments come for ever.
            assert!(began.elapsed() < PATIENCE, "no event within {PATIENCE:?}");
            let mut line = String::new();
            if self.body.read_line(&mut line).expect("an event comes in time") == 0 {
                return None;
            }
            let line = line.trim_end_matches(['\r', '\n']);
            match line.split_once(':').map(|(field, value)| (field, value.strip_prefix(' ').unwrap_or(value)))
            {
                Some(("id", id)) => id.clone_into(&mut event.id),
                Some(("data", data)) => event.data += data,
                Some(("retry", retry)) => retry.clone_into(&mut event.retry),
                None if line.is_empty() && !is_empty => return Some(event),
                _ => continue,
            }
            is_empty = false;
        }
    }

    /// The next message of a stream.
    pub(crate) fn message(&mut self) -> Option<Value> {
        loop {
            let event = self.event()?;
            if !event.data.is_empty() {
                return Some(serde_json::from_str(&event.data).expect("an event is a message"));
            }
        }
    }

    /// The response in it, whether it comes as JSON or as a stream.
    pub(crate) fn response(&mut self) -> Value {
        if !self.is_stream() {
            let mut text = String::new();
            self.body.read_to_string(&mut text).expect("a body of text");
            return serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
        loop {
            let message = self.message().expect("the response is the last");
            if message.get("method").is_none() {
                return message;
            }
        }
    }
}

/// A body in chunks.
struct Chunks {
    stream: BufReader<TcpStream>,
    left: usize,
    ended: bool,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 && !self.ended {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                self.ended = true;
            } else if !line.trim().is_empty() {
                self.left = usize::from_str_radix(line.trim(), 16).expect("the size of a chunk");
                self.ended = self.left == 0;
            }
        }
        if self.ended {
            return Ok(0);
        }
        let most = into.len().min(self.left);
        let count = self.stream.read(&mut into[..most])?;
        self.left -= count;
        Ok(count)
    }
}
