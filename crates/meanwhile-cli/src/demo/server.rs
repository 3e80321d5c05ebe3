//! `meanwhile demo-server`: a slow MCP server over stdio, for the demo and for trying things out.
//!
//! It is what Meanwhile is made for, and knows nothing of it: some of its tools take longer than clients wait. It speaks the
//! protocol's legacy revisions, reports progress to who asked for it, and stops when it is told to.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use meanwhile_core::Json;
use meanwhile_mcp::message::{
    self, Answer, Fields, INVALID_PARAMS, INVALID_REQUEST, Id, Incoming, Malformed, Message, error, to_json,
};
use meanwhile_mcp::revision::Revision;
use meanwhile_mcp::transport::{Line, LineReader, Outbound, stdin, stdout};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::report::report;

/// The largest message that is read, in bytes.
const MESSAGE_MAX: usize = 1024 * 1024;
/// JSON-RPC's code for a method that is unknown here.
const METHOD_NOT_FOUND: i64 = -32601;
/// How often a render says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
const FRAMES_PER_SECOND: f64 = 24.0;
/// The longest video, in seconds.
const SECONDS_MAX: f64 = 3600.0;
const REPORT_TAKES: Duration = Duration::from_millis(1500);

/// Serves until stdin ends. Work that is not done by then is given up, as with any server whose client is gone.
pub(crate) async fn serve() -> anyhow::Result<u8> {
    let mut lines = LineReader::new(stdin().context("cannot read stdin")?, MESSAGE_MAX);
    let out = Outbound::start(stdout().context("cannot write stdout")?);
    let server = Server { out, running: Arc::default() };
    while let Some(line) = lines.next().await.context("cannot read stdin")? {
        server.line(line).await;
    }
    // Lets the last answers out, if their reader takes them.
    tokio::task::yield_now().await;
    Ok(0)
}

#[derive(Clone)]
struct Server {
    out: Outbound,
    /// The slow calls, and what stops each of them when it is dropped or sent to.
    running: Arc<Mutex<HashMap<Id, oneshot::Sender<()>>>>,
}

/// The parameters of a `tools/call`.
#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Value,
    #[serde(default, rename = "_meta")]
    meta: Meta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Meta {
    progress_token: Option<Value>,
}

/// A call that takes its time.
struct Slow {
    id: Id,
    tool: &'static str,
    takes: Duration,
    /// Under which its progress is reported, if it is wanted.
    token: Option<Value>,
    /// What it answers in the end.
    text: String,
}

impl Server {
    async fn line(&self, line: Line<'_>) {
        let refused = match line {
            Line::Text(text) => match message::parse(text) {
                Ok(Incoming::One(message)) => return self.message(message).await,
                Ok(Incoming::Batch(_)) => malformed("send one message at a time"),
                Err(malformed) => malformed,
            },
            Line::NotText => malformed("a message must be UTF-8"),
            Line::TooLong { .. } => malformed("a message may have 1 MiB at most"),
        };
        self.out.send(refused.to_line()).await;
    }

    async fn message(&self, message: Message) {
        match message {
            Message::Request { id, method, params, .. } => {
                if let Some(answer) = self.request(&id, &method, params.as_ref()) {
                    self.answer(id, answer).await;
                }
            }
            Message::Notification { method, params, .. } if method == "notifications/cancelled" => {
                self.cancel(params.as_ref());
            }
            Message::Notification { .. } | Message::Response { .. } => {}
        }
    }

    async fn answer(&self, id: Id, answer: Answer) {
        self.out.send(Message::response(id, answer).to_line()).await;
    }

    /// The answer, if it is there at once.
    fn request(&self, id: &Id, method: &str, params: Option<&Json>) -> Option<Answer> {
        Some(match method {
            "initialize" => initialized(params),
            "ping" => Answer::Result(to_json(&json!({}))),
            "tools/list" => Answer::Result(to_json(&json!({"tools": tools()}))),
            "tools/call" => return self.call(id, params),
            _ => Answer::Error(error(METHOD_NOT_FOUND, &format!("there is no method {method:?} here"))),
        })
    }

    fn call(&self, id: &Id, params: Option<&Json>) -> Option<Answer> {
        let call: Call = match serde_json::from_str(params.map_or("null", |params| params.get())) {
            Ok(call) => call,
            Err(why) => return Some(Answer::Error(error(INVALID_PARAMS, &format!("tools/call: {why}")))),
        };
        let slow = match call.name.as_str() {
            "weather" => return Some(weather(&call.arguments)),
            "write_report" => self.slow(id, "write_report", REPORT_TAKES, None, report()),
            "render_video" => {
                let seconds = call.arguments["seconds"]
                    .as_f64()
                    .filter(|seconds| (0.1..=SECONDS_MAX).contains(seconds));
                let Some(seconds) = seconds else {
                    return Some(said("`seconds` must be a number from 0.1 to 3600", true));
                };
                let text =
                    format!("Rendered {} frames into holiday.mp4.", frames(Duration::from_secs_f64(seconds)));
                self.slow(
                    id,
                    "render_video",
                    Duration::from_secs_f64(seconds),
                    call.meta.progress_token,
                    text,
                )
            }
            name => {
                return Some(Answer::Error(error(
                    INVALID_PARAMS,
                    &format!("there is no tool {name:?} here"),
                )));
            }
        };
        tokio::spawn(slow);
        None
    }

