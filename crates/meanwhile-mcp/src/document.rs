//! A stored tool answer as parts that can be read one by one.
//!
//! Nothing is re-encoded on the way in: an `Answer` borrows the raw JSON, so that what is not read as text
//! can be handed on word for word. Parsing never fails: what does not look like a `CallToolResult` has no
//! parts, and is then read as the text it is.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// How many parts a description names before it says "and N more".
const DESCRIBED_PARTS: usize = 16;
/// How many characters of a type that the upstream chose are shown.
const KIND_CHARS: usize = 60;

/// One part of an answer. In JSON a number (of a content block, from 0) or `"structured"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The content block of this index.
    Block(usize),
    /// The `structuredContent`.
    Structured,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(index) => write!(f, "part {index}"),
            Self::Structured => f.write_str("structured"),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Block(index) => index.serialize(serializer),
            Self::Structured => serializer.serialize_str("structured"),
        }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl Visitor<'_> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`part` to be the number of a content block (0, 1, …) or \"structured\"")
    }

    fn visit_u64<E: Error>(self, index: u64) -> Result<Part, E> {
        // An index that no memory could hold is simply an index that does not exist.
        Ok(Part::Block(usize::try_from(index).unwrap_or(usize::MAX)))
    }

    // Models often write a number as a string; there is only one thing it can mean.
    fn visit_str<E: Error>(self, text: &str) -> Result<Part, E> {
        match (text, text.parse()) {
            ("structured", _) => Ok(Part::Structured),
            (_, Ok(index)) => Ok(Part::Block(index)),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

/// What an answer holds in one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// How `read_result` names it.
    pub part: Part,
    /// The block's `type` (`text`, `image`, `resource`, …), `structured`, or `unknown`. Never longer than 60
    /// characters, and without control characters.
    pub kind: String,
    /// Its `mimeType`, if it has one; bounded like `kind`.
    pub mime_type: Option<String>,
    /// Bytes of its text; of its data once decoded from base64; else of its JSON.
    pub bytes: usize,
    /// Lines, where it is text.
    pub lines: Option<usize>,
}

impl fmt::Display for PartInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.part)?;
        if self.part != Part::Structured {
            write!(f, ": {}", self.mime_type.as_ref().unwrap_or(&self.kind))?;
        }
        let separator = if self.part == Part::Structured { ":" } else { "," };
        write!(f, "{separator} {}", counted(self.bytes, "byte"))?;
        self.lines.map_or(Ok(()), |lines| write!(f, ", {}", counted(lines, "line")))
    }
}

/// A tool's answer, parted.
pub(crate) struct Answer<'a> {
    raw: &'a str,
    blocks: Vec<Block<'a>>,
    structured: Option<&'a RawValue>,
}

impl<'a> Answer<'a> {
    /// Parts the raw JSON of a `CallToolResult`.
    pub(crate) fn parse(raw: &'a str) -> Self {
        let body: Body<'a> = members(raw);
        let blocks: Vec<&'a RawValue> =
            body.content.and_then(|content| serde_json::from_str(content.get()).ok()).unwrap_or_default();
        Self { raw, blocks: blocks.into_iter().map(Block::parse).collect(), structured: body.structured }
    }

    /// The content block of that index.
    pub(crate) fn block(&self, index: usize) -> Option<&Block<'a>> {
        self.blocks.get(index)
    }

    /// The `structuredContent` as compact JSON, its numbers and the order of its keys untouched.
    pub(crate) fn structured(&self) -> Option<String> {
        self.structured.map(|raw| compact(raw.get()))
    }

    /// What is read when no part is named: every text, joined by a line feed; without any the structured
    /// content. An answer without any part is read as it is. `None`: there are parts, but none of them is
    /// text.
    pub(crate) fn document(&self) -> Option<Cow<'a, str>> {
        if self.blocks.is_empty() && self.structured.is_none() {
            return Some(Cow::Borrowed(self.raw));
        }
        let texts: Vec<String> = self.blocks.iter().filter_map(Block::text).collect();
        if texts.is_empty() { self.structured().map(Cow::Owned) } else { Some(Cow::Owned(texts.join("\n"))) }
    }

    /// What there is to read.
    pub(crate) fn parts(&self) -> Vec<PartInfo> {
        let blocks = self.blocks.iter().enumerate().map(|(index, block)| block.info(index));
        let structured = self.structured().map(|text| PartInfo {
            part: Part::Structured,
            kind: "structured".to_owned(),
            mime_type: None,
            bytes: text.len(),
            lines: None,
        });
        blocks.chain(structured).collect()
    }
}

