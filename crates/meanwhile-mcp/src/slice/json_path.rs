//! Slices by a JSON path, as RFC 9535 defines it.
//!
//! The only slices that are not the stored text itself: matches are written anew, with their keys sorted, and
//! numbers of more than 64 bits rounded. Whoever needs those to the digit reads the same part by bytes.

use std::io::{self, Write};

use serde_json::Value;
use serde_json_path::JsonPath;

use super::{MAX_BYTES, Part, Slice, SliceError, SliceRequest};
use super::{bytes, check_length, no_such, nothing, text_of};
use crate::document::Answer;

/// The most bytes of JSON that matches are written as: no more than an answer itself may have.
const RENDERED_BYTES: usize = 64 * 1024 * 1024;
/// How deep brackets may nest: the parser's time doubles with every filter in a filter.
const NESTING: usize = 10;
/// How often a node may be selected by lists in brackets: `[0,0][0,0]…` doubles with each.
const COPIES: usize = 128;
/// How many descendant segments a path may have: each multiplies the nodes by the depth.
const DESCENDANTS: usize = 4;

/// What `path` finds in the answer.
pub(super) fn slice(answer: &Answer<'_>, path: &str, request: &SliceRequest) -> Result<Slice, SliceError> {
    check_length("json_path", path)?;
    check_cost(path)?;
    let query = JsonPath::parse(path).map_err(|error| SliceError::Path { problem: error.to_string() })?;
    let value = target(answer, request.part)?;
    let matches = query.query(&value).all();
    let about = match matches.len() {
        0 => return Ok(nothing("no match")),
        1 => "1 match; ".to_owned(),
        count => format!("{count} matches; "),
    };
    bytes(&render(&matches)?, MAX_BYTES, &about, request)
}

/// The JSON that the path is applied to.
fn target(answer: &Answer<'_>, part: Option<Part>) -> Result<Value, SliceError> {
    let (what, json) = match part {
        Some(part @ Part::Block(index)) => {
            let block = answer.block(index).ok_or_else(|| no_such(part, answer))?;
            (part.to_string(), block.text().unwrap_or_else(|| block.raw.get().to_owned()))
        }
        Some(Part::Structured) => ("structuredContent".to_owned(), text_of(answer, part)?.into_owned()),
        None => match answer.structured() {
            Some(json) => ("structuredContent".to_owned(), json),
            None => ("the text".to_owned(), text_of(answer, None)?.into_owned()),
        },
    };
    serde_json::from_str(&json).map_err(|error| SliceError::NotJson { what, reason: error.to_string() })
}

/// One match as it reads best, several as a list with one on each line.
fn render(matches: &[&Value]) -> Result<String, SliceError> {
    let mut output = Bounded(Vec::new());
    let written = match matches {
        [Value::String(text)] => return Ok(text.clone()),
        [value] => serde_json::to_writer_pretty(&mut output, value).map_err(io::Error::from),
        values => write_list(&mut output, values),
    };
    written.map_err(|_| SliceError::TooBroad { max: RENDERED_BYTES })?;
    Ok(String::from_utf8_lossy(&output.0).into_owned())
}

fn write_list(output: &mut Bounded, values: &[&Value]) -> io::Result<()> {
    for (index, value) in values.iter().enumerate() {
        output.write_all(if index == 0 { b"[\n  " } else { b",\n  " })?;
        serde_json::to_writer(&mut *output, value)?;
    }
    output.write_all(b"\n]")
}

/// A buffer that refuses to grow past [`RENDERED_BYTES`]: matches inside matches are written again and again.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses what would take the parser or the search exponential time. Rough, but on the safe side of it:
/// nothing that a person would write comes near.
fn check_cost(path: &str) -> Result<(), SliceError> {
    let (mut depth, mut copies, mut descendants) = (0usize, 1usize, 0usize);
    let mut listed = 1;
    let mut previous = ' ';
    for character in unquoted(path) {
        match character {
            '[' | '(' => depth += 1,
            ']' | ')' => {
                depth = depth.saturating_sub(1);
                copies = copies.saturating_mul(std::mem::replace(&mut listed, 1));
            }
            ',' => listed += 1,
            '.' if previous == '.' => descendants += 1,
            _ => {}
        }
        previous = character;
        if depth > NESTING || copies > COPIES || descendants > DESCENDANTS {
            let problem = format!(
                "too costly, with more than {NESTING} brackets in each other, {DESCENDANTS} times `..`, \
                 or {COPIES} combinations of listed selectors"
            );
            return Err(SliceError::Path { problem });
        }
    }
    Ok(())
}

/// The characters of a path outside of its string literals.
fn unquoted(path: &str) -> impl Iterator<Item = char> {
    let (mut quote, mut escaped) = (None, false);
    path.chars().filter(move |&character| {
        let outside = quote.is_none();
        match quote {
            None if character == '"' || character == '\'' => quote = Some(character),
            Some(open) if character == open && !escaped => quote = None,
            _ => {}
        }
        escaped = !outside && character == '\\' && !escaped;
        outside
    })
}
