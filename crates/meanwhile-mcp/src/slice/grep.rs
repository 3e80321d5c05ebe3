//! Slices by a regular expression, one line of output for each match, as `grep -n` writes them.
//!
//! A line too long to be shown is shown around its match, and searched on from there: minified JSON is one
//! line, and has more than one match worth seeing.

use std::collections::VecDeque;

use regex::{Regex, RegexBuilder};

use super::{DEFAULT_MATCHES, MAX_BYTES, MAX_MATCHES, Slice, SliceError, SliceRequest};
use super::{check_length, nothing, sliced};
use crate::document::count_lines;

/// The most memory, in bytes, of a compiled expression.
const REGEX_BYTES: usize = 4 * 1024 * 1024;
/// Characters shown of a line with a match, and of a line of context.
const MATCH_CHARS: usize = 500;
const CONTEXT_CHARS: usize = 300;
/// The most bytes that a line of context takes up: characters of four bytes, the number, signs of clipping.
const CONTEXT_BYTES: usize = CONTEXT_CHARS * 4 + 32;

/// The matches of `pattern` in `text`.
pub(super) fn slice(text: &str, pattern: &str, request: &SliceRequest) -> Result<Slice, SliceError> {
    let regex = compile(pattern)?;
    let skip = request.offset.unwrap_or(0);
    let limit = request.limit.unwrap_or(DEFAULT_MATCHES).min(MAX_MATCHES);
    let mut output = Output::new(skip, limit, request.context.unwrap_or(0) as usize);
    for (index, line) in text.lines().enumerate() {
        output.line(index + 1, line, &regex);
    }
    let Output { total, shown, mut body, .. } = output;
    body.pop(); // the last line feed
    if total == 0 {
        return Ok(nothing(&format!("no match in {} lines", count_lines(text))));
    }
    if skip > total {
        return Err(SliceError::OffsetPastEnd { offset: skip, total, unit: "matches" });
    }
    let end = skip + shown;
    let next = (end < total).then(|| SliceRequest { offset: Some(end), ..request.clone() });
    let note = if shown == 0 {
        format!("no more of {total} matches")
    } else {
        format!("matches {}-{end} of {total}", skip + 1)
    };
    Ok(sliced(body, &note, next))
}

fn compile(pattern: &str) -> Result<Regex, SliceError> {
    check_length("grep", pattern)?;
    let built = RegexBuilder::new(pattern).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build();
    built.map_err(|error| {
        let problem = match error {
            regex::Error::CompiledTooBig(_) => {
                "too large once compiled: repeat less, or narrower classes".to_owned()
            }
            // A syntax error is a drawing of several lines, of which the last says what is wrong.
            error => {
                error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        };
        SliceError::Pattern { problem }
    })
}

/// What is shown, as it grows line by line.
struct Output<'t> {
    /// Matches to pass over, to show at most, and lines of context around each.
    skip: u64,
    limit: u64,
    context: usize,
    /// Matches seen, and shown.
    total: u64,
    shown: u64,
    body: String,
    full: bool,
    /// The last line in the body (0: none), and how many of the following are still its context.
    last: usize,
    after: usize,
    /// Lines that become the context of the next match.
    before: VecDeque<(usize, &'t str)>,
}

impl<'t> Output<'t> {
    fn new(skip: u64, limit: u64, context: usize) -> Self {
        let (body, before) = (String::new(), VecDeque::new());
        Self { skip, limit, context, total: 0, shown: 0, body, full: false, last: 0, after: 0, before }
    }

    fn line(&mut self, number: usize, line: &'t str, regex: &Regex) {
        let mut matched = false;
        let mut from = 0;
        while let Some(found) = regex.find_at(line, from) {
            matched = true;
            let window = Window::around(line, found.start(), MATCH_CHARS);
            self.matched(number, &window);
            if window.end == line.len() {
                break;
            }
            // Past the match, because the window reaches beyond its start or to the end of the line.
            from = window.end;
        }
        if !matched {
            self.unmatched(number, line);
        }
    }

    fn matched(&mut self, number: usize, window: &Window<'_>) {
        self.total += 1;
        let before = std::mem::take(&mut self.before);
        self.full |= self.shown >= self.limit;
        if self.total <= self.skip || self.full {
            // Context never runs into a match of another page.
            self.after = 0;
            return;
        }
        let mut piece = String::new();
        let first = before.front().map_or(number, |(number, _)| *number);
        if self.context > 0 && self.last > 0 && first > self.last + 1 {
            piece.push_str("--\n");
        }
        for (number, line) in before {
            push(&mut piece, number, '-', &Window::around(line, 0, CONTEXT_CHARS));
        }
        push(&mut piece, number, ':', window);
        // Room is kept for the context that follows, so that a match is shown with all of it, or on the next
        // page.
        let needed = self.body.len() + piece.len() + self.context * CONTEXT_BYTES;
        if needed as u64 > MAX_BYTES {
            self.full = true;
            self.after = 0;
            return;
        }
        self.body.push_str(&piece);
        self.shown += 1;
        self.last = number;
        self.after = self.context;
    }

    fn unmatched(&mut self, number: usize, line: &'t str) {
        if self.after > 0 {
            push(&mut self.body, number, '-', &Window::around(line, 0, CONTEXT_CHARS));
            self.after -= 1;
            self.last = number;
        } else if self.context > 0 {
            if self.before.len() == self.context {
                self.before.pop_front();
            }
            self.before.push_back((number, line));
        }
    }
}

fn push(text: &mut String, number: usize, sign: char, window: &Window<'_>) {
    let line = window.line;
    let start = if window.start > 0 { "…" } else { "" };
    let end = if window.end < line.len() { "…" } else { "" };
    text.push_str(&format!("{number}{sign} {start}{}{end}\n", &line[window.start..window.end]));
}

/// The bytes of a line that are shown.
struct Window<'l> {
    line: &'l str,
    start: usize,
    end: usize,
}

impl<'l> Window<'l> {
    /// At most `chars` characters of `line`, of which a quarter before the byte `at`, or more if the line
    /// ends soon.
    fn around(line: &'l str, at: usize, chars: usize) -> Self {
        if line.len() <= chars {
            return Self { line, start: 0, end: line.len() };
        }
        let lead = back(line, at, chars / 4);
        let end = line[lead..].char_indices().nth(chars).map_or(line.len(), |(index, _)| lead + index);
        let start = if end == line.len() { back(line, end, chars) } else { lead };
        Self { line, start, end }
    }
}

/// Where `count` characters before the byte `at` start.
fn back(line: &str, at: usize, count: usize) -> usize {
    let mut starts = line[..at].char_indices().rev().map(|(index, _)| index);
    count.checked_sub(1).map_or(at, |last| starts.nth(last).unwrap_or(0))
}
