//! A client on one blocking connection that stays open: one write for a request, and no more reads than its answer needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
/// Far longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How requests are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

/// A tool and its arguments, as JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static str,
}

/// One connection to one server.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    /// What every request begins with.
    head: String,
    era: Era,
    next_id: u64,
    body: Vec<u8>,
}

/// What is read of the head of a response.
#[derive(Default)]
struct Head {
    status: u16,
    length: usize,
    is_chunked: bool,
    session: Option<String>,
}

impl Client {
    /// A client that has introduced itself, if its era does so.
    pub(crate) fn ready(address: &str, path: &str, era: Era) -> anyhow::Result<Client> {
        let mut client = Client::connect(address, path, era)?;
        if era == Era::Legacy {
            client.introduce()?;
        }
        Ok(client)
    }

    fn connect(address: &str, path: &str, era: Era) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(address).with_context(|| format!("nobody listens at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        );
        Ok(Client { stream: BufReader::new(stream), head, era, next_id: 1, body: Vec::new() })
    }

    fn introduce(&mut self) -> anyhow::Result<()> {
        let hello = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}).to_string();
        self.send(&body, "")?;
        let session = self.read()?.session.context("a session has an id")?;
        self.head += &format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: {LEGACY}\r\n");
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, "")?;
        self.read().map(drop)
    }

    /// Calls a tool, and says how long it took until all of the answer was there.
    pub(crate) fn call(&mut self, tool: Tool) -> anyhow::Result<Duration> {
        let Tool { name, arguments } = tool;
        let request = self.request("tools/call", &format!("\"name\":\"{name}\",\"arguments\":{arguments}"));
        let began = Instant::now();
        self.send(&request.0, &request.1)?;
        let head = self.read()?;
        let took = began.elapsed();
        let answer = self.last_message()?;
        if head.status != 200 || answer["id"] != self.next_id - 1 || answer["result"]["isError"] == true {
            bail!("not the answer that was expected: {answer}");
        }
        answer["result"]["content"].as_array().context("a result of a tool has content")?;
        Ok(took)
    }

    /// Opens a stream that tells of changes, and returns it once the server has said that it is open.
    pub(crate) fn listen(address: &str, path: &str) -> anyhow::Result<Client> {
        let mut client = Client::connect(address, path, Era::Modern)?;
        let request = client.request("subscriptions/listen", "\"notifications\":{\"toolsListChanged\":true}");
        client.send(&request.0, &request.1)?;
        let head = client.read_head()?;
        client.read_chunk()?;
        let said = String::from_utf8_lossy(&client.body).into_owned();
        if head.status != 200 || !said.contains("notifications/subscriptions/acknowledged") {
            bail!("no stream: {} {said}", head.status);
        }
        Ok(client)
    }

    /// The body of a request, and the headers that go with it.
    fn request(&mut self, method: &str, params: &str) -> (String, String) {
        let id = self.next_id;
        self.next_id += 1;
        let comma = if params.is_empty() { "" } else { "," };
        let (meta, headers) = match self.era {
            Era::Legacy => (String::new(), String::new()),
            Era::Modern => (
                format!(
                    "{comma}\"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"{MODERN}\",\"io.modelcontextprotocol/clientInfo\":{{\"name\":\"bench\",\"version\":\"1\"}},\"io.modelcontextprotocol/clientCapabilities\":{{}}}}"
                ),
                format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {method}\r\n{}", named(params)),
            ),
        };
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{{{params}{meta}}}}}"
        );
        (body, headers)
    }

    fn send(&mut self, body: &str, headers: &str) -> anyhow::Result<()> {
        let request = format!("{}{headers}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.get_mut().write_all(request.as_bytes())?;
        Ok(())
    }

    /// Reads a response to its end, so that the connection is free for the next request.
    fn read(&mut self) -> anyhow::Result<Head> {
        let head = self.read_head()?;
        if head.is_chunked {
            while self.read_chunk()? > 0 {}
        } else {
            self.body.resize(head.length, 0);
            self.stream.read_exact(&mut self.body)?;
        }
        if !(200..300).contains(&head.status) {
            bail!("refused: {} {}", head.status, String::from_utf8_lossy(&self.body));
        }
        Ok(head)
    }

    fn read_head(&mut self) -> anyhow::Result<Head> {
        self.body.clear();
        let mut head = Head::default();
        let status = self.line()?;
        head.status = status.split(' ').nth(1).context("a status")?.parse()?;
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { return Ok(head) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse()?,
                "transfer-encoding" => head.is_chunked = value == "chunked",
                "mcp-session-id" => head.session = Some(value.to_owned()),
                _ => {}
            }
        }
    }

    /// Adds the next piece to the body, and returns its size.
    fn read_chunk(&mut self) -> anyhow::Result<usize> {
        let size = usize::from_str_radix(&self.line()?, 16)?;
        let held = self.body.len();
        self.body.resize(held + size, 0);
        self.stream.read_exact(&mut self.body[held..])?;
        self.line()?;
        Ok(size)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the server has closed the connection");
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    /// The answer: the whole body, or its last event.
    fn last_message(&self) -> anyhow::Result<Value> {
        let body = std::str::from_utf8(&self.body)?;
        let event = body.lines().rev().find_map(|line| line.strip_prefix("data:"));
        serde_json::from_str(event.unwrap_or(body)).with_context(|| format!("no message: {body}"))
    }
}

/// The header that repeats what a tool call names.
fn named(params: &str) -> String {
    let name = params.strip_prefix("\"name\":\"").and_then(|rest| rest.split('"').next());
    name.map(|name| format!("Mcp-Name: {name}\r\n")).unwrap_or_default()
}
