//! What a model sees of an answer that is too large for it: the head, the tail, and a list of what there is.

use crate::document::{Answer, describe, grouped};

pub use crate::document::PartInfo;

/// The beginning and the end of a large answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// About three quarters of the budget from the start of the answer's text, one line that says how much
    /// was left out, and about one quarter from its end. The whole text if it fits (when images made the
    /// answer large), and empty if the answer has no text.
    pub text: String,
    /// Everything that the answer holds, in the order of its content blocks, the structured content last.
    pub parts: Vec<PartInfo>,
}

impl Preview {
    /// The parts in one line, such as `part 0: text, 812,331 bytes, 9,000 lines; part 1: image/png, 90,112
    /// bytes; structured: 1,234 bytes`. Of very many blocks only the first 16 are listed.
    #[must_use]
    pub fn describe_parts(&self) -> String {
        describe(&self.parts)
    }
}

/// Previews `answer`, the raw JSON of a `CallToolResult`, in at most `budget_bytes` bytes of text. `None` if
/// the answer itself is no larger than that. Whatever it is given, it never fails: what is no tool answer is
/// shown as text.
#[must_use]
pub fn preview(answer: &str, budget_bytes: usize) -> Option<Preview> {
    if answer.len() <= budget_bytes {
        return None;
    }
    let answer = Answer::parse(answer);
    let text = answer.document().unwrap_or_default();
    Some(Preview { text: shorten(&text, budget_bytes), parts: answer.parts() })
}

/// The head and the tail of `text` with a line in between, together at most `budget` bytes.
fn shorten(text: &str, budget: usize) -> String {
    if text.len() <= budget {
        return text.to_owned();
    }
    // The line can only get shorter: it will name less than the whole, and needs no line feed after a whole
    // line.
    let line = format!("\n{}\n", left_out(text.len())).len();
    let Some(room) = budget.checked_sub(line) else {
        return text[..text.floor_char_boundary(budget)].to_owned();
    };
    let tail_room = room / 4;
    let head = &text[..head_end(text, room - tail_room)];
    let tail = &text[tail_start(text, tail_room)..];
    let feed = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
    format!("{head}{feed}{}\n{tail}", left_out(text.len() - head.len() - tail.len()))
}

fn left_out(bytes: usize) -> String {
    format!("… {} bytes left out …", grouped(bytes))
}

/// Where a head of at most `room` bytes ends: after a line, unless that would give away more than half of it.
fn head_end(text: &str, room: usize) -> usize {
    let end = text.floor_char_boundary(room);
    let line = text[..end].rfind('\n').map(|feed| feed + 1);
    line.filter(|&line| line > end / 2).unwrap_or(end)
}

/// Where a tail of at most `room` bytes starts: at a line, unless that would give away more than half of it.
fn tail_start(text: &str, room: usize) -> usize {
    let start = text.ceil_char_boundary(text.len() - room);
    if text[..start].ends_with('\n') {
        return start;
    }
    let line = text[start..].find('\n').map(|feed| start + feed + 1);
    line.filter(|&line| text.len() - line > room / 2).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn answer_of(text: &str) -> String {
        json!({ "content": [{ "type": "text", "text": text }] }).to_string()
    }

    #[test]
    fn an_answer_within_the_budget_needs_no_preview() {
        let answer = answer_of("short");
        assert_eq!(preview(&answer, answer.len()), None);
        assert!(preview(&answer, answer.len() - 1).is_some());
    }

    #[test]
    fn a_long_text_keeps_whole_lines_of_its_head_and_tail() {
        let text: String = (1..=9000).map(|number| format!("line {number}\n")).collect();
        let preview = preview(&answer_of(&text), 1000).unwrap();
        let (head, rest) = preview.text.split_once('…').unwrap();
        let (gap, tail) = rest.split_once("…\n").unwrap();
        assert!(head.starts_with("line 1\n") && head.ends_with('\n'), "{head}");
        assert!(tail.starts_with("line ") && tail.ends_with("line 9000\n"), "{tail}");
        assert!(head.len() > 2 * tail.len() && preview.text.len() <= 1000 && preview.text.len() > 900);
        let left_out = grouped(text.len() - head.len() - tail.len());
        assert_eq!(gap, format!(" {left_out} bytes left out "));
    }

    #[test]
    fn the_parts_are_listed_in_one_line() {
        let answer = json!({
            "content": [
                { "type": "text", "text": "a\nb\n".repeat(1000) },
                { "type": "image", "mimeType": "image/png", "data": "QUJD".repeat(1000) },
                { "type": "resource", "resource": { "mimeType": "text/markdown", "text": "x" } },
                { "type": "resource", "resource": { "uri": "a:b", "blob": "QUI=" } },
                { "type": "resource_link\n", "uri": "a:b" },
            ],
            "structuredContent": { "a": 1 },
        });
        let preview = preview(&answer.to_string(), 100).unwrap();
        assert_eq!(
            preview.describe_parts(),
            "part 0: text, 4,000 bytes, 2,000 lines; part 1: image/png, 3,000 bytes; \
             part 2: text/markdown, 1 byte, 1 line; part 3: resource, 2 bytes; \
             part 4: resource_link, 38 bytes; structured: 7 bytes"
        );
    }

    #[test]
    fn an_image_does_not_cut_the_text_beside_it() {
        let answer = json!({ "content": [
            { "type": "text", "text": "all of it" },
            { "type": "image", "mimeType": "image/png", "data": "QUJD".repeat(1000) },
        ] });
        assert_eq!(preview(&answer.to_string(), 100).unwrap().text, "all of it");
    }

    #[test]
    fn an_answer_without_text_has_an_empty_preview() {
        let answer = json!({ "content": [{ "type": "audio", "mimeType": "audio/wav", "data": "QUJD" }] });
        let preview = preview(&answer.to_string(), 10).unwrap();
        assert_eq!(preview.text, "");
        assert_eq!(preview.describe_parts(), "part 0: audio/wav, 3 bytes");
    }

    proptest! {
        #[test]
        fn a_preview_stays_within_its_budget(text in "(\\PC|\n){0,400}", budget in 0usize..600) {
            let answer = answer_of(&text);
            if let Some(preview) = preview(&answer, budget) {
                prop_assert!(preview.text.len() <= budget);
                let head = preview.text.split('…').next().unwrap_or_default().trim_end_matches('\n');
                prop_assert!(text.contains('…') || text.starts_with(head));
            }
        }

        #[test]
        fn any_input_can_be_previewed(raw in "\\PC{0,200}", budget in 0usize..100) {
            let _ = preview(&raw, budget);
        }
    }
}
