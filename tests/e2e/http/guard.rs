//! Who is let in, and how much: each refusal by its status and its code.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::web::Served;
use crate::client::{Client, Home, meanwhile, text};
use crate::faces::Gate;

const TOKENS: &str = "ann: ann-0123456789abcdef\nbob: bob-0123456789abcdef\n";
pub(super) const ANN: &str = "ann-0123456789abcdef";
pub(super) const BOB: &str = "bob-0123456789abcdef";

pub(super) fn write(file: &Path, text: &str, mode: u32) -> String {
    std::fs::write(file, text).expect("the file is written");
    std::fs::set_permissions(file, Permissions::from_mode(mode)).expect("it is ours");
    file.to_str().expect("the path is UTF-8").to_owned()
}

pub(crate) fn token_file(home: &Home, mode: u32) -> String {
    write(&home.path("tokens"), TOKENS, mode)
}

/// What `meanwhile serve` says when it does not start.
fn complaint(home: &Home, extra: &[&str]) -> String {
    let config = home.path("mcp.json");
    if !config.exists() {
        write(&config, r#"{"mcpServers": {"x": {"command": "x"}}}"#, 0o600);
    }
    let config = config.to_str().expect("the path is UTF-8");
    let args = [&[meanwhile(), "serve", "--config", config], extra].concat();
    let process = Client::spawn_in(home, &args, &[]);
    assert_eq!(process.wait_exit().code(), Some(1));
    process.wait_stderr("meanwhile: ")
}

#[test]
fn other_hosts_and_origins_are_kept_out() {
    let served =
        Served::fixture(&["--allow-host", "mcp.example.org", "--allow-origin", "https://app.example.org"]);
    let status = |headers: &[(&str, &str)]| served.post("/mcp/fixture", headers, "{}").refusal();
    assert_eq!(status(&[("Host", "evil.example")]), (403, -32600));
    assert_eq!(status(&[("Origin", "http://evil.example")]), (403, -32600));
    assert_eq!(status(&[("Origin", "null")]), (403, -32600));
    // These are let in, and then `{}` is no message.
    assert_eq!(status(&[("Host", "mcp.example.org")]), (400, -32600));
    assert_eq!(status(&[("Host", "localhost:99")]), (400, -32600));
    assert_eq!(status(&[("Origin", "https://app.example.org")]), (400, -32600));
    assert_eq!(status(&[("Origin", "http://localhost:6274")]), (400, -32600));
}

#[test]
fn pages_of_allowed_origins_may_ask_and_see_what_they_need() {
    let home = Home::new();
    let file = token_file(&home, 0o600);
    let served =
        Served::fixture_in(&home, &["--token-file", &file, "--allow-origin", "https://app.example.org"]);
    let preflight = |origin: &str| {
        let wanted = "authorization,content-type,last-event-id,mcp-session-id,mcp-param-region";
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", wanted),
        ];
        let answer = served.send("OPTIONS", "/mcp/fixture", &headers, "");
        let said = ["origin", "methods", "headers"]
            .map(|what| answer.header(&format!("access-control-allow-{what}")).map(str::to_owned));
        (answer.status, said, wanted)
    };
    for origin in ["https://app.example.org", "http://localhost:6274"] {
        let (status, said, wanted) = preflight(origin);
        let allowed = [origin, "GET,POST,DELETE", wanted].map(|text| Some(text.to_owned()));
        assert_eq!((status, said), (200, allowed));
        // A page sees also why it is refused.
        let refused = served.post("/mcp/fixture", &[("Origin", origin)], "{}");
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some(origin)));
        let exposed = refused.header("access-control-expose-headers").expect("some");
        assert!(exposed.contains("mcp-session-id") && exposed.contains("www-authenticate"), "{exposed}");
    }
    let (status, said, _) = preflight("https://evil.example");
    assert_eq!((status, said), (403, [None, None, None]));
}

