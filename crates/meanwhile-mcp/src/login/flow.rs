//! The login in a browser: the authorization code grant with PKCE.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/authorization#authorization-flow-steps>.

use std::fmt;

use reqwest::Url;
use subtle::ConstantTimeEq;

use super::client::Client;
use super::discovery::Discovery;
use super::token::{self, Fresh};
use super::vault::{Credentials, Grant};
use super::{LoginError, random, told};

/// A login that waits for its user.
pub struct Flow {
    discovery: Discovery,
    client: Client,
    redirect: String,
    scopes: Vec<String>,
    state: String,
    verifier: String,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("issuer", &self.discovery.issuer())
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What the browser brought back.
#[derive(Debug)]
pub enum Returned {
    /// The way to a token.
    Code(Code),
    /// It is not the answer to this login.
    Foreign,
    /// There will be no token.
    Refused(LoginError),
}

/// A code that is worth a token, once.
pub struct Code(String);

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

impl Flow {
    /// Prepares a login. `scopes` are the rights to ask for; without any, those that the server wants and those that were
    /// asked for `before`.
    ///
    /// # Errors
    /// If the authorization server is not one with which a login is safe.
    pub fn new(
        discovery: Discovery,
        client: Client,
        redirect: &str,
        scopes: &[String],
        before: Option<&Credentials>,
    ) -> Result<Flow, LoginError> {
        discovery.check_proof()?;
        let scopes = if scopes.is_empty() {
            let before = before.filter(|before| before.issuer == discovery.metadata.issuer);
            let asked = before.map(|before| [&before.scopes[..], &before.wanted[..]].concat());
            discovery.scopes(&asked.unwrap_or_default())
        } else {
            scopes.to_vec()
        };
        Ok(Flow {
            discovery,
            client,
            redirect: redirect.to_owned(),
            scopes,
            state: random()?,
            verifier: random()?,
        })
    }

    /// The page on which the user agrees.
    ///
    /// # Errors
    /// If the authorization server has none that may be used.
    pub fn page(&self) -> Result<Url, LoginError> {
        let metadata = &self.discovery.metadata;
        let Some(endpoint) = &metadata.authorization_endpoint else {
            return Err(LoginError::Unsafe { issuer: metadata.issuer.clone(), what: "logins in a browser" });
        };
        let mut page = self.discovery.web.address("authorization endpoint", endpoint)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, self.verifier.as_bytes());
        let mut query = page.query_pairs_mut();
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client.id)
            .append_pair("redirect_uri", &self.redirect)
            .append_pair("state", &self.state)
            .append_pair("code_challenge", &data_encoding::BASE64URL_NOPAD.encode(digest.as_ref()))
            .append_pair("code_challenge_method", "S256")
            .append_pair("resource", &self.discovery.resource);
        if !self.scopes.is_empty() {
            query.append_pair("scope", &self.scopes.join(" "));
        }
        drop(query);
        Ok(page)
    }

    /// Reads the query with which the browser came back. Whoever does not know our state is none of ours, and nothing that is
    /// said under another issuer is so much as told.
    #[must_use]
    pub fn returned(&self, query: &str) -> Returned {
        let parameter = |name: &str| {
            let mut found = form(query).into_iter().filter(|(known, _)| known == name);
            found.next().map(|(_, value)| value)
        };
        let state = parameter("state").unwrap_or_default();
        if !bool::from(state.as_bytes().ct_eq(self.state.as_bytes())) {
            return Returned::Foreign;
        }
        let metadata = &self.discovery.metadata;
        match parameter("iss") {
            Some(issuer) if issuer != metadata.issuer => {
                return Returned::Refused(LoginError::WrongIssuer(format!("`{}`", told(&issuer))));
            }
            None if metadata.authorization_response_iss_parameter_supported => {
                return Returned::Refused(LoginError::WrongIssuer("it does not say which".to_owned()));
            }
            _ => {}
        }
        if let Some(error) = parameter("error") {
            let described = parameter("error_description").map(|text| format!(": {}", told(&text)));
            return Returned::Refused(LoginError::Denied(told(&error) + &described.unwrap_or_default()));
        }
        match parameter("code") {
            Some(code) => Returned::Code(Code(code)),
            None => Returned::Refused(LoginError::Denied("it gave no code".to_owned())),
        }
    }

    /// Gives the code for a token.
    ///
    /// # Errors
    /// If the authorization server does not take it.
    pub async fn redeem(&self, code: Code) -> Result<Credentials, LoginError> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code.0),
            ("redirect_uri", &self.redirect),
            ("code_verifier", &self.verifier),
            ("resource", &self.discovery.resource),
        ];
        let endpoint =
            self.discovery.web.address("token endpoint", &self.discovery.metadata.token_endpoint)?;
        let fresh: Fresh = token::ask(&self.discovery.web, &endpoint, &self.client, &form).await?;
        Ok(fresh.begin(&self.discovery, self.client.clone(), self.scopes.clone(), Grant::User))
    }
}

/// The parameters of a query, decoded.
fn form(query: &str) -> Vec<(String, String)> {
    // A URL's query is read as a form is.
    let url = Url::parse(&format!("http://localhost/?{query}"));
    url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}
