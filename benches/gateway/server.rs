//! The bare server: this program again, as an MCP server over stdio with blocking reads and writes and nothing between.
//!
//! No real server is faster, so no comparison is harder. Requests that came together are answered together, in one write.

use std::io::{self, BufRead, BufReader, Write};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::value::RawValue;

/// Makes this program the server.
pub(crate) const ARGUMENT: &str = "--server";

const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bare","version":"1"}}"#;

const TOOLS: &str = concat!(
    r#"{"tools":[{"name":"echo","description":"Answers with the text","inputSchema":"#,
    r#"{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}},"#,
    r#"{"name":"slow","description":"Never ends","inputSchema":"#,
    r#"{"type":"object","properties":{"n":{"type":"integer"}}}},"#,
    r#"{"name":"stamp","description":"Answers with the time of its end","inputSchema":"#,
    r#"{"type":"object","properties":{"ms":{"type":"integer"},"n":{"type":"integer"}},"required":["ms"]}}]}"#,
);

/// More than 64 requests have.
const BUFFER: usize = 64 * 1024;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Call<'a> {
    name: &'a str,
    #[serde(borrow)]
    arguments: Option<Arguments<'a>>,
}

#[derive(Default, Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    ms: Option<u64>,
}

/// Serves until stdin ends.
pub(crate) fn serve() -> io::Result<()> {
    let mut input = BufReader::with_capacity(BUFFER, io::stdin().lock());
    let mut line = Vec::new();
    let mut answers = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        answer(&line, &mut answers)?;
        line.clear();
        if !input.buffer().contains(&b'\n') {
            send(&answers)?;
            answers.clear();
        }
    }
    Ok(())
}

/// Adds the answer of one message to `answers`, if it has one now.
fn answer(line: &[u8], answers: &mut Vec<u8>) -> io::Result<()> {
    let message: Message<'_> = serde_json::from_slice(line)?;
    let Some(id) = message.id.map(RawValue::get) else { return Ok(()) };
    let head = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},");
    match (message.method, message.params) {
        ("initialize", _) => writeln!(answers, "{head}\"result\":{INITIALIZED}}}"),
        ("tools/list", _) => writeln!(answers, "{head}\"result\":{TOOLS}}}"),
        ("tools/call", Some(params)) => call(serde_json::from_str(params.get())?, head, answers),
        _ => writeln!(answers, "{head}\"error\":{{\"code\":-32601,\"message\":\"unknown\"}}}}"),
    }
}

fn call(call: Call<'_>, head: String, answers: &mut Vec<u8>) -> io::Result<()> {
    let Arguments { text, ms } = call.arguments.unwrap_or_default();
    match call.name {
        "echo" => answers.write_all(text_answer(&head, text.map_or("\"\"", RawValue::get)).as_bytes()),
        "stamp" => {
            stamp_after(Duration::from_millis(ms.unwrap_or(0)), head);
            Ok(())
        }
        // `slow` never ends, and nobody is told of its cancellation: it holds nothing.
        _ => Ok(()),
    }
}

/// Answers from a thread of its own, with the time at which it answers.
fn stamp_after(pause: Duration, head: String) {
    thread::spawn(move || {
        thread::sleep(pause);
        let now = wall_clock().as_nanos();
        send(text_answer(&head, &format!("\"{now}\"")).as_bytes())
    });
}

/// The time since 1970, which processes of one machine share.
pub(crate) fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn text_answer(head: &str, text: &str) -> String {
    format!("{head}\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":{text}}}],\"isError\":false}}}}\n")
}

fn send(lines: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines)?;
    out.flush()
}
