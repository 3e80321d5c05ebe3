//! JSON-RPC messages as values.
//!
//! Only the envelope is read: `params`, `result` and `error` stay the texts they were, and fields that nobody has heard of
//! stay where they are. See <https://www.jsonrpc.org/specification> and the base protocol of every MCP revision.

mod fields;

use std::borrow::Cow;
use std::fmt;

use meanwhile_core::Json;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub use self::fields::{Fields, to_json};

/// The text is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is not a message.
pub const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters do not fit the method.
pub const INVALID_PARAMS: i64 = -32602;
/// Something broke on our side.
pub const INTERNAL_ERROR: i64 = -32603;
/// The server behind us is not there, or went away. In the legacy era only: the modern one has [`INTERNAL_ERROR`] for it.
pub const UPSTREAM_GONE: i64 = -32000;

/// The id of a request: a JSON number or string, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Id(String);

impl Id {
    /// The id in a JSON text, if it is a number or a string.
    #[must_use]
    pub fn read(text: &RawValue) -> Option<Id> {
        let first = text.get().as_bytes().first()?;
        (*first == b'"' || *first == b'-' || first.is_ascii_digit()).then(|| Id(text.get().to_owned()))
    }

    /// The id of an error that answers nobody knows which request: `null`.
    #[must_use]
    pub fn unknown() -> Id {
        Id("null".to_owned())
    }

    /// Whether it is [`Id::unknown`].
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.0 == "null"
    }

    /// The number, if it is one of ours.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// The id as a JSON text.
    #[must_use]
    pub fn to_json(&self) -> Json {
        RawValue::from_string(self.0.clone()).expect("an id was read from JSON")
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Id {
        Id(number.to_string())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a response carries.
#[derive(Debug, Clone)]
pub enum Answer {
    /// `result`, word for word.
    Result(Json),
    /// `error`, word for word.
    Error(Json),
}

/// One message. `extra` is every field of the envelope that JSON-RPC does not know.
#[derive(Debug, Clone)]
pub enum Message {
    /// Wants an answer.
    Request {
        /// By which it is answered.
        id: Id,
        /// What is wanted.
        method: String,
        /// With what.
        params: Option<Json>,
        /// The rest of the envelope.
        extra: Fields,
    },
    /// Wants none.
    Notification {
        /// What happened.
        method: String,
        /// With what.
        params: Option<Json>,
        /// The rest of the envelope.
        extra: Fields,
    },
    /// Answers a request.
    Response {
        /// Of the request.
        id: Id,
        /// The answer.
        answer: Answer,
        /// The rest of the envelope.
        extra: Fields,
    },
}

/// What came in one line or one body.
#[derive(Debug)]
pub enum Incoming {
    /// One message.
    One(Message),
    /// A batch, as revision 2025-03-26 has them.
    Batch(Vec<Result<Message, Malformed>>),
}

/// A text that is not a message, and the error to answer it with.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    /// The request it may have been.
    pub id: Option<Id>,
    /// The error code of JSON-RPC.
    pub code: i64,
    /// What is wrong.
    pub message: String,
}

impl Malformed {
    fn new(id: Option<Id>, code: i64, message: impl Into<String>) -> Malformed {
        Malformed { id, code, message: message.into() }
    }

    /// The response that says so.
    #[must_use]
    pub fn to_line(&self) -> String {
        let id = self.id.as_ref().map_or_else(|| "null".to_owned(), Id::to_string);
        let error = error(self.code, &self.message);
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{}}}", error.get())
    }
}

/// A JSON-RPC error object.
#[must_use]
pub fn error(code: i64, message: &str) -> Json {
    to_json(&serde_json::json!({"code": code, "message": message}))
}

/// Reads one line, or one body.
///
/// # Errors
/// [`Malformed`], which carries the answer.
pub fn parse(text: &str) -> Result<Incoming, Malformed> {
    if text.trim_start().starts_with('[') {
        let parts: Vec<Json> = serde_json::from_str(text).map_err(not_json)?;
        if parts.is_empty() {
            return Err(Malformed::new(None, INVALID_REQUEST, "an empty batch"));
        }
        return Ok(Incoming::Batch(parts.into_iter().map(|part| parse_one(part.get())).collect()));
    }
    parse_one(text).map(Incoming::One)
}

