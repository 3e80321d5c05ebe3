//! Lines of bounded length from a byte stream.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

const CHUNK: usize = 16 * 1024;
/// What is remembered of both ends of a line that was too long, in bytes: enough to find whose answer it was.
const ENDS: usize = 256;
/// A buffer that one large line has grown beyond this, in bytes, is given back.
const KEEP: usize = 1024 * 1024;

/// What one line held.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A text.
    Text(&'a str),
    /// Bytes that are no text.
    NotText,
    /// More bytes than allowed. They are gone, but for both ends.
    TooLong {
        /// How many there were.
        bytes: usize,
        /// The first few.
        head: String,
        /// The last few.
        tail: String,
    },
}

/// Reads lines.
#[derive(Debug)]
pub struct LineReader<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    start: usize,
    /// How far the buffer is known to hold no end of a line.
    searched: usize,
    max: usize,
    /// The line being read was too long: its first bytes, and how many of it were let go.
    overlong: Option<(Vec<u8>, usize)>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Reads lines of at most `max` bytes from `stream`.
    pub fn new(stream: R, max: usize) -> LineReader<R> {
        LineReader { stream, buffer: Vec::new(), start: 0, searched: 0, max, overlong: None, ended: false }
    }

    /// The next line that is not empty, without its end; `None` when the stream has ended. A last line needs no end.
    ///
    /// # Errors
    /// If the stream fails.
    pub async fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            while let Some(end) = self.find_end() {
                let begin = std::mem::replace(&mut self.start, end + 1);
                self.searched = self.start;
                if self.overlong.is_some() || !is_blank(&self.buffer[begin..end]) {
                    return Ok(Some(self.line(begin, end)));
                }
            }
            if self.ended {
                let begin = std::mem::replace(&mut self.start, self.buffer.len());
                let blank = self.overlong.is_none() && is_blank(&self.buffer[begin..]);
                return Ok(if blank { None } else { Some(self.line(begin, self.buffer.len())) });
            }
            self.fill().await?;
        }
    }

    fn find_end(&mut self) -> Option<usize> {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..]);
        let end = found.map(|offset| self.searched + offset);
        self.searched = end.unwrap_or(self.buffer.len());
        end
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
            self.buffer = Vec::new();
        }
        if self.buffer.len() > self.max {
            self.let_go();
        }
        self.buffer.reserve(CHUNK);
        self.ended = self.stream.read_buf(&mut self.buffer).await? == 0;
        Ok(())
    }

    /// The line is too long already: keep its ends only.
    fn let_go(&mut self) {
        let (_, gone) =
            self.overlong.get_or_insert_with(|| (self.buffer[..ENDS.min(self.buffer.len())].to_vec(), 0));
        let rest = self.buffer.len().saturating_sub(ENDS);
        *gone += rest;
        self.buffer.drain(..rest);
        self.searched = self.buffer.len();
    }

    fn line(&mut self, begin: usize, end: usize) -> Line<'_> {
        let bytes = &self.buffer[begin..end];
        let tail = || String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(ENDS)..]).into_owned();
        if let Some((head, gone)) = self.overlong.take() {
            let head = String::from_utf8_lossy(&head).into_owned();
            return Line::TooLong { bytes: gone + bytes.len(), head, tail: tail() };
        }
        if bytes.len() > self.max {
            let head = String::from_utf8_lossy(&bytes[..ENDS.min(bytes.len())]).into_owned();
            return Line::TooLong { bytes: bytes.len(), head, tail: tail() };
        }
        std::str::from_utf8(bytes).map_or(Line::NotText, Line::Text)
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn read_all(input: &[u8], max: usize) -> Vec<Option<String>> {
        let mut reader = LineReader::new(input, max);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            lines.push(match line {
                Line::Text(text) => Some(text.to_owned()),
                _ => None,
            });
        }
        lines
    }

    #[tokio::test]
    async fn lines_come_whole_and_blank_ones_are_skipped() {
        let lines = read_all(b"one\n\r\n  \ntwo\xff\nlast", 100).await;
        assert_eq!(lines, [Some("one".to_owned()), None, Some("last".to_owned())]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_keeps_its_ends_and_the_next_one_is_whole() {
        let long = format!("{{\"id\":1,{}\"end\":2}}\nnext\n", "x".repeat(200_000));
        let mut reader = LineReader::new(long.as_bytes(), 1000);
        let Some(Line::TooLong { bytes, head, tail }) = reader.next().await.unwrap() else {
            panic!("not too long")
        };
        assert_eq!(bytes, long.len() - 6);
        assert!(head.starts_with("{\"id\":1,x") && tail.ends_with("x\"end\":2}"));
        assert_eq!(reader.next().await.unwrap(), Some(Line::Text("next")));
        assert_eq!(reader.next().await.unwrap(), None);
    }

    proptest! {
        #[test]
        fn every_line_within_the_bound_is_read_word_for_word(lines in prop::collection::vec("[a-zé]{1,40}", 0..20)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(read_all(lines.join("\n").as_bytes(), 200));
            prop_assert_eq!(read, lines.into_iter().map(Some).collect::<Vec<_>>());
        }
    }
}