#[test]
fn a_token_is_needed_and_each_holder_sees_their_own_jobs_only() {
    let home = Home::new();
    let file = token_file(&home, 0o600);
    let served = Served::fixture_in(&home, &["--token-file", &file, "--inline-budget", "30ms"]);
    for headers in [&[][..], &[("Authorization", "Basic YW5uOng=")], &[("Authorization", "Bearer ann")]] {
        let answer = served.post("/mcp/fixture", headers, "{}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        assert_eq!(answer.refusal(), (401, -32600));
    }
    let ann = served.session("/mcp/fixture", Some(ANN), "2025-11-25");
    let bob = served.session("/mcp/fixture", Some(BOB), "2025-11-25");
    let gate = Gate::new(&home, "gate");
    let handle = ann.call("gate", &gate.arguments())["structuredContent"]["handle"].clone();
    let foreign = bob.call("poll_result", &json!({"handle": handle}));
    assert_eq!(foreign["structuredContent"]["status"], "not_found");
    assert_eq!(bob.call("list_jobs", &json!({}))["structuredContent"]["jobs"], json!([]));
    // Nor does a session open to another token.
    let stolen = [("Authorization", &*format!("Bearer {BOB}")), ("Mcp-Session-Id", &*ann.id)];
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(served.post("/mcp/fixture", &stolen, ping).refusal(), (404, -32600));
    gate.open();
    let again = served.session("/mcp/fixture", Some(ANN), "2025-11-25");
    assert_eq!(text(&again.call("poll_result", &json!({"handle": handle}))), "opened");
}

#[test]
fn it_does_not_start_where_it_would_be_open_to_others() {
    let home = Home::new();
    assert!(complaint(&home, &["--listen", "0.0.0.0:0"]).contains("--token-file"));
    let file = token_file(&home, 0o644);
    assert!(complaint(&home, &["--token-file", &file]).contains("chmod 600"));
    let empty = write(&home.path("empty"), "", 0o600);
    assert!(complaint(&home, &["--token-file", &empty]).contains("no token"));
}

#[test]
fn a_wrong_configuration_names_file_server_and_field() {
    let home = Home::new();
    std::fs::write(home.path("mcp.json"), r#"{"mcpServers": {"x": {"command": "x", "ttl": "soon"}}}"#)
        .unwrap();
    let said = complaint(&home, &[]);
    for part in ["mcp.json", "server `x`", "field `ttl`"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn what_is_no_message_is_refused_with_its_code() {
    let served = Served::fixture(&["--max-message", "2KiB"]);
    let refusal = |body: &str| served.post("/mcp/fixture", &[], body).refusal();
    assert_eq!(refusal("{"), (400, -32700));
    assert_eq!(refusal("[]"), (400, -32600));
    assert_eq!(refusal(&" ".repeat(4096)), (413, -32600));
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let send = |method: &str, path: &str, headers: &[(&str, &str)]| {
        served.send(method, path, headers, ping).refusal()
    };
    assert_eq!(send("POST", "/mcp/fixture", &[("Accept", "*/*")]), (415, -32600));
    let json = ("Content-Type", "application/json");
    assert_eq!(send("POST", "/mcp/fixture", &[json, ("Accept", "application/json")]), (406, -32600));
    assert_eq!(send("PUT", "/mcp/fixture", &[json]), (405, -32600));
    assert_eq!(send("POST", "/mcp/nobody", &[json]), (404, -32600));
    for nowhere in ["/elsewhere", "/mcp/", "/mcp/%FF", "/mcp/fixture/more"] {
        assert_eq!(send("POST", nowhere, &[json]), (404, -32600));
    }
}

#[test]
fn there_are_no_more_sessions_requests_and_streams_than_there_may_be() {
    let served = Served::fixture(&[
        "--max-sessions",
        "1",
        "--max-requests",
        "1",
        "--max-streams",
        "1",
        "--mode",
        "inline",
    ]);
    let session = served.session("/mcp/fixture", None, "2025-11-25");
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    let refused = served.post("/mcp/fixture", &[], hello);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.refusal(), (503, -32603));
    let _listening = session.listen();
    assert_eq!(session.send("GET", &[], "").refusal(), (503, -32603));
    let gate = Gate::new(served.process.home(), "gate");
    let mut waiting = session.ask("g", "tools/call", &json!({"name": "gate", "arguments": gate.arguments()}));
    assert_eq!(session.ask("p", "ping", &json!({})).refusal(), (503, -32603));
    gate.open();
    assert_eq!(text(&waiting.response()["result"]), "opened");
    assert_eq!(session.request("ping", &json!({}))["result"], json!({}));
}
