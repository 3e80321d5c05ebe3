//! Texts in headers: what a server is told is what was meant, and it fits into a header.
#![no_main]

use axum::http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use meanwhile_mcp::fuzzing::{read_from_header, written_into_header};

fuzz_target!(|text: &str| {
    let written = written_into_header(text);
    let value = HeaderValue::from_str(&written).expect("it fits into a header");
    // So it is read: without the blanks around it.
    let read = value.to_str().expect("it is visible ASCII").trim();
    assert_eq!(read_from_header(read).as_deref(), Some(text), "{written}");
    let _ = read_from_header(text);
});
