//! One client: a process of ours and an MCP conversation with it, which may break off at any moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::place::{Place, Start};

/// An answer that has not come by then never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What came of waiting for an answer.
pub(crate) enum Heard {
    Result(Value),
    Error(Value),
    /// The conversation is over.
    Ended,
    /// It goes on, but there is no answer.
    Silence,
}

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leave {
    /// It closes stdin and waits.
    Politely,
    /// It is gone, and with it its ends of all pipes.
    Vanish,
    /// It kills what it started, and is gone.
    Kill,
}

pub(crate) struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// What has come of a line that is not whole yet.
    line: Vec<u8>,
    stderr: Arc<Mutex<Vec<String>>>,
    listening: JoinHandle<()>,
    /// Answers that came while another was waited for.
    early: HashMap<u64, Value>,
    next_id: u64,
    /// What it said that is no message.
    pub(crate) garbage: Vec<String>,
}

impl Session {
    pub(crate) fn start(place: &Place, start: &Start) -> Session {
        let mut child = place.wrap(start).spawn().expect("meanwhile starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let listening =
            tokio::spawn(keep_lines(child.stderr.take().expect("stderr is piped"), stderr.clone()));
        Session {
            stdin: child.stdin.take(),
            stdout: BufReader::new(stdout),
            line: Vec::new(),
            child,
            stderr,
            listening,
            early: HashMap::new(),
            next_id: 1,
            garbage: Vec::new(),
        }
    }

    pub(crate) async fn initialize(&mut self) -> Heard {
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "torture", "version": "0"}});
        let heard = self.request("initialize", hello).await;
        if let Heard::Result(_) = heard {
            let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}});
            self.write(&ready).await;
        }
        heard
    }

    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Heard {
        let id = self.ask_tool(tool, arguments).await;
        self.answer(id).await
    }

    /// Calls a tool and does not wait.
    pub(crate) async fn ask_tool(&mut self, tool: &str, arguments: Value) -> u64 {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    async fn request(&mut self, method: &str, params: Value) -> Heard {
        let id = self.ask(method, params).await;
        self.answer(id).await
    }

    async fn ask(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    /// Whoever does not take it shows so by the end of its stdout.
    async fn write(&mut self, message: &Value) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(format!("{message}\n").as_bytes()).await;
        }
    }

    pub(crate) async fn answer(&mut self, id: u64) -> Heard {
        let wanted = async {
            loop {
                if let Some(answer) = self.early.remove(&id) {
                    return sorted(answer);
                }
                match self.next_line().await {
                    Some(line) => self.take(&line),
                    None => return Heard::Ended,
                }
            }
        };
        timeout(PATIENCE, wanted).await.unwrap_or(Heard::Silence)
    }

    /// A whole line. Whoever is killed while it writes leaves a piece of one, which nobody takes for a message.
    async fn next_line(&mut self) -> Option<String> {
        self.stdout.read_until(b'\n', &mut self.line).await.ok()?;
        let line = std::mem::take(&mut self.line);
        line.ends_with(b"\n").then(|| String::from_utf8_lossy(&line).into_owned())
    }

    fn take(&mut self, line: &str) {
        let message: Value = serde_json::from_str(line).unwrap_or_default();
        match message["id"].as_u64() {
            Some(id) if message["method"].is_null() => drop(self.early.insert(id, message)),
            _ if message["jsonrpc"] == "2.0" => {}
            _ => self.garbage.push(line.to_owned()),
        }
    }

    /// The process that the client started.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.id()?.try_into().ok()
    }

    /// What it has said on stderr.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Leaves. The child that remains is to be waited for.
    pub(crate) async fn leave(mut self, how: Leave) -> Child {
        drop(self.stdin.take());
        match how {
            Leave::Politely => {
                let rest = async { while self.next_line().await.is_some() {} };
                let _ = timeout(PATIENCE, rest).await;
            }
            Leave::Vanish => self.listening.abort(),
            Leave::Kill => {
                let _ = self.child.start_kill();
                self.listening.abort();
            }
        }
        self.child
    }
}

fn sorted(mut answer: Value) -> Heard {
    match answer.get_mut("error") {
        Some(error) => Heard::Error(error.take()),
        None => Heard::Result(answer["result"].take()),
    }
}

async fn keep_lines(stream: impl AsyncRead + Unpin, kept: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
