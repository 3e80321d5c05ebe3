//! A client on blocking pipes: one thread, one write for all that is ready, one read for all that has come.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::family::Family;
use crate::setup::Launch;

/// More than 64 answers have.
const BUFFER: usize = 256 * 1024;

/// A server and the client's end of its stdio. All its processes are ended when it is dropped.
pub(crate) struct Client {
    child: Child,
    family: Family,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    next_id: u64,
}

/// What is read of an answer.
#[derive(Deserialize)]
struct Answer {
    id: Option<u64>,
    result: Option<Value>,
}

/// A tool and the arguments of its `n`th call, as JSON. No two calls are the same, for a repeat would join the first.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) arguments: fn(u64) -> String,
}

impl Client {
    /// Starts a server.
    pub(crate) fn start(launch: Launch) -> anyhow::Result<Client> {
        let Launch { mut command, family } = launch;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok(Client { child, family, stdin, stdout: BufReader::with_capacity(BUFFER, stdout), next_id: 1 })
    }

    /// Starts a server, introduces the client and lists the tools.
    pub(crate) fn ready(launch: Launch) -> anyhow::Result<Client> {
        let mut client = Client::start(launch)?;
        client.introduce()?;
        Ok(client)
    }

    /// What a client says first, up to the answer to `tools/list`.
    pub(crate) fn introduce(&mut self) -> anyhow::Result<()> {
        let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}"#;
        self.request("initialize", hello)?;
        self.stdin.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n")?;
        self.request("tools/list", "{}").map(drop)
    }

    /// Calls a tool, and says how long the answer took.
    pub(crate) fn call(&mut self, tool: Tool) -> anyhow::Result<(Duration, Value)> {
        let params = params_of(tool, self.next_id);
        self.request("tools/call", &params)
    }

    /// Asks and waits for the answer. The time does not hold the reading of its JSON.
    pub(crate) fn request(&mut self, method: &str, params: &str) -> anyhow::Result<(Duration, Value)> {
        let id = self.fresh_id();
        let request = line_of(id, method, params);
        let mut line = Vec::new();
        let began = Instant::now();
        self.stdin.write_all(request.as_bytes())?;
        loop {
            line.clear();
            let took = self.read_line(&mut line).map(|()| began.elapsed())?;
            if let Some(result) = result_of(&line, |found| found == id)? {
                return Ok((took, result));
            }
        }
    }

    /// Makes `count` calls with `in_flight` of them unanswered at any time, and says how long that took.
    pub(crate) fn pipeline(
        &mut self,
        tool: Tool,
        count: usize,
        in_flight: usize,
    ) -> anyhow::Result<Duration> {
        let (first, mut answers, mut requests) = (self.next_id, Vec::new(), Vec::new());
        let began = Instant::now();
        self.add_calls(tool, in_flight.min(count), &mut requests);
        let mut answered = 0;
        while answered < count {
            self.stdin.write_all(&requests)?;
            requests.clear();
            let came = self.read_what_came(&mut answers)?;
            answered += came;
            let sent = usize::try_from(self.next_id - first)?;
            self.add_calls(tool, came.min(count - sent), &mut requests);
        }
        let took = began.elapsed();
        for answer in answers.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            result_of(answer, |id| id >= first)?.context("an answer to something else")?;
        }
        Ok(took)
    }

    /// The process that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that does the work, if it is another one.
    pub(crate) fn keeper(&self) -> Option<u32> {
        self.family.like(self.pid()).into_iter().find(|pid| *pid != self.pid())
    }

    fn add_calls(&mut self, tool: Tool, count: usize, requests: &mut Vec<u8>) {
        for _ in 0..count {
            let id = self.fresh_id();
            requests.extend_from_slice(line_of(id, "tools/call", &params_of(tool, id)).as_bytes());
        }
    }

    /// Waits for a line, and takes those that came with it, too. Returns how many there are.
    fn read_what_came(&mut self, lines: &mut Vec<u8>) -> anyhow::Result<usize> {
        let mut came = 0;
        while came == 0 || self.stdout.buffer().contains(&b'\n') {
            self.read_line(lines)?;
            came += 1;
        }
        Ok(came)
    }

    fn read_line(&mut self, line: &mut Vec<u8>) -> anyhow::Result<()> {
        if self.stdout.read_until(b'\n', line)? == 0 {
            bail!("the server has ended: {:?}", self.child.wait()?);
        }
        Ok(())
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.family.end();
    }
}

fn params_of(tool: Tool, n: u64) -> String {
    format!("{{\"name\":\"{}\",\"arguments\":{}}}", tool.name, (tool.arguments)(n))
}

fn line_of(id: u64, method: &str, params: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n")
}

/// The result in an answer to a request that fits; an error is one of this run.
fn result_of(line: &[u8], fits: impl Fn(u64) -> bool) -> anyhow::Result<Option<Value>> {
    let answer: Answer = serde_json::from_slice(line)?;
    if !answer.id.is_some_and(fits) {
        return Ok(None);
    }
    match answer.result {
        Some(result) if result["isError"] != true => Ok(Some(result)),
        _ => bail!("not the answer that was expected: {}", String::from_utf8_lossy(line)),
    }
}