/// One content block.
pub(crate) struct Block<'a> {
    /// The block, word for word.
    pub(crate) raw: &'a RawValue,
    kind: String,
    mime_type: Option<String>,
    text: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
}

impl<'a> Block<'a> {
    fn parse(raw: &'a RawValue) -> Self {
        let head: Head<'a> = members(raw.get());
        let kind = head.kind.map_or_else(|| "unknown".to_owned(), |kind| label(&kind));
        let resource = head.resource.filter(|_| kind == "resource");
        let inner: Head<'a> = resource.map(|resource| members(resource.get())).unwrap_or_default();
        let text = if kind == "text" { head.text } else { inner.text };
        Self {
            raw,
            mime_type: head.mime_type.or(inner.mime_type).map(|mime_type| label(&mime_type)),
            text: text.filter(|text| is_string(text)),
            data: head.data.or(inner.blob).filter(|data| is_string(data)),
            kind,
        }
    }

    /// Its text, if it is a text block or a resource that embeds text.
    pub(crate) fn text(&self) -> Option<String> {
        self.text.and_then(decode)
    }

    /// Whether there is text in it.
    pub(crate) fn is_text(&self) -> bool {
        self.text.is_some()
    }

    /// What is said about it.
    pub(crate) fn info(&self, index: usize) -> PartInfo {
        let text = self.text();
        let bytes = match (&text, self.data) {
            (Some(text), _) => text.len(),
            (None, Some(data)) => decoded_size(data),
            (None, None) => self.raw.get().len(),
        };
        PartInfo {
            part: Part::Block(index),
            kind: self.kind.clone(),
            mime_type: self.mime_type.clone(),
            bytes,
            lines: text.as_deref().map(count_lines),
        }
    }
}

/// The members of a `CallToolResult` that are read.
#[derive(Deserialize, Default)]
struct Body<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
}

/// The members of a content block, or of the resource in it, that are read.
#[derive(Deserialize, Default)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "mimeType")]
    mime_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    blob: Option<&'a RawValue>,
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
}

/// What is known of an object. Nothing, if it is none (an array would otherwise be taken for its members, in
/// order).
fn members<'a, T: Deserialize<'a> + Default>(json: &'a str) -> T {
    let object = json.trim_start().starts_with('{');
    if object { serde_json::from_str(json).unwrap_or_default() } else { T::default() }
}

/// A one-line list of the parts; of very many only the first, and how many more.
pub(crate) fn describe(parts: &[PartInfo]) -> String {
    let mut shown: Vec<String> = parts.iter().take(DESCRIBED_PARTS).map(ToString::to_string).collect();
    let rest = parts.get(DESCRIBED_PARTS..).unwrap_or_default();
    let structured = rest.last().filter(|info| info.part == Part::Structured);
    let hidden = rest.len() - usize::from(structured.is_some());
    if hidden > 0 {
        shown.push(format!("and {} more", grouped(hidden)));
    }
    shown.extend(structured.map(ToString::to_string));
    if shown.is_empty() { "none".to_owned() } else { shown.join("; ") }
}

/// How many lines a text has; a line feed at its end does not begin another.
pub(crate) fn count_lines(text: &str) -> usize {
    let feeds = text.bytes().filter(|&byte| byte == b'\n').count();
    feeds + usize::from(!text.is_empty() && !text.ends_with('\n'))
}

/// `812331` as `812,331`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn counted(number: usize, unit: &str) -> String {
    format!("{} {unit}{}", grouped(number), if number == 1 { "" } else { "s" })
}

