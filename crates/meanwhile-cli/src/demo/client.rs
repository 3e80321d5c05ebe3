//! A small MCP client over stdio, with only what every agent has: it calls tools and reads what they answer.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use meanwhile_core::Json;
use meanwhile_mcp::message::{self, Answer, Fields, Id, Incoming, Message, to_json};
use meanwhile_mcp::revision::Revision;
use meanwhile_mcp::transport::{Line, LineReader, Outbound};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::watch;

/// The largest message that is read, in bytes.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// How long a server may take to start.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may take to end once its stdin is closed.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A server's process, and the way to it. It asks one thing at a time.
pub(super) struct Client {
    child: Child,
    out: Outbound,
    lines: LineReader<ChildStdout>,
    log: watch::Receiver<Vec<String>>,
    next_id: u64,
}

/// How far a call is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Progress {
    pub(super) progress: f64,
    pub(super) total: Option<f64>,
}

/// What a tool answered.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answered {
    content: Vec<Block>,
    #[serde(default, rename = "structuredContent")]
    pub(super) told: Told,
    #[serde(default)]
    pub(super) is_error: bool,
}

#[derive(Debug, Deserialize)]
struct Block {
    #[serde(default)]
    text: String,
}

/// What Meanwhile's answers tell a program, whichever of them it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub(super) handle: Option<String>,
    pub(super) status: Option<String>,
    pub(super) progress: Option<Progress>,
    pub(super) poll_after_ms: Option<u64>,
    pub(super) preview: bool,
    pub(super) bytes: Option<u64>,
    pub(super) text: Option<String>,
    pub(super) note: String,
}

impl Answered {
    /// The text of its first block.
    pub(super) fn text(&self) -> &str {
        self.content.first().map_or("", |block| &block.text)
    }
}

impl Client {
    /// Starts the server and shakes hands with it.
    pub(super) async fn start(program: &Path, args: &[&OsStr]) -> anyhow::Result<Client> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A group of its own: Ctrl-C in the terminal is for the demo, which then ends its children in order.
        #[cfg(unix)]
        command.process_group(0);
        for (name, _) in std::env::vars_os() {
            // The demo shows the same whatever the user has set up for their own wrappers.
            if name.to_string_lossy().starts_with("MEANWHILE_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let (stdin, stdout) =
            child.stdin.take().zip(child.stdout.take()).context("a new process has no pipes")?;
        let log = listen(child.stderr.take().context("a new process has no stderr")?);
        let lines = LineReader::new(stdout, MESSAGE_MAX);
        let mut client = Client { child, out: Outbound::start(stdin), lines, log, next_id: 1 };
        client.initialize().await.context("the server did not initialize")?;
        Ok(client)
    }

    async fn initialize(&mut self) -> anyhow::Result<()> {
        let params = json!({
            "protocolVersion": Revision::LATEST.name(),
            "capabilities": {},
            "clientInfo": {"name": "meanwhile-demo", "version": env!("CARGO_PKG_VERSION")},
        });
        let hello = self.request("initialize", params, START_PATIENCE, &mut |_| ()).await?;
        if hello.is_none() {
            bail!("no answer within {} s", START_PATIENCE.as_secs());
        }
        self.notify("notifications/initialized", json!({})).await;
        Ok(())
    }

    /// Calls a tool. `None` if there was no answer within `patience`: then it gives up and tells the server so, as the
    /// protocol wants it. Until then it is told of the server's progress.
    pub(super) async fn call(
        &mut self,
        tool: &str,
        arguments: &Value,
        patience: Duration,
        on_progress: &mut dyn FnMut(Progress),
    ) -> anyhow::Result<Option<Answered>> {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": self.next_id}});
        let answer = self.request("tools/call", params, patience, on_progress).await?;
        let read = |answer: Json| serde_json::from_str(answer.get());
        answer.map(read).transpose().context("the answer is none of a tool")
    }

    /// Waits until the server has logged a line with `words`, and returns it.
    pub(super) async fn logged(&mut self, words: &str, patience: Duration) -> Option<String> {
        let with_words = |line: &&String| line.contains(words);
        let heard = self.log.wait_for(|lines| lines.iter().any(|line| line.contains(words)));
        let lines = tokio::time::timeout(patience, heard).await.ok()?.ok()?;
        lines.iter().find(with_words).cloned()
    }

    /// Ends the server by the protocol: its stdin is closed. One that stays is killed.
    pub(super) async fn end(self) {
        let Client { mut child, out, .. } = self;
        drop(out);
        if tokio::time::timeout(END_PATIENCE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    /// Ends the server now, and returns all that it has logged.
    pub(super) async fn kill(mut self) -> Vec<String> {
        let _ = self.child.kill().await;
        let rest = async { while self.log.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(END_PATIENCE, rest).await;
        self.log.borrow().clone()
    }

    async fn request(
        &mut self,
        method: &str,
        params: Value,
        patience: Duration,
        on_progress: &mut dyn FnMut(Progress),
    ) -> anyhow::Result<Option<Json>> {
        let id = self.next_id;
        self.next_id += 1;
        let params = Some(to_json(&params));
        let request = Message::Request {
            id: Id::from(id),
            method: method.to_owned(),
            params,
            extra: Fields::default(),
        };
        self.out.send(request.to_line()).await;
        match tokio::time::timeout(patience, self.answer(id, on_progress)).await {
            Ok(answer) => answer.map(Some),
            Err(_) => {
                self.notify(
                    "notifications/cancelled",
                    json!({"requestId": id, "reason": "it took too long"}),
                )
                .await;
                Ok(None)
            }
        }
    }

    /// Reads until the answer comes. Answers to what was given up, and what else a server may say, is passed over.
    async fn answer(&mut self, id: u64, on_progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Json> {
        loop {
            let line = self.lines.next().await.context("the server cannot be read")?;
            let Line::Text(text) = line.context("the server ended")? else { continue };
            match message::parse(text) {
                Ok(Incoming::One(Message::Response { id: of, answer, .. })) if of.number() == Some(id) => {
                    return match answer {
                        Answer::Result(result) => Ok(result),
                        Answer::Error(error) => bail!("the server answered the error {}", error.get()),
                    };
                }
                Ok(Incoming::One(Message::Notification { method, params: Some(params), .. }))
                    if method == "notifications/progress" =>
                {
                    if let Ok(progress) = serde_json::from_str(params.get()) {
                        on_progress(progress);
                    }
                }
                _ => {}
            }
        }
    }

    async fn notify(&self, method: &str, params: Value) {
        self.out.send(Message::notification(method, to_json(&params)).to_line()).await;
    }
}

/// Collects what a server logs.
fn listen(stderr: ChildStderr) -> watch::Receiver<Vec<String>> {
    let (lines, log) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut reader = LineReader::new(stderr, MESSAGE_MAX);
        while let Ok(Some(line)) = reader.next().await {
            if let Line::Text(text) = line {
                lines.send_modify(|lines| lines.push(text.to_owned()));
            }
        }
    });
    log
}
