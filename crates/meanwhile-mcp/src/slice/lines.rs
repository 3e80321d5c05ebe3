//! Slices by lines. A slice keeps the line feeds at the ends of its lines, so that pages join without a seam.

use std::ops::Range;

use super::{MAX_BYTES, Slice, SliceError, SliceRequest, nothing, page, sliced};
use crate::document::count_lines;

/// The least that is offered as the next range. A range that 64 KiB cut short would otherwise shrink from
/// page to page, down to crumbs.
const NEXT_LINES: usize = 200;
/// How many characters of a bad range are repeated in the error.
const ECHO_CHARS: usize = 40;

/// The lines of `text` that `range` names.
pub(super) fn slice(text: &str, range: &str, request: &SliceRequest) -> Result<Slice, SliceError> {
    let wanted = Wanted::parse(range)?;
    let total = count_lines(text);
    if total == 0 {
        return Ok(nothing("the text is empty"));
    }
    let Some((first, last)) = wanted.within(total) else {
        return Err(SliceError::LinesPastEnd { given: echo(range), total });
    };
    let selected = &text[span(text, first, last)];
    let mut page = page(selected, MAX_BYTES, request)?;
    if page.end < selected.len() {
        // Whole lines, if even one fits.
        page.end = selected[page.clone()].rfind('\n').map_or(page.end, |feed| page.start + feed + 1);
    }
    let next = next(selected, page.end, first, last, total).map(|(lines, offset)| SliceRequest {
        lines: Some(lines),
        offset: (offset > 0).then_some(offset as u64),
        ..request.clone()
    });
    let shown = shown(selected, &page, first, total);
    Ok(sliced(selected[page].to_owned(), &shown, next))
}

/// A range as it was written.
enum Wanted {
    /// From this line to that one, or to the end.
    Range(usize, Option<usize>),
    /// That many at the end.
    Last(usize),
}

impl Wanted {
    fn parse(range: &str) -> Result<Self, SliceError> {
        let bad = |problem, example: String| SliceError::Lines { given: echo(range), problem, example };
        let unreadable =
            || bad("is no range of lines", "100-200 (or 100- to the end, -50 for the last 50)".into());
        let wanted = match range.split_once('-') {
            None => number(range).map(|line| Self::Range(line, Some(line))),
            Some((first, last)) => match (first.trim().is_empty(), last.trim().is_empty()) {
                (true, true) => None,
                (true, false) => number(last).map(Self::Last),
                (false, true) => number(first).map(|first| Self::Range(first, None)),
                (false, false) => number(first).zip(number(last)).map(|(a, b)| Self::Range(a, Some(b))),
            },
        };
        match wanted.ok_or_else(unreadable)? {
            Self::Last(0) => Err(bad("asks for no line", "-50 for the last 50".into())),
            Self::Range(0, _) => Err(bad("starts at line 0, but lines count from 1", "1-200".into())),
            Self::Range(first, Some(last)) if last < first => {
                Err(bad("ends before it starts", format!("{}-{first}", last.max(1))))
            }
            wanted => Ok(wanted),
        }
    }

    /// Its first and its last line in a text of `total` lines; `None` if it starts after them.
    fn within(self, total: usize) -> Option<(usize, usize)> {
        let (first, last) = match self {
            Self::Range(first, last) => (first, last.unwrap_or(total).min(total)),
            Self::Last(count) => (total.saturating_sub(count) + 1, total),
        };
        (first <= total).then_some((first, last))
    }
}

/// A number of digits only. One too large to count is past any end, which is what the largest says as well.
fn number(text: &str) -> Option<usize> {
    let digits = text.trim();
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(usize::MAX))
}

/// The bytes of the lines `first` to `last`, which exist.
fn span(text: &str, first: usize, last: usize) -> Range<usize> {
    let start = after_lines(text, first - 1);
    start..start + after_lines(&text[start..], last - first + 1)
}

/// Where the first `count` lines end.
fn after_lines(text: &str, count: usize) -> usize {
    match count.checked_sub(1) {
        None => 0,
        Some(feeds) => text.match_indices('\n').nth(feeds).map_or(text.len(), |(feed, _)| feed + 1),
    }
}

/// What comes after the byte `end` of the selected lines: a range, and a byte in it if a line was cut.
fn next(selected: &str, end: usize, first: usize, last: usize, total: usize) -> Option<(String, usize)> {
    if end < selected.len() {
        let (feeds, start) = position(selected, end);
        return Some((format!("{}-{last}", first + feeds), end - start));
    }
    let count = (last - first + 1).max(NEXT_LINES);
    (last < total).then(|| (format!("{}-{}", last + 1, last.saturating_add(count).min(total)), 0))
}

/// How many lines end before the byte `at`, and where its own line starts.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    (before.matches('\n').count(), before.rfind('\n').map_or(0, |feed| feed + 1))
}

fn shown(selected: &str, page: &Range<usize>, first: usize, total: usize) -> String {
    let (feeds, start) = position(selected, page.start);
    let line = first + feeds;
    let last = line + count_lines(&selected[page.clone()]).saturating_sub(1);
    let inside = page.start - start;
    let from = if inside > 0 { format!(" (from byte {inside} of line {line})") } else { String::new() };
    format!("lines {line}-{last} of {total}{from}")
}

fn echo(range: &str) -> String {
    range.chars().take(ECHO_CHARS).collect()
}