fn is_string(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// What the upstream calls something, made fit for a line of ours.
fn label(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(KIND_CHARS).collect()
}

/// The bytes that a base64 string stands for.
fn decoded_size(data: &RawValue) -> usize {
    let encoded = data.get().trim_matches('"').trim_end_matches('=').len();
    encoded / 4 * 3 + (encoded % 4) * 3 / 4
}

/// The text of a JSON string. JavaScript servers cut strings in the middle of a surrogate pair, which
/// `String` refuses; the rest of such a text is still worth reading, so the broken character becomes
/// `U+FFFD`.
fn decode(raw: &RawValue) -> Option<String> {
    let whole = serde_json::from_str::<String>(raw.get());
    whole.or_else(|_| serde_json::from_str::<LossyText>(raw.get()).map(|text| text.0)).ok()
}

struct LossyText(String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = LossyText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<LossyText, E> {
                Ok(LossyText(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// JSON without the white space between its tokens. Works on the text, because a round trip through values
/// would round large numbers and sort the keys.
fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut quoted, mut escaped) = (false, false);
    for character in json.chars() {
        if !quoted && character.is_ascii_whitespace() {
            continue;
        }
        if character == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = character == '\\' && !escaped;
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compacting_keeps_numbers_order_and_strings() {
        let json = "{ \"b\" : [ 1e400 , 123456789012345678901234567890 ],\n\t\"a\" : \" x \\\" y \\\\\" }";
        let expected = r#"{"b":[1e400,123456789012345678901234567890],"a":" x \" y \\"}"#;
        assert_eq!(compact(json), expected);
    }

    #[test]
    fn half_a_surrogate_pair_costs_one_character_only() {
        let raw = r#"{"content":[{"type":"text","text":"before \ud83d after"}]}"#;
        let text = Answer::parse(raw).document().map(Cow::into_owned).unwrap();
        assert!(text.starts_with("before \u{fffd}") && text.ends_with(" after"), "{text}");
    }

    #[test]
    fn a_part_is_a_number_or_structured() {
        let part = |json: &str| serde_json::from_str::<Part>(json);
        assert_eq!(part("3").unwrap(), Part::Block(3));
        assert_eq!(part("\"3\"").unwrap(), Part::Block(3));
        assert_eq!(part("\"structured\"").unwrap(), Part::Structured);
        assert!(part("99999999999999999999").is_err());
        for bad in ["-1", "1.5", "\"text\"", "null", "[]"] {
            let error = part(bad).unwrap_err().to_string();
            assert!(error.contains("`part` to be the number of a content block"), "{error}");
        }
    }

    #[test]
    fn what_is_no_tool_answer_is_read_as_it_is() {
        for raw in
            ["", "no json", "[1,2]", "{\"content\":5}", "{\"content\":[],\"_meta\":{}}", "{\"toolResult\":1}"]
        {
            let answer = Answer::parse(raw);
            assert!(answer.parts().is_empty());
            assert_eq!(answer.document().unwrap(), raw);
        }
    }

    #[test]
    fn odd_blocks_are_parts_all_the_same() {
        let raw =
            r#"{"content":[5,["text"],{"type":7},{"type":"text","text":7},{"type":"text","type":"text"}]}"#;
        let parts = Answer::parse(raw).parts();
        assert_eq!(parts.len(), 5);
        assert!(parts.iter().all(|info| info.lines.is_none()));
    }

    #[test]
    fn a_long_list_of_parts_stays_short_and_keeps_the_structured_one() {
        let blocks = vec![r#"{"type":"text","text":"x"}"#; 1000].join(",");
        let raw = format!(r#"{{"content":[{blocks}],"structuredContent":{{}}}}"#);
        let list = describe(&Answer::parse(&raw).parts());
        assert!(list.starts_with("part 0: text, 1 byte, 1 line; part 1: text"), "{list}");
        assert!(list.ends_with("; and 984 more; structured: 2 bytes"), "{list}");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 812_331, 1_234_567].map(grouped),
            ["0", "999", "1,000", "812,331", "1,234,567"]
        );
    }
}
