//! We as a resource server of OAuth: access tokens are JWTs of one issuer, checked by the keys that it publishes
//! (<https://modelcontextprotocol.io/specification/2026-07-28/basic/authorization>, RFC 9728, RFC 8414, RFC 9068).

mod crypto;
mod keys;

use std::collections::HashSet;

use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Value, json};

use self::keys::Keys;

/// Signatures that anyone can check and only the issuer can make. What rests on a shared secret, or on none, is not among them.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 30;
/// The longest name of a subject, in bytes.
const SUBJECT_MAX: usize = 255;
/// A token that is longer is none.
const TOKEN_MAX: usize = 16 * 1024;
/// Where a resource says who issues tokens for it.
pub(super) const METADATA: &str = "/.well-known/oauth-protected-resource";

/// An issuer of tokens, and for whom they must be.
pub struct OAuth {
    issuer: String,
    /// Our URL, as tokens name it: that of the common endpoint.
    audience: String,
    keys: Keys,
}

/// Why a token lets nobody in.
#[derive(Debug)]
pub(super) enum Denied {
    /// It is not good.
    Invalid(String),
    /// It cannot be told whether it is.
    Unknown(String),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl OAuth {
    /// Tokens of `issuer` for `audience`, which is our own URL of `/mcp`. Nothing is fetched before the first token comes.
    ///
    /// # Errors
    /// A text that says what is wrong with one of the two.
    pub fn new(issuer: &str, audience: &str) -> Result<OAuth, String> {
        keys::check_url(issuer).map_err(|why| format!("the issuer `{issuer}` {why}"))?;
        let audience = audience.trim_end_matches('/');
        keys::check_url(audience).map_err(|why| format!("the audience `{audience}` {why}"))?;
        let keys = Keys::new(issuer).map_err(|error| format!("there is no HTTP client: {error}"))?;
        crypto::install();
        Ok(OAuth { issuer: issuer.to_owned(), audience: audience.to_owned(), keys })
    }

    /// The subject that a token was issued to, for the endpoint `place`.
    pub(super) async fn subject(&self, token: &str, place: &str) -> Result<String, Denied> {
        if token.len() > TOKEN_MAX {
            return Err(invalid("it is too long"));
        }
        let header = decode_header(token).map_err(|_| invalid("it is no JWT"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(invalid("its algorithm is not taken here"));
        }
        let key = self.keys.find(header.kid.as_deref()).await?;
        let claims = self.checked(token, &key, header.alg, place)?;
        let is_plain = !claims.sub.is_empty() && !claims.sub.chars().any(char::is_control);
        if !is_plain || claims.sub.len() > SUBJECT_MAX {
            return Err(invalid("its subject cannot be used as a name"));
        }
        Ok(format!("{} {}", self.issuer, claims.sub))
    }

    fn checked(&self, token: &str, key: &Jwk, algorithm: Algorithm, place: &str) -> Result<Claims, Denied> {
        let is_for_it = key.common.key_algorithm.is_none_or(|known| known == KeyAlgorithm::from(algorithm));
        let signs = !matches!(&key.common.public_key_use, Some(usage) if *usage != PublicKeyUse::Signature);
        if !is_for_it || !signs {
            return Err(invalid("its key is not for this"));
        }
        let decoding = DecodingKey::from_jwk(key).map_err(|_| invalid("its key cannot be used"))?;
        let mut rules = Validation::new(algorithm);
        rules.set_issuer(&[&self.issuer]);
        rules.set_audience(&[&self.audience, &self.resource(place)]);
        rules.required_spec_claims =
            ["exp", "iss", "aud", "sub"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
        rules.validate_nbf = true;
        rules.leeway = LEEWAY;
        let checked = decode::<Claims>(token, &decoding, &rules);
        checked.map(|data| data.claims).map_err(|error| invalid(&format!("it does not hold: {error}")))
    }

    /// The URL of an endpoint.
    fn resource(&self, place: &str) -> String {
        if place.is_empty() { self.audience.clone() } else { format!("{}/{place}", self.audience) }
    }

    /// What an endpoint says of who may use it (RFC 9728).
    pub(super) fn metadata(&self, place: &str) -> Value {
        json!({"resource": self.resource(place), "authorization_servers": [self.issuer],
            "bearer_methods_supported": ["header"], "resource_name": "Meanwhile"})
    }

    /// What a client that was not let in is told.
    pub(super) fn challenge(&self, place: &str, error: Option<&str>) -> String {
        let origin = self.audience.split('/').take(3).collect::<Vec<_>>().join("/");
        let path = self.resource(place).split_off(origin.len());
        let error = error
            .map(|error| {
                format!(
                    ", error=\"invalid_token\", error_description=\"{}\"",
                    error.replace(['"', '\\'], "'")
                )
            })
            .unwrap_or_default();
        format!("Bearer resource_metadata=\"{origin}{METADATA}{path}\"{error}")
    }
}

fn invalid(why: &str) -> Denied {
    Denied::Invalid(format!("the access token is not good: {why}"))
}
