//! Slices of an answer: the first line of the input asks for one, the rest is the answer. What `next` says leads to the end.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use meanwhile_mcp::preview::preview;
use meanwhile_mcp::slice::{MAX_BYTES, Slice, SliceRequest, slice};

/// So many slices of one input are read.
const STEPS: usize = 50;

fuzz_target!(|input: &str| -> Corpus {
    let Some((request, answer)) = input.split_once('\n') else { return Corpus::Reject };
    let Ok(mut request) = serde_json::from_str::<SliceRequest>(request) else { return Corpus::Reject };
    if let Some(preview) = preview(answer, 64) {
        let _ = preview.describe_parts();
    }
    let mut before = Vec::new();
    for _ in 0..STEPS {
        match slice(answer, &request) {
            Ok(Slice::Text { body, next: Some(next), .. }) => {
                assert!(body.len() as u64 <= MAX_BYTES, "{} bytes", body.len());
                let next = serde_json::from_value(next).expect("`next` is a request");
                before.push(std::mem::replace(&mut request, next));
                assert!(!before.contains(&request), "in a circle: {request:?}");
            }
            Ok(Slice::Text { body, next: None, .. }) => {
                assert!(body.len() as u64 <= MAX_BYTES, "{} bytes", body.len());
                return Corpus::Keep;
            }
            Ok(Slice::Block(_)) => return Corpus::Keep,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return Corpus::Keep;
            }
        }
    }
    Corpus::Keep
});
