//! The reader of lines: however the bytes come, the lines are the same, and none is longer than it may be.
#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libfuzzer_sys::fuzz_target;
use meanwhile_mcp::transport::{Line, LineReader};
use tokio::io::{AsyncRead, ReadBuf};

fuzz_target!(|input: (u16, u8, &[u8])| {
    let (max, step, bytes) = input;
    let (max, step) = (usize::from(max), usize::from(step).max(1));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let read = runtime.block_on(read_all(Pieces { bytes, step }, max));
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
    let expected: Vec<Read> = lines.map(|line| expected(line, max)).collect();
    // What is too long is let go before it is known to be blank.
    let told = |read: &[Read]| -> Vec<Read> {
        read.iter().filter(|line| !matches!(line, Read::TooLong(_))).cloned().collect()
    };
    assert_eq!(told(&read), told(&expected));
});

#[derive(Debug, Clone, PartialEq)]
enum Read {
    Text(String),
    NotText,
    TooLong(usize),
}

fn expected(line: &[u8], max: usize) -> Read {
    match std::str::from_utf8(line) {
        _ if line.len() > max => Read::TooLong(line.len()),
        Ok(text) => Read::Text(text.to_owned()),
        Err(_) => Read::NotText,
    }
}

async fn read_all(pieces: Pieces<'_>, max: usize) -> Vec<Read> {
    let mut reader = LineReader::new(pieces, max);
    let mut read = Vec::new();
    while let Some(line) = reader.next().await.expect("the stream does not fail") {
        read.push(match line {
            Line::Text(text) => Read::Text(text.to_owned()),
            Line::NotText => Read::NotText,
            Line::TooLong { bytes, .. } => {
                assert!(bytes > max, "{bytes} bytes are not too long for {max}");
                Read::TooLong(bytes)
            }
        });
    }
    read
}

/// Bytes that come a few at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (piece, rest) = self.bytes.split_at(self.step.min(self.bytes.len()).min(into.remaining()));
        into.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}
