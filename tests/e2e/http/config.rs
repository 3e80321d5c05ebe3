//! The servers of a configuration, as they are really reached.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::json;

use super::modern::{ask, call};
use super::web::Served;
use crate::client::{CONFORMANCE, Home, text};
use crate::remote::Server;

#[test]
fn a_server_elsewhere_is_served_by_a_toml_file_to_both_eras() {
    let server = Server::start(CONFORMANCE, &[]);
    let toml = format!("[mcp_servers.fixture]\ntype = \"http\"\nurl = \"{}\"\nera = \"auto\"\n", server.url);
    let served = Served::configured(&Home::new(), "mcp.toml", &toml, &[]);
    for (name, path) in [("all servers", "/mcp"), ("fixture", "/mcp/fixture")] {
        served.process.wait_stderr(&format!("{name}: http://{}{path}", served.address));
    }
    let said = "This is a simple text response for testing.";
    for (path, tool) in [("/mcp/fixture", "test_simple_text"), ("/mcp", "fixture__test_simple_text")] {
        let session = served.session(path, None, "2025-11-25");
        assert_eq!(text(&session.call(tool, &json!({}))), said);
    }
    let answer =
        ask(&served, "tools/call", &call("test_simple_text", &json!({}), &json!({})), &[]).response();
    assert_eq!(text(&answer["result"]), said);
}

#[test]
fn headers_of_the_configuration_reach_the_server_with_their_variables() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        let mut head = String::new();
        while reader.read_line(&mut head).expect("a head") > 2 {}
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        reader.read_exact(&mut body).expect("a body");
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        head.to_ascii_lowercase()
    });
    let toml = format!(
        "[servers.far]\ntype = \"http\"\nurl = \"{url}\"\n[servers.far.headers]\nX-Key = \"k-${{NO_SUCH_VARIABLE:-7}}\"\n"
    );
    let served = Served::configured(&Home::new(), "mcp.toml", &toml, &[]);
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    let answer = served.post("/mcp/far", &[], hello);
    assert_eq!((answer.status, answer.header("mcp-session-id")), (200, None));
    assert!(heard.join().expect("it was asked").contains("x-key: k-7"));
}
