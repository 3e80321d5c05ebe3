//! What the tool `read_result` does: one slice of a stored answer, and how to ask for the next.
//!
//! An answer may be of any size, a slice has at most 64 KiB. What `next` says, taken as arguments again and
//! again, reads all there is to the last byte. All of it is pure, and takes time in the size of the answer:
//! for large ones call it where it may block. (A `json_path` with filters inside filters can take longer than
//! that.)

mod error;
mod grep;
mod json_path;
mod lines;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::document::{Answer, Block, describe};

pub use crate::document::Part;
pub use error::SliceError;

/// The bytes of a slice when neither a limit nor a selection is given.
pub const DEFAULT_BYTES: u64 = 16 * 1024;
/// The most bytes of text in one slice, whatever is selected; a higher `limit` is read as this.
pub const MAX_BYTES: u64 = 64 * 1024;
/// The matches that `grep` shows when no limit is given.
pub const DEFAULT_MATCHES: u64 = 50;
/// The most matches that `grep` shows at once; a higher `limit` is read as this.
pub const MAX_MATCHES: u64 = 1000;
/// The most lines of context before, and after, a match.
pub const MAX_CONTEXT: u32 = 20;
/// The most characters of a regular expression or of a JSON path.
pub const MAX_PATTERN_CHARS: usize = 1000;

/// Which slice of an answer is wanted. `lines`, `grep` and `json_path` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SliceRequest {
    /// A content block, or the structured content. Without it: all text blocks and embedded text resources,
    /// joined by line feeds; without any, the structured content. A `json_path` looks first into the
    /// structured content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// Where to start: a byte of what is selected (of the lines, of the JSON that a path found), or the
    /// number of matches of `grep` to skip. Moved down to the border of a character. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How much at most: bytes (default [`DEFAULT_BYTES`]; with `lines` or `json_path` [`MAX_BYTES`]), or
    /// matches of `grep` (default [`DEFAULT_MATCHES`]). At least one character is read. 0 is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Lines, counted from 1: `100-200`, `100-` (to the end), `-50` (the last 50), `7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<String>,
    /// A regular expression, in the syntax of the `regex` crate, matched line by line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
    /// Lines shown before and after a match of `grep`: 0 (default) to [`MAX_CONTEXT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// A query of [RFC 9535](https://www.rfc-editor.org/rfc/rfc9535).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_path: Option<String>,
}

/// A slice of an answer.
#[derive(Debug, Clone)]
pub enum Slice {
    /// Some text.
    Text {
        /// The slice itself, at most [`MAX_BYTES`] long.
        body: String,
        /// One line that says which slice this is, of how much, and the arguments for what comes next.
        note: String,
        /// Those arguments (without the handle). `None` at the end.
        next: Option<Value>,
    },
    /// A content block that is not text, word for word and as large as it is.
    Block(Box<RawValue>),
}

/// Takes the slice that `request` asks for from `answer`, the raw JSON of a `CallToolResult`.
///
/// # Errors
/// A [`SliceError`] names the argument that cannot be followed, and the mend. Nothing else fails: an answer
/// that is no `CallToolResult` is read as text.
pub fn slice(answer: &str, request: &SliceRequest) -> Result<Slice, SliceError> {
    let selection = request.selection()?;
    let answer = Answer::parse(answer);
    if let Selection::JsonPath(path) = selection {
        return json_path::slice(&answer, path, request);
    }
    if let Some(block) = block_itself(&answer, request)? {
        return Ok(Slice::Block(block.raw.to_owned()));
    }
    let text = text_of(&answer, request.part)?;
    match selection {
        Selection::Lines(range) => lines::slice(&text, range, request),
        Selection::Grep(pattern) => grep::slice(&text, pattern, request),
        Selection::Bytes | Selection::JsonPath(_) => bytes(&text, DEFAULT_BYTES, "", request),
    }
}

