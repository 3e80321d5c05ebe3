//! The public id of a job.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const PREFIX: &str = "job_";
const LETTERS: usize = 26;
/// RFC 4648 base32 in lower case: no letter of it needs escaping in a URL, a header, a file name or a shell.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A job's public id: `job_` and 26 lower-case base32 letters and digits that carry 130 random bits.
///
/// Whoever holds one may ask for the job, so it is drawn from the system's random source and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle([u8; LETTERS]);

impl Handle {
    /// A new handle from the system's random source.
    ///
    /// # Panics
    /// If the system has no random source: nothing that must be unguessable can be made without one.
    #[must_use]
    pub fn random() -> Handle {
        let mut letters = [0u8; LETTERS];
        getrandom::fill(&mut letters).expect("the system's random source answers");
        Handle(letters.map(|byte| ALPHABET[usize::from(byte % 32)]))
    }

    fn letters(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(self.letters())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a handle: a handle is `job_` and 26 letters and digits, as the call that started the job returned it"
)]
pub struct NotAHandle;

impl FromStr for Handle {
    type Err = NotAHandle;

    fn from_str(text: &str) -> Result<Handle, NotAHandle> {
        let letters = text.strip_prefix(PREFIX).ok_or(NotAHandle)?.as_bytes();
        let letters: [u8; LETTERS] = letters.try_into().map_err(|_| NotAHandle)?;
        if letters.iter().all(|letter| ALPHABET.contains(letter)) {
            Ok(Handle(letters))
        } else {
            Err(NotAHandle)
        }
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Handle, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_handle_reads_back_and_is_never_the_same_twice() {
        let one = Handle::random();
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_eq!(one.to_string().len(), 30);
        assert_ne!(one, Handle::random());
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in ".*") {
            if let Ok(handle) = text.parse::<Handle>() {
                prop_assert_eq!(handle.to_string(), text);
            }
        }
    }
}
