//! What a client has been asked in the middle of a request, and what it has answered. It carries that itself, in the `requestState`
//! that it hands back to us: where the request is not held, at another process, or any more, it is made anew, and what is asked
//! then as it was before is answered from here. Such requests only read, so that they may be made twice.
//!
//! It is not sealed: there is nothing in it that its client could not just as well say anew, and nobody else goes by it.

use data_encoding::BASE64URL_NOPAD;
use meanwhile_core::Json;
use serde::{Deserialize, Serialize};

use crate::message::{Fields, to_json};

/// A client is given no more of it than this to carry, in bytes; a request with more can be gone on with only where it is held.
const STATE_MAX: usize = 64 * 1024;

/// What the client of one request carries.
#[derive(Default)]
pub(super) struct Carried {
    /// Whose it is, and of which request.
    of: String,
    told: Vec<Told>,
}

/// A question, by its digest, that was answered.
struct Told {
    question: String,
    answer: Json,
    /// Whether it has been asked in this run of the request.
    is_used: bool,
}

/// As it stands in a `requestState`.
#[derive(Serialize, Deserialize)]
struct Written {
    of: String,
    /// How many questions there were.
    count: usize,
    /// The keys of those that are open, and their digests.
    open: Vec<(String, String)>,
    told: Vec<(String, Json)>,
}

/// How a question is known again. What it says of itself besides may be another thing each time.
pub(super) fn digest(question: &Json) -> String {
    let Ok(mut fields) = Fields::parse(question.get()) else { return short(question.get()) };
    if let Some(mut params) = fields.read::<Fields>("params") {
        params.take("_meta");
        fields.set("params", params.to_json());
    }
    short(fields.to_json().get())
}

fn short(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().as_str()[..32].to_owned()
}

/// The part of a `requestState` by which the request is found that is held.
pub(super) fn held(state: &str) -> &str {
    state.split_once('.').map_or(state, |(held, _)| held)
}

impl Carried {
    /// An empty one of a request for `subject`, of whoever this scope is of.
    pub(super) fn new(scope: &str, subject: &str) -> Carried {
        Carried { of: short(to_json(&(scope, subject)).get()), told: vec![] }
    }

    /// What a client hands back of it, with its answers to what was open then, and how many questions there were. `None` if it is of
    /// another request, or of somebody else.
    pub(super) fn read(mut self, state: &str, mut answers: Fields) -> Option<(Carried, usize)> {
        let (_, written) = state.split_once('.')?;
        let written = BASE64URL_NOPAD.decode(written.as_bytes()).ok()?;
        let Written { of, count, open, told } = serde_json::from_slice(&written).ok()?;
        if of != self.of {
            return None;
        }
        let answered = open.into_iter().filter_map(|(key, question)| Some((question, answers.take(&key)?)));
        let told = told.into_iter().chain(answered);
        self.told.extend(told.map(|(question, answer)| Told { question, answer, is_used: false }));
        Some((self, count))
    }

    /// What the client hands back to us: by which the request is found where it is held, and this with what is open.
    pub(super) fn state(&self, held: &str, count: usize, open: Vec<(String, String)>) -> String {
        let told = self.told.iter().map(|told| (told.question.clone(), told.answer.clone())).collect();
        let written = to_json(&Written { of: self.of.clone(), count, open, told });
        let state = format!("{held}.{}", BASE64URL_NOPAD.encode(written.get().as_bytes()));
        if state.len() > STATE_MAX { held.to_owned() } else { state }
    }

    /// The answer that was given to such a question before, each once.
    pub(super) fn answer(&mut self, question: &str) -> Option<Json> {
        let told = self.told.iter_mut().find(|told| !told.is_used && told.question == question)?;
        told.is_used = true;
        Some(told.answer.clone())
    }

    /// A question has been answered.
    pub(super) fn add(&mut self, question: String, answer: Json) {
        self.told.push(Told { question, answer, is_used: true });
    }
}

#[cfg(test)]
mod tests {
    use meanwhile_core::testing::suite::json;

    use super::*;

    fn carried() -> Carried {
        Carried::new("ann", "prompts/get x")
    }

    #[test]
    fn what_was_answered_is_known_again_and_each_answer_is_given_once() {
        let mut here = carried();
        here.add(digest(&json(r#"{"method":"a","params":{"n":1.0}}"#)), json("1"));
        let second = digest(&json(r#"{"method":"b"}"#));
        let open = vec![("q2".to_owned(), second.clone()), ("q3".to_owned(), second.clone())];
        let state = here.state("held", 3, open);
        assert_eq!(held(&state), "held");
        let answers = Fields::parse(r#"{"q2":{"x":2.0},"q9":9}"#).unwrap();
        let (mut there, count) = carried().read(&state, answers).unwrap();
        assert_eq!(count, 3);
        let first = digest(&json(r#"{"method":"a","params":{"_meta":{"progressToken":7},"n":1.0}}"#));
        assert_eq!(there.answer(&second).unwrap().get(), r#"{"x":2.0}"#);
        assert_eq!(there.answer(&first).unwrap().get(), "1");
        assert!(there.answer(&first).is_none() && there.answer(&second).is_none());
    }

    #[test]
    fn what_is_of_another_request_or_too_much_is_not_carried() {
        let state = carried().state("held", 0, vec![]);
        let read = |carried: Carried, state: &str| carried.read(state, Fields::default()).is_some();
        assert!(read(carried(), &state));
        for (scope, subject) in [("bob", "prompts/get x"), ("ann", "prompts/get y")] {
            assert!(!read(Carried::new(scope, subject), &state));
        }
        for broken in ["", "held", "held.", "held.!", "held.e30", &state[..state.len() - 5]] {
            assert!(!read(carried(), broken), "{broken}");
        }
        let mut long = carried();
        long.add("q".to_owned(), to_json(&"x".repeat(STATE_MAX)));
        assert_eq!(long.state("held", 0, vec![]), "held");
    }
}
