//! What clients that send half of something, or nothing, can keep from others: little, and not for long.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use super::shutdown::tell;
use super::web::Served;
use crate::client::{Client, Home, meanwhile, text};
use crate::faces::Gate;
use crate::inbox::PATIENCE;

const PATH: &str = "/mcp/fixture";
const JSON: &str = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";

/// The head of a request with these lines, of whose body so much is sent.
fn begin(served: &Served, lines: &str, body: usize) -> TcpStream {
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: {}\r\n{JSON}{lines}", served.address);
    let mut stream = TcpStream::connect(&served.address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let bytes = [head.as_bytes(), b"\r\n", " ".repeat(body).as_bytes()].concat();
    // It may be refused, and closed, before all of it is there.
    let _ = stream.write_all(&bytes);
    stream
}

/// The status of what is answered.
fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut line = [0; 12];
    stream.read_exact(&mut line).ok()?;
    std::str::from_utf8(&line).ok()?.rsplit(' ').next()?.parse().ok()
}

#[test]
#[cfg(target_os = "linux")]
fn as_many_files_may_be_open_as_the_system_allows_that_are_needed() {
    let home = Home::new();
    let config = home.path("mcp.json");
    std::fs::write(&config, r#"{"mcpServers": {"x": {"command": "x"}}}"#).unwrap();
    let serve = "ulimit -S -n 256; exec \"$0\" serve --config \"$1\" --listen 127.0.0.1:0";
    let args = ["sh", "-c", serve, meanwhile(), config.to_str().unwrap()];
    let process = Client::spawn_in(&home, &args, &[]);
    process.wait_stderr("listening on http://");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|column| files.split_whitespace().nth(column).unwrap().parse::<u64>());
    assert_eq!(soft.unwrap(), hard.map_or(16 * 1024, |hard| hard.min(16 * 1024)), "{files}");
}

#[test]
fn who_has_not_asked_holds_up_no_end() {
    let home = Home::new();
    let served = Served::fixture_in(&home, &["--linger", "1h", "--mode", "inline"]);
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(&home, "gate");
    let mut asked = session.ask("a", "tools/call", &json!({"name": "gate", "arguments": gate.arguments()}));
    let connect = || TcpStream::connect(&served.address).expect("the server listens");
    let (fresh, mut half) = (connect(), connect());
    half.write_all(b"POST /mcp/fixture HTTP/1.1\r\nHost: loc").expect("half a head is sent");
    let mut used = begin(&served, "Content-Length: 0\r\n", 0);
    assert_eq!(status(&mut used), Some(400));
    let mut body = begin(&served, "Content-Length: 100\r\n", 50);
    tell(&served, "-TERM");
    for mut quiet in [fresh, half, used] {
        let _ = quiet.set_read_timeout(Some(PATIENCE));
        let mut rest = Vec::new();
        // To what is half there the system says no with a reset.
        let ended = quiet.read_to_end(&mut rest);
        assert!(ended.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true));
    }
    assert_eq!(status(&mut body), Some(503));
    gate.open();
    assert_eq!(text(&asked.response()["result"]), "opened", "who has asked is answered");
    drop(asked);
    assert!(served.process.wait_exit().success());
}

#[test]
fn what_cannot_be_answered_is_refused_before_its_body_is_there() {
    let served = Served::fixture(&["--max-requests", "1", "--mode", "inline", "--max-message", "1MiB"]);
    let refused =
        |lines: &str| status(&mut begin(&served, &format!("{lines}Content-Length: 1000000\r\n"), 0));
    assert_eq!(refused("Origin: http://evil.example\r\n"), Some(403));
    assert_eq!(refused("Mcp-Session-Id: abc\r\n"), Some(404));
    assert_eq!(status(&mut begin(&served, "Content-Length: 2000000\r\n", 0)), Some(413));
    let modern = |method: &str| format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n");
    let session = served.session(PATH, None, "2025-11-25");
    let gate = Gate::new(served.process.home(), "gate");
    let mut waiting = session.ask("g", "tools/call", &json!({"name": "gate", "arguments": gate.arguments()}));
    waiting.event().expect("it is being answered");
    assert_eq!(refused(&modern("tools/call")), Some(503));
    gate.open();
    assert_eq!(text(&waiting.response()["result"]), "opened");
}

#[test]
fn halves_of_bodies_hold_no_more_than_they_may() {
    let served = Served::fixture(&["--max-message", "1MiB"]);
    let mut halves: Vec<TcpStream> =
        (0..6).map(|_| begin(&served, "Content-Length: 1000000\r\n", 600_000)).collect();
    let of_them = halves.len();
    // Those that are refused are told so; the others are waited for.
    served.process.poll("some to be refused", || {
        halves.iter().for_each(|half| half.set_nonblocking(true).expect("it can be set"));
        let refused = halves.iter().filter(|half| half.peek(&mut [0; 12]).is_ok()).count();
        (refused == of_them - 3).then_some(())
    });
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(served.post(PATH, &[], ping).status, 400, "small ones are read all the same");
    halves.clear();
    let long = format!("{ping}{}", " ".repeat(900_000));
    served
        .process
        .poll("there to be room again", || (served.post(PATH, &[], &long).status == 400).then_some(()));
}

#[test]
fn a_revision_that_is_not_spoken_is_answered_with_all_that_are() {
    let served = Served::fixture(&[]);
    let session = served.session(PATH, None, "2025-11-25");
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let refused = session.send("POST", &[("MCP-Protocol-Version", "1999-01-01")], ping);
    assert_eq!(refused.status, 400);
    let error = refused.json()["error"].clone();
    let supported = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
    assert_eq!(error["data"], json!({"supported": supported, "requested": "1999-01-01"}));
}