fn not_json(error: serde_json::Error) -> Malformed {
    if error.is_data() {
        return Malformed::new(None, INVALID_REQUEST, format!("not a JSON-RPC message: {error}"));
    }
    Malformed::new(None, PARSE_ERROR, format!("not JSON: {error}"))
}

/// The envelope of a message as it is read: what JSON-RPC knows as slices of the text, and `extra`, all else.
#[derive(Default)]
struct Envelope<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    extra: Fields,
    /// A field that is there twice.
    twice: Option<String>,
}

impl<'a> Envelope<'a> {
    fn known(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match name {
            "jsonrpc" => &mut self.jsonrpc,
            "id" => &mut self.id,
            "method" => &mut self.method,
            "params" => &mut self.params,
            "result" => &mut self.result,
            "error" => &mut self.error,
            _ => return None,
        })
    }

    fn add(&mut self, name: &str, value: &'a RawValue) {
        let is_twice = match self.known(name) {
            Some(known) => known.replace(value).is_some(),
            None => {
                let is_twice = self.extra.get(name).is_some();
                self.extra.0.push((name.to_owned(), value.to_owned()));
                is_twice
            }
        };
        if is_twice {
            self.twice.get_or_insert_with(|| name.to_owned());
        }
    }
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Envelope<'de>, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Envelope<'de>, M::Error> {
                let mut envelope = Envelope::default();
                while let Some(Name(name)) = map.next_key()? {
                    envelope.add(&name, map.next_value()?);
                }
                Ok(envelope)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A string that is a slice of the text unless it holds an escape.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn parse_one(text: &str) -> Result<Message, Malformed> {
    let Envelope { jsonrpc, id: raw_id, method, params, result, error, extra, twice } =
        serde_json::from_str(text).map_err(not_json)?;
    if let Some(twice) = twice {
        return Err(Malformed::new(None, INVALID_REQUEST, format!("`{twice}` is there twice")));
    }
    let id = raw_id.and_then(Id::read);
    let invalid = |id: &Option<Id>, message: &str| Err(Malformed::new(id.clone(), INVALID_REQUEST, message));
    if jsonrpc.is_none_or(|version| version.get() != "\"2.0\"") {
        return invalid(&id, "`jsonrpc` must be \"2.0\"");
    }
    let owned = |text: Option<&RawValue>| text.map(ToOwned::to_owned);
    if let Some(method) = method {
        let Ok(method) = serde_json::from_str(method.get()) else {
            return invalid(&id, "`method` must be a string");
        };
        let extra = extra.with("result", result).with("error", error);
        return match (id, raw_id) {
            (Some(id), _) => Ok(Message::Request { id, method, params: owned(params), extra }),
            (None, None) => Ok(Message::Notification { method, params: owned(params), extra }),
            (None, Some(_)) => invalid_id(),
        };
    }
    let extra = extra.with("params", params);
    let answer = match (owned(result), owned(error)) {
        (Some(result), None) => Answer::Result(result),
        (None, Some(error)) => Answer::Error(error),
        _ => return invalid(&id, "a message has a `method`, or else a `result` or an `error`"),
    };
    match (id, raw_id, &answer) {
        (Some(id), ..) => Ok(Message::Response { id, answer, extra }),
        // So says a peer that could not find out which request it is that it refuses; some leave the id out.
        (None, raw_id, Answer::Error(_)) if raw_id.is_none_or(|id| id.get() == "null") => {
            Ok(Message::Response { id: Id::unknown(), answer, extra })
        }
        _ => invalid_id(),
    }
}

fn invalid_id() -> Result<Message, Malformed> {
    Err(Malformed::new(None, INVALID_REQUEST, "`id` must be a number or a string"))
}

impl Message {
    /// A notification of our own.
    #[must_use]
    pub fn notification(method: &str, params: Json) -> Message {
        Message::Notification { method: method.to_owned(), params: Some(params), extra: Fields::default() }
    }

    /// A response of our own.
    #[must_use]
    pub fn response(id: Id, answer: Answer) -> Message {
        Message::Response { id, answer, extra: Fields::default() }
    }

    /// The message as one line, without its end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = String::with_capacity(self.size_hint());
        line.push_str("{\"jsonrpc\":\"2.0\"");
        let extra = match self {
            Message::Request { id, method, params, extra } => {
                push(&mut line, "id", &id.0);
                push_call(&mut line, method, params.as_deref());
                extra
            }
            Message::Notification { method, params, extra } => {
                push_call(&mut line, method, params.as_deref());
                extra
            }
            Message::Response { id, answer, extra } => {
                push(&mut line, "id", &id.0);
                match answer {
                    Answer::Result(result) => push(&mut line, "result", result.get()),
                    Answer::Error(error) => push(&mut line, "error", error.get()),
                }
                extra
            }
        };
        for (name, value) in &extra.0 {
            line.push(',');
            line.push_str(to_json(name).get());
            line.push(':');
            line.push_str(value.get());
        }
        line.push('}');
        line
    }

    fn size_hint(&self) -> usize {
        128 + match self {
            Message::Request { params, .. } | Message::Notification { params, .. } => {
                params.as_ref().map_or(0, |params| params.get().len())
            }
            Message::Response { answer: Answer::Result(text) | Answer::Error(text), .. } => text.get().len(),
        }
    }
}

