//! Results too large for a model: a preview, and slices of the whole. Nothing is dropped.

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, text};
use crate::faces::{handle, poll};

fn finished(tool: &str, arguments: Value) -> (Client, String, Value) {
    let client = Client::wrap(&["--mode", "handle"], &[FIXTURE]);
    client.initialize();
    let handle = handle(&client.call(tool, arguments));
    let polled = poll(&client, &handle);
    (client, handle, polled)
}

fn read(client: &Client, handle: &str, mut arguments: Value) -> Value {
    arguments["handle"] = json!(handle);
    client.call("read_result", arguments)
}

/// 9 000 lines of 60 bytes: far more than the 64 KiB that a row of the store takes.
#[test]
fn a_large_result_comes_as_a_preview_and_is_read_by_lines_bytes_and_search() {
    let (client, handle, polled) = finished("big", json!({"lines": 9000}));
    let said = text(&polled);
    assert!(said.len() < 8 * 1024 && said.contains("read_result") && said.contains("image/png"), "{said}");
    assert!(said.contains("line 000001 ") && said.contains("line 009000 "), "both ends are shown: {said}");
    let lines = read(&client, &handle, json!({"lines": "4999-5000"}));
    let body = text(&lines);
    assert!(
        body.starts_with("line 004999 ") && body.contains("line 005000 ") && !body.contains("005001"),
        "{body}"
    );
    let found = read(&client, &handle, json!({"grep": "line 00777[0-1]", "context": 1}));
    assert!(
        text(&found).contains("7770: line 007770") && text(&found).contains("7769- line 007769"),
        "{found}"
    );
    let image = read(&client, &handle, json!({"part": 1}));
    assert_eq!(
        (&image["content"][0]["type"], &image["content"][0]["mimeType"]),
        (&json!("image"), &json!("image/png"))
    );
}

#[test]
fn pages_of_bytes_put_together_are_the_whole_result() {
    let (client, handle, _) = finished("big", json!({"lines": 5000}));
    let bare = Client::bare(&[FIXTURE]);
    bare.initialize();
    let whole = bare.call("big", json!({"lines": 5000}));
    let mut next = json!({"part": 0, "limit": 50_001});
    let mut pages = String::new();
    while next.is_object() {
        let page = read(&client, &handle, next);
        pages.push_str(page["structuredContent"]["text"].as_str().expect("a page"));
        next = page["structuredContent"]["next"].clone();
    }
    assert!(pages == text(&whole), "{} bytes of {}", pages.len(), text(&whole).len());
}

#[test]
fn structured_content_is_read_by_json_path() {
    let (client, handle, polled) = finished("big_json", json!({"items": 3000}));
    assert_eq!(polled["structuredContent"]["preview"], json!(true));
    let found = read(&client, &handle, json!({"json_path": "$.items[2718].name"}));
    assert_eq!(text(&found), "item 2718");
    let wrong = read(&client, &handle, json!({"json_path": "items["}));
    assert_eq!(wrong["isError"], true);
    assert!(text(&wrong).contains("`json_path`"), "{wrong}");
}

#[test]
fn a_small_result_is_never_cut() {
    let (_client, _handle, polled) = finished("image", json!({}));
    let bare = Client::bare(&[FIXTURE]);
    bare.initialize();
    assert_eq!(polled, bare.call("image", json!({})));
}

#[test]
fn a_result_that_is_not_there_yet_cannot_be_read() {
    let client = crate::faces::impatient(&[]);
    let gate = crate::faces::Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let early = read(&client, &handle, json!({}));
    assert_eq!(early["structuredContent"]["status"], "working");
    gate.open();
    poll(&client, &handle);
    assert_eq!(text(&read(&client, &handle, json!({}))), "opened");
}
