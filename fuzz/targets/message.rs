//! The reader of JSON-RPC: whatever comes is a message that passes on as it is, or gets an answer that says what is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meanwhile_mcp::message::{Answer, Incoming, Message, parse};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let whole: Option<Value> = serde_json::from_str(text).ok();
    match parse(text) {
        Ok(Incoming::One(message)) => check(&message, whole.as_ref()),
        Ok(Incoming::Batch(parts)) => {
            assert!(!parts.is_empty(), "an empty batch");
            for (at, part) in parts.iter().enumerate() {
                match part {
                    Ok(message) => check(message, whole.as_ref().map(|whole| &whole[at])),
                    Err(malformed) => check_refusal(&malformed.to_line()),
                }
            }
        }
        Err(malformed) => check_refusal(&malformed.to_line()),
    }
});

/// What was read is written as it was, and read again as the same.
fn check(message: &Message, written: Option<&Value>) {
    let line = message.to_line();
    let Ok(Incoming::One(again)) = parse(&line) else { panic!("not read again: {line}") };
    assert_eq!(again.to_line(), line);
    let (Some(written), Ok(mut sent)) = (written, serde_json::from_str::<Value>(&line)) else { return };
    if written.get("id").is_none() && sent["id"].is_null() {
        // An error that answers nobody knows which request has an id of `null` from here on.
        sent.as_object_mut().expect("a message is an object").remove("id");
    }
    assert_eq!(&sent, written);
}

fn check_refusal(line: &str) {
    let Ok(Incoming::One(Message::Response { answer: Answer::Error(_), .. })) = parse(line) else {
        panic!("a refusal that is no error: {line}")
    };
}