    /// Does slow work and answers, unless it is stopped first: then, by the protocol, there is no answer.
    fn slow(
        &self,
        id: &Id,
        tool: &'static str,
        takes: Duration,
        token: Option<Value>,
        text: String,
    ) -> impl Future<Output = ()> + use<> {
        let (stop, stopped) = oneshot::channel();
        self.running().insert(id.clone(), stop);
        let (server, slow) = (self.clone(), Slow { id: id.clone(), tool, takes, token, text });
        async move {
            let started = Instant::now();
            log(&format!("{tool}: started, takes {:.1} s", takes.as_secs_f64()));
            tokio::select! {
                () = server.work(&slow, started) => {
                    server.running().remove(&slow.id);
                    server.answer(slow.id, said(&slow.text, false)).await;
                }
                _ = stopped => {
                    let after = started.elapsed().as_secs_f64();
                    log(&format!("{}: notifications/cancelled, stopped after {after:.1} s", slow.tool));
                }
            }
        }
    }

    /// Takes the time that it takes, and says how far it is.
    async fn work(&self, slow: &Slow, started: Instant) {
        let end = started + slow.takes;
        let total = frames(slow.takes);
        let mut ticks = tokio::time::interval_at(started + PROGRESS_EVERY, PROGRESS_EVERY);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                _ = ticks.tick() => {}
            }
            let Some(token) = &slow.token else { continue };
            let done = frames(started.elapsed()).min(total);
            let message = format!("frame {done} of {total}");
            let report =
                json!({"progressToken": token, "progress": done, "total": total, "message": message});
            self.out.send_soon(Message::notification("notifications/progress", to_json(&report)).to_line());
        }
    }

    fn cancel(&self, params: Option<&Json>) {
        let fields = params.and_then(|params| Fields::parse(params.get()).ok());
        let id = fields.and_then(|fields| Id::read(fields.get("requestId")?));
        // What has been answered already is no longer here, and then there is nothing to stop.
        if let Some(stop) = id.and_then(|id| self.running().remove(&id)) {
            let _ = stop.send(());
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Id, oneshot::Sender<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn initialized(params: Option<&Json>) -> Answer {
    let fields = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
    let asked: String = fields.read("protocolVersion").unwrap_or_default();
    Answer::Result(to_json(&json!({
        "protocolVersion": Revision::negotiate(&asked).name(),
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "meanwhile-demo-server", "version": env!("CARGO_PKG_VERSION")},
    })))
}

fn tools() -> Value {
    json!([
        {
            "name": "render_video",
            "description": "Renders a video of this many seconds. Takes as long as the video is.",
            "inputSchema": {
                "type": "object",
                "properties": {"seconds": {"type": "number", "minimum": 0.1, "maximum": SECONDS_MAX}},
                "required": ["seconds"],
                "additionalProperties": false
            }
        },
        {
            "name": "weather",
            "description": "Tells the weather in a city, at once.",
            "inputSchema": {
                "type": "object",
                "properties": {"city": {"type": "string", "minLength": 1}},
                "required": ["city"],
                "additionalProperties": false
            },
            "annotations": {"readOnlyHint": true}
        },
        {
            "name": "write_report",
            "description": "Writes the report of a warehouse's night shift, some 200 KB of it, in a second and a half.",
            "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
            "annotations": {"readOnlyHint": true}
        }
    ])
}

/// Made up, but always the same for the same city.
fn weather(arguments: &Value) -> Answer {
    const SKIES: [&str; 4] = ["clear", "a few clouds", "light rain", "windy"];
    let Some(city) = arguments["city"].as_str().filter(|city| !city.is_empty()) else {
        return said("`city` must be a name", true);
    };
    let sum: usize = city.bytes().map(usize::from).sum();
    said(&format!("{city}: {} °C, {}", 8 + sum % 20, SKIES[sum % SKIES.len()]), false)
}

/// How many frames are rendered in this time.
fn frames(time: Duration) -> u64 {
    (time.as_secs_f64() * FRAMES_PER_SECOND) as u64
}

fn said(text: &str, is_error: bool) -> Answer {
    Answer::Result(to_json(&json!({"content": [{"type": "text", "text": text}], "isError": is_error})))
}

fn malformed(why: &str) -> Malformed {
    Malformed { id: None, code: INVALID_REQUEST, message: why.to_owned() }
}

/// One line on stderr, where MCP servers log. If nobody listens there it is not missed.
fn log(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
