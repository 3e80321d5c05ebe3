//! What must be true of every answer.

use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{Method, StatusCode};
use meanwhile_mcp::message::{Answer as Outcome, Id, Incoming, Message, parse};
use meanwhile_mcp::upstream::http::sse::{Decoder, Event};
use serde_json::Value;

use crate::Answer;
use crate::script::{Asked, Script, TOKEN};
use crate::server::BODY_MAX;

/// Says who issues tokens.
const METADATA: &str = "/.well-known/oauth-protected-resource";
/// What clients accept.
const BOTH: &str = "application/json, text/event-stream";
/// Far more than any event here has.
const EVENT_MAX: usize = 1024 * 1024;

pub(crate) fn answer(script: &Script<'_>, asked: &Asked, answer: &Answer) {
    let status = answer.head.status;
    let told = || format!("{status}: {}", String::from_utf8_lossy(&answer.body));
    if let Some(expected) = expected(script, asked) {
        assert_eq!(status, expected, "{}", told());
    }
    if asked.method == Method::HEAD {
        assert!(answer.body.is_empty(), "{}", told());
        return;
    }
    // What a page may do is said in headers alone.
    let is_preflight = asked.method == Method::OPTIONS && status == StatusCode::OK;
    // The framework's own, where a path is for GET.
    let is_elsewhere = status == StatusCode::METHOD_NOT_ALLOWED && asked.uri.path().starts_with(METADATA);
    match status {
        _ if is_preflight || is_elsewhere => assert!(answer.body.is_empty(), "{}", told()),
        StatusCode::ACCEPTED | StatusCode::NO_CONTENT => assert!(answer.body.is_empty(), "{}", told()),
        StatusCode::OK | StatusCode::NOT_FOUND
            if answer.header("content-type") == Some("text/event-stream") =>
        {
            events(asked, answer);
        }
        StatusCode::OK => single(asked, answer, false),
        // Only a server that answers nothing makes us do that.
        StatusCode::INTERNAL_SERVER_ERROR => {
            assert!(asked.body.contains("drop"), "{}", told());
            single(asked, answer, true);
        }
        StatusCode::BAD_REQUEST
        | StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::SERVICE_UNAVAILABLE => single(asked, answer, true),
        _ => panic!("no status of ours: {}", told()),
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        assert!(answer.header("allow").is_some(), "which methods are allowed is not said");
    }
    if status == StatusCode::UNAUTHORIZED {
        assert!(answer.header("www-authenticate").is_some(), "how to get in is not said");
    }
}

/// The status, where it follows from one thing alone.
fn expected(script: &Script<'_>, asked: &Asked) -> Option<StatusCode> {
    let is_named = asked.uri.authority().is_some() || asked.headers.contains_key(HOST);
    if !is_named || asked.headers.get_all(HOST).iter().count() > 1 {
        return Some(StatusCode::FORBIDDEN);
    }
    let names_other = asked.uri.authority().is_some()
        || asked.headers.get(HOST)? != "localhost"
        || asked.headers.contains_key(ORIGIN);
    let path = asked.uri.path();
    // The path is decoded before it is looked at.
    if names_other || path.contains('%') || path.starts_with(METADATA) {
        return None;
    }
    if asked.method == Method::OPTIONS {
        return Some(StatusCode::OK);
    }
    let name = if path == "/mcp" { Some("") } else { path.strip_prefix("/mcp/") };
    let Some(name) = name.filter(|name| path == "/mcp" || !name.is_empty() && !name.contains('/')) else {
        return Some(StatusCode::NOT_FOUND);
    };
    let is_known =
        asked.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().ends_with(TOKEN.as_bytes()));
    if script.needs_token && !is_known {
        return Some(StatusCode::UNAUTHORIZED);
    }
    if script.needs_token {
        return None;
    }
    if !["", "files", "web"].contains(&name) {
        return Some(StatusCode::NOT_FOUND);
    }
    match asked.method {
        Method::POST => of_a_post(asked),
        Method::GET | Method::DELETE => None,
        _ => Some(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn of_a_post(asked: &Asked) -> Option<StatusCode> {
    match asked.headers.get(CONTENT_TYPE) {
        None => return Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        Some(kind) if kind == "application/json" => {}
        Some(_) => return None,
    }
    // What the head says goes before the body.
    let is_of_something =
        ["mcp-session-id", "mcp-protocol-version"].iter().any(|name| asked.headers.contains_key(*name));
    if is_of_something || asked.headers.get(ACCEPT).is_some_and(|accepted| accepted != BOTH) {
        return None;
    }
    if asked.body.len() > BODY_MAX {
        return Some(StatusCode::PAYLOAD_TOO_LARGE);
    }
    parse(&asked.body).err().map(|_| StatusCode::BAD_REQUEST)
}

/// One JSON-RPC response as the whole body.
fn single(asked: &Asked, answer: &Answer, is_refusal: bool) {
    assert!(answer.is_whole, "a body without an end");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let text = std::str::from_utf8(&answer.body).expect("JSON is UTF-8");
    let Ok(Incoming::One(Message::Response { id, answer, .. })) = parse(text) else {
        panic!("no response: {text}")
    };
    if is_refusal {
        assert!(matches!(answer, Outcome::Error(_)), "a refusal that is no error: {text}");
    }
    assert!(id.is_unknown() && is_refusal || is_id_of(&id, asked), "an answer to something else: {text}");
}

/// Messages as server-sent events, of which answers are to what was asked.
fn events(asked: &Asked, answer: &Answer) {
    let mut decoder = Decoder::new(EVENT_MAX);
    let (mut answered, mut is_over) = (Vec::new(), false);
    for event in decoder.push(&answer.body) {
        let Event::Data { name, data } = event else { panic!("an event without an end") };
        assert!(name.is_empty(), "an event named {name}");
        if data.is_empty() {
            continue;
        }
        let Ok(Incoming::One(message)) = parse(&data) else { panic!("no message: {data}") };
        assert!(!is_over, "something behind the answer: {data}");
        let Message::Response { id, .. } = message else { continue };
        if asked.method == Method::POST {
            assert!(id.is_unknown() || is_id_of(&id, asked), "an answer to something else: {data}");
            assert!(!answered.contains(&id) || is_batch(asked), "answered twice: {data}");
            is_over = !is_batch(asked);
        }
        answered.push(id);
    }
}

fn is_batch(asked: &Asked) -> bool {
    asked.body.trim_start().starts_with('[')
}

fn is_id_of(id: &Id, asked: &Asked) -> bool {
    let Ok(body) = serde_json::from_str::<Value>(&asked.body) else { return true };
    let Ok(id) = serde_json::from_str::<Value>(id.to_json().get()) else { return true };
    match &body {
        Value::Array(parts) => parts.iter().any(|part| part.get("id") == Some(&id)),
        body => body.get("id") == Some(&id),
    }
}