/// What is selected by.
enum Selection<'a> {
    Bytes,
    Lines(&'a str),
    Grep(&'a str),
    JsonPath(&'a str),
}

impl SliceRequest {
    /// The one way of selecting, if the arguments agree with each other.
    fn selection(&self) -> Result<Selection<'_>, SliceError> {
        let selection = match (&self.lines, &self.grep, &self.json_path) {
            (Some(_), Some(_), _) => return Err(SliceError::Exclusive { first: "lines", second: "grep" }),
            (Some(_), _, Some(_)) => {
                return Err(SliceError::Exclusive { first: "lines", second: "json_path" });
            }
            (_, Some(_), Some(_)) => {
                return Err(SliceError::Exclusive { first: "grep", second: "json_path" });
            }
            (Some(range), None, None) => Selection::Lines(range),
            (None, Some(pattern), None) => Selection::Grep(pattern),
            (None, None, Some(path)) => Selection::JsonPath(path),
            (None, None, None) => Selection::Bytes,
        };
        let grep = matches!(selection, Selection::Grep(_));
        if self.limit == Some(0) {
            return Err(SliceError::ZeroLimit { max: if grep { MAX_MATCHES } else { MAX_BYTES } });
        }
        match self.context {
            Some(_) if !grep => Err(SliceError::StrayContext),
            Some(given) if given > MAX_CONTEXT => Err(SliceError::TooMuchContext { given, max: MAX_CONTEXT }),
            _ => Ok(selection),
        }
    }

    /// The first argument that only makes sense for text, if there is one.
    fn needs_text(&self) -> Option<&'static str> {
        let given = [
            ("lines", self.lines.is_some()),
            ("grep", self.grep.is_some()),
            ("offset", self.offset.is_some()),
            ("limit", self.limit.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(field, _)| field)
    }

    /// The same request from `offset` on.
    fn starting_at(&self, offset: usize) -> Self {
        Self { offset: Some(offset as u64), ..self.clone() }
    }
}

/// The block to be returned itself, because it is asked for as a whole and is not text.
fn block_itself<'b, 'a>(
    answer: &'b Answer<'a>,
    request: &SliceRequest,
) -> Result<Option<&'b Block<'a>>, SliceError> {
    let Some(part @ Part::Block(index)) = request.part else { return Ok(None) };
    let block = answer.block(index).ok_or_else(|| no_such(part, answer))?;
    match request.needs_text() {
        _ if block.is_text() => Ok(None),
        None => Ok(Some(block)),
        Some(field) => {
            let info = block.info(index).to_string();
            Err(SliceError::NotText { field, part: part.to_string(), info })
        }
    }
}

/// The text that is read from.
fn text_of<'a>(answer: &Answer<'a>, part: Option<Part>) -> Result<Cow<'a, str>, SliceError> {
    let Some(part) = part else {
        return answer.document().ok_or_else(|| SliceError::NoText { parts: describe(&answer.parts()) });
    };
    let text = match part {
        Part::Structured => answer.structured(),
        Part::Block(index) => answer.block(index).and_then(Block::text),
    };
    text.map(Cow::Owned).ok_or_else(|| no_such(part, answer))
}

fn no_such(part: Part, answer: &Answer<'_>) -> SliceError {
    let asked = if part == Part::Structured { "structured content".to_owned() } else { part.to_string() };
    SliceError::NoSuchPart { asked, parts: describe(&answer.parts()) }
}

/// A slice of `text` by bytes; `about` comes first in the note.
fn bytes(text: &str, default: u64, about: &str, request: &SliceRequest) -> Result<Slice, SliceError> {
    let page = page(text, default, request)?;
    let next = (page.end < text.len()).then(|| request.starting_at(page.end));
    let shown = format!("{about}bytes {}-{} of {}", page.start, page.end, text.len());
    Ok(sliced(text[page].to_owned(), &shown, next))
}

/// The bytes of `text` that the request's offset and limit name, moved down to the borders of characters, but
/// never to nothing.
fn page(text: &str, default: u64, request: &SliceRequest) -> Result<Range<usize>, SliceError> {
    let offset = request.offset.unwrap_or(0);
    let total = text.len() as u64;
    if offset > total {
        return Err(SliceError::OffsetPastEnd { offset, total, unit: "bytes" });
    }
    let limit = request.limit.unwrap_or(default).min(MAX_BYTES);
    let start = text.floor_char_boundary(offset as usize);
    let end = text.floor_char_boundary(start.saturating_add(limit as usize));
    Ok(if end > start { start..end } else { start..text.ceil_char_boundary(start.saturating_add(1)) })
}

/// The slice with its note: what is shown, and what comes next.
fn sliced(body: String, shown: &str, next: Option<SliceRequest>) -> Slice {
    // A request is strings and numbers under string keys, which always make a value.
    let next = next.and_then(|request| serde_json::to_value(request).ok());
    let note = match &next {
        Some(next) => format!("{shown}; next: {next}"),
        None => format!("{shown}; the end"),
    };
    Slice::Text { body, note, next }
}

/// A text without anything in it, and why.
fn nothing(note: &str) -> Slice {
    Slice::Text { body: String::new(), note: note.to_owned(), next: None }
}

/// Refuses a pattern or path that is too long to be meant.
fn check_length(field: &'static str, pattern: &str) -> Result<(), SliceError> {
    let length = pattern.chars().count();
    if length > MAX_PATTERN_CHARS {
        return Err(SliceError::TooLong { field, length, max: MAX_PATTERN_CHARS });
    }
    Ok(())
}