fn push_call(line: &mut String, method: &str, params: Option<&RawValue>) {
    push(line, "method", to_json(method).get());
    if let Some(params) = params {
        push(line, "params", params.get());
    }
}

fn push(line: &mut String, name: &str, value: &str) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":");
    line.push_str(value);
}

/// The id of a message of which only both ends are left, if it is a number and stands where programs write it.
#[must_use]
pub fn id_at_ends(head: &str, tail: &str) -> Option<u64> {
    id_at_head(head).or_else(|| id_at_tail(tail))
}

/// The id in the first bytes of a message that was too long, where servers that write it first have it.
fn id_at_head(head: &str) -> Option<u64> {
    let head = head.strip_prefix("{\"jsonrpc\":\"2.0\",").unwrap_or(head);
    let digits = head.trim_start_matches('{').strip_prefix("\"id\":")?;
    leading_number(digits)
}

/// The id in its last bytes, where servers that write it last have it.
fn id_at_tail(tail: &str) -> Option<u64> {
    let tail = tail.trim_end().strip_suffix('}')?;
    let tail = tail.strip_suffix(",\"jsonrpc\":\"2.0\"").unwrap_or(tail);
    let (_, digits) = tail.rsplit_once(",\"id\":")?;
    digits.parse().ok()
}

fn leading_number(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Message {
        match parse(text) {
            Ok(Incoming::One(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_of_a_message_is_lost() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"b":1.0,"a":[1e400,12345678901234567890123],"é":"\u00e9"}}"#,
            r#"{"jsonrpc":"2.0","id":"a\"b","method":"x","trace":{"z":1.50}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/x","params":[1, 2]}"#,
            r#"{"jsonrpc":"2.0","id":-7,"result":{"content":[{"type":"hologram","depth":3.0}]},"more":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32099,"message":"no","data":{"x":1}}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"whose?"}}"#,
        ] {
            assert_eq!(one(text).to_line(), text);
        }
    }

    #[test]
    fn what_is_not_a_message_says_why_and_whose_it_was() {
        for (text, code, id) in [
            ("{", PARSE_ERROR, None),
            ("", PARSE_ERROR, None),
            ("7", INVALID_REQUEST, None),
            ("[]", INVALID_REQUEST, None),
            (r#"{"id":1,"method":"x"}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":2}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":{},"result":1}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST, Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, INVALID_REQUEST, None),
        ] {
            let malformed = parse(text).expect_err(text);
            assert_eq!((malformed.code, malformed.id.as_ref().map(|id| id.0.as_str())), (code, id), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(&malformed.to_line()).is_ok());
        }
    }

    #[test]
    fn whose_answer_was_too_long_is_found_at_either_end() {
        assert_eq!(id_at_head(r#"{"jsonrpc":"2.0","id":17,"result":{"#), Some(17));
        assert_eq!(id_at_head(r#"{"id":17,"jsonrpc""#), Some(17));
        assert_eq!(id_at_head(r#"{"result":{"#), None);
        assert_eq!(id_at_tail(r#"x"}]},"jsonrpc":"2.0","id":17}"#), Some(17));
        assert_eq!(id_at_tail(r#"x"}]},"id":17,"jsonrpc":"2.0"}"#), Some(17));
        assert_eq!(id_at_tail(r#"x"}]}}"#), None);
    }

    #[test]
    fn a_batch_keeps_its_good_parts() {
        let Ok(Incoming::Batch(parts)) = parse(r#"[{"jsonrpc":"2.0","method":"x"}, 7]"#) else {
            panic!("no batch")
        };
        assert!(parts[0].is_ok() && parts[1].is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
