//! What a refusal asks for: the `WWW-Authenticate` header.
//! See <https://www.rfc-editor.org/rfc/rfc9728#section-5.1> and <https://www.rfc-editor.org/rfc/rfc6750#section-3>.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// The part of a refusal that is about bearer tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Where the server says who it is.
    pub(crate) resource_metadata: Option<String>,
    /// What rights are needed.
    pub(crate) scopes: Vec<String>,
    pub(crate) error: Option<String>,
}

impl Challenge {
    /// Reads the headers of a refusal. Without any challenge it is empty.
    pub(crate) fn read(headers: &HeaderMap) -> Challenge {
        let mut found = Challenge::default();
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(header) = header.to_str() else { continue };
            let Ok(challenges) = http_auth::parse_challenges(header) else { continue };
            for challenge in challenges {
                if challenge.scheme.eq_ignore_ascii_case("Bearer") {
                    found.take(challenge.params);
                }
            }
        }
        found
    }

    fn take(&mut self, params: Vec<(&str, http_auth::ParamValue<'_>)>) {
        for (name, value) in params {
            let value = value.to_unescaped();
            match name.to_ascii_lowercase().as_str() {
                "resource_metadata" => self.resource_metadata = Some(value),
                "scope" => self.scopes = words(&value),
                "error" => self.error = Some(value),
                _ => {}
            }
        }
    }

    /// Whether the token is good, and does not allow what was asked.
    pub(crate) fn wants_more(&self) -> bool {
        self.error.as_deref() == Some("insufficient_scope")
    }
}

/// The scopes in a list that spaces part.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn read(headers: &[&str]) -> Challenge {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, HeaderValue::from_str(header).unwrap());
        }
        Challenge::read(&map)
    }

    #[test]
    fn the_challenge_for_bearer_tokens_is_found_among_others() {
        let found = read(&[
            r#"Basic realm="a, b=c", bearer error="insufficient_scope", scope="files:read  files:write""#,
            r#"Bearer resource_metadata="https://example.com/\"x""#,
        ]);
        assert_eq!(found.resource_metadata.as_deref(), Some("https://example.com/\"x"));
        assert_eq!(found.scopes, ["files:read", "files:write"]);
        assert!(found.wants_more());
        assert_eq!(read(&["Bearer"]), Challenge::default());
        assert_eq!(read(&["=,;\"", "Basic error=\"insufficient_scope\""]), Challenge::default());
    }
}
