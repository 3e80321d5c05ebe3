//! Who asks: nobody but the local user, or whoever holds a bearer token.

use std::collections::BTreeMap;

use axum::http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq;

use super::oauth::{Denied, OAuth};
use super::refusal::Refusal;
use crate::message::{INTERNAL_ERROR, INVALID_REQUEST};

/// A token that is shorter can be guessed.
const TOKEN_MIN: usize = 16;

/// Who asks. Each sees their own jobs only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal(String);

impl Principal {
    /// The one who needs no token.
    #[must_use]
    pub fn local(user: &str) -> Principal {
        Principal(user.to_owned())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// The bearer tokens, as digests: what is compared has one length, and a copy of this memory holds no token.
#[derive(Default)]
pub struct Tokens(Vec<(blake3::Hash, Principal)>);

impl Tokens {
    /// Reads `NAME: TOKEN` lines, or a JSON object of them. One name may have several tokens, while they are changed.
    ///
    /// # Errors
    /// A text that names the line, and never a token.
    pub fn parse(text: &str) -> Result<Tokens, String> {
        let entries = if text.trim_start().starts_with('{') {
            let object: BTreeMap<String, String> = serde_json::from_str(text)
                .map_err(|error| format!("not a JSON object of names and tokens (line {})", error.line()))?;
            object.into_iter().collect()
        } else {
            lines(text)?
        };
        let mut tokens = Tokens::default();
        for (name, token) in entries {
            tokens.add(&name, &token)?;
        }
        if tokens.0.is_empty() {
            return Err("there is no token in it: write lines of NAME: TOKEN".to_owned());
        }
        Ok(tokens)
    }

    fn add(&mut self, name: &str, token: &str) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err(format!("`{name}` is no name: use letters, digits, and . _ @ -"));
        }
        if token.len() < TOKEN_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the token of `{name}` must be {TOKEN_MIN} or more visible ASCII characters"
            ));
        }
        let digest = blake3::hash(token.as_bytes());
        if self.0.iter().any(|(known, _)| *known == digest) {
            return Err(format!("the token of `{name}` is there twice"));
        }
        self.0.push((digest, Principal(name.to_owned())));
        Ok(())
    }

    /// Whose token it is. Takes as long for each, whether or not it fits.
    fn holder(&self, token: &str) -> Option<&Principal> {
        let digest = blake3::hash(token.as_bytes());
        let mut found = None;
        for (known, principal) in &self.0 {
            if bool::from(known.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(principal);
            }
        }
        found
    }
}

fn lines(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, token) =
            line.split_once(':').ok_or_else(|| format!("line {}: write NAME: TOKEN", number + 1))?;
        entries.push((name.trim().to_owned(), token.trim().to_owned()));
    }
    Ok(entries)
}

/// How a request's principal is found. Who needs no token is this one; else tokens and OAuth may stand side by side.
#[derive(Default)]
pub struct Access {
    /// Whoever can reach us is this one.
    pub open: Option<Principal>,
    /// Tokens of ours.
    pub tokens: Option<Tokens>,
    /// Tokens of an issuer.
    pub oauth: Option<OAuth>,
}

impl Access {
    pub(super) async fn principal(&self, headers: &HeaderMap, place: &str) -> Result<Principal, Refusal> {
        if let Some(open) = &self.open {
            return Ok(open.clone());
        }
        let Some(token) = bearer(headers) else {
            let why = "a bearer token is needed: Authorization: Bearer TOKEN";
            return Err(self.unauthorized(why, place, None));
        };
        if let Some(principal) = self.tokens.as_ref().and_then(|tokens| tokens.holder(token)) {
            return Ok(principal.clone());
        }
        let Some(oauth) = &self.oauth else {
            let why = "the bearer token is not known here";
            return Err(self.unauthorized(why, place, Some(why)));
        };
        match oauth.subject(token, place).await {
            Ok(subject) => Ok(Principal(subject)),
            Err(Denied::Invalid(why)) => Err(self.unauthorized(&why, place, Some(&why))),
            Err(Denied::Unknown(why)) => {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, why)
                    .header(RETRY_AFTER, HeaderValue::from_static("10")))
            }
        }
    }

    fn unauthorized(&self, message: &str, place: &str, error: Option<&str>) -> Refusal {
        let challenge = match (&self.oauth, error) {
            (Some(oauth), error) => oauth.challenge(place, error),
            (None, Some(_)) => "Bearer error=\"invalid_token\"".to_owned(),
            (None, None) => "Bearer".to_owned(),
        };
        let challenge = HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Bearer"));
        Refusal::new(StatusCode::UNAUTHORIZED, INVALID_REQUEST, message).header(WWW_AUTHENTICATE, challenge)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_holder_and_nothing_else_does() {
        for text in [
            "# who\nann: 0123456789abcdef\n\nbob:  fedcba9876543210 \n",
            r#"{"ann": "0123456789abcdef", "bob": "fedcba9876543210"}"#,
        ] {
            let tokens = Tokens::parse(text).unwrap();
            assert_eq!(tokens.holder("0123456789abcdef").unwrap().name(), "ann");
            assert_eq!(tokens.holder("fedcba9876543210").unwrap().name(), "bob");
            for wrong in ["", "0123456789abcde", "0123456789abcdef0", "ann"] {
                assert_eq!(tokens.holder(wrong), None);
            }
        }
    }

    #[test]
    fn a_wrong_file_says_where_and_shows_no_token() {
        for (text, why) in [
            ("", "no token"),
            ("secretsecretsecret", "line 1"),
            ("a b: 0123456789abcdef", "`a b` is no name"),
            ("ann: secret", "`ann` must be 16"),
            ("ann: 0123456789abcdef\nbob: 0123456789abcdef", "`bob` is there twice"),
            ("{\"ann\": 7}", "line 1"),
        ] {
            let error = Tokens::parse(text).err().unwrap();
            assert!(error.contains(why) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
