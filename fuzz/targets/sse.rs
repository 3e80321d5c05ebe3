//! Server-sent events: read as the standard says, wherever the bytes are cut, and never larger than they may be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meanwhile_mcp::upstream::http::sse::{Decoder, Event};

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (step, max, bytes) = input;
    let step = usize::from(step).max(1);

    let (whole, last_id) = decode(bytes, bytes.len().max(1), usize::MAX / 4);
    assert_eq!(
        decode(bytes, step, usize::MAX / 4),
        (whole.clone(), last_id.clone()),
        "it matters where it is cut"
    );
    let text = String::from_utf8_lossy(bytes);
    assert_eq!((whole, last_id), by_the_standard(&text));

    let max = usize::from(max);
    for event in decode(bytes, step, max).0 {
        match event {
            // What is no UTF-8 is replaced by something of up to three bytes.
            Event::Data { data, .. } => assert!(data.len() <= 3 * max),
            Event::TooLong { bytes: lost } => assert!(lost > 0 && lost <= 3 * bytes.len()),
        }
    }
});

fn decode(bytes: &[u8], step: usize, max: usize) -> (Vec<Event>, Option<String>) {
    let mut decoder = Decoder::new(max);
    let events = bytes.chunks(step).flat_map(|part| decoder.push(part)).collect();
    (events, decoder.last_id().map(str::to_owned))
}

/// The algorithm of the standard, on a text that is there as a whole.
fn by_the_standard(text: &str) -> (Vec<Event>, Option<String>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    // What follows the last line break is no line yet.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let ended = if text.contains('\n') { lines.split('\n').collect() } else { Vec::new() };
    let (mut events, mut last_id, mut id) = (Vec::new(), None, None);
    let (mut name, mut data) = (String::new(), Vec::new());
    for line in ended {
        if line.is_empty() {
            last_id = id.take().or(last_id);
            let (name, data) = (std::mem::take(&mut name), std::mem::take(&mut data));
            if !data.is_empty() {
                events.push(Event::Data { name, data: data.join("\n") });
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => data.push(value.to_owned()),
            "event" => value.clone_into(&mut name),
            // A longer one would not go into a header.
            "id" if !value.contains('\0') && value.len() <= 4096 => id = Some(value.to_owned()),
            _ => {}
        }
    }
    (events, last_id)
}
