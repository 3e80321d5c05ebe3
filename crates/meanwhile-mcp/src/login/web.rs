//! Requests to authorization servers: only to addresses where a secret may go, never to another origin than was meant, and with
//! a bound on what comes back.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{LoginError, told};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How large it may be, in bytes.
const ANSWER_MAX: usize = 256 * 1024;
const REDIRECTS_MAX: usize = 5;

/// The way to the authorization servers of one MCP server.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) client: Client,
    /// The MCP server is on this machine, and so may be what it names. Another one has no business to send us here.
    is_local: bool,
}

/// Whether nobody on the way can read what goes there: it is encrypted, or does not leave this machine.
pub(crate) fn is_confidential(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().map_or_else(
        |_| host == "localhost" || host.ends_with(".localhost"),
        |address| address.to_canonical().is_loopback(),
    )
}

/// An address as it may be shown.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

impl Web {
    pub(super) fn around(server: &Url) -> Result<Web, LoginError> {
        if !is_confidential(server) {
            return Err(LoginError::Address { what: "MCP server", url: shown(server) });
        }
        // Another one may be there already, and is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("meanwhile/", env!("CARGO_PKG_VERSION")))
            .timeout(PATIENCE)
            .redirect(Policy::custom(|attempt| {
                let is_same =
                    attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
                if is_same && attempt.previous().len() <= REDIRECTS_MAX {
                    attempt.follow()
                } else {
                    attempt.stop()
                }
            }))
            .build();
        let client = client.map_err(|error| unreachable(server, &error))?;
        Ok(Web { client, is_local: is_loopback(server) })
    }

    /// Reads an address that another has named, if we may go there.
    pub(super) fn address(&self, what: &'static str, url: &str) -> Result<Url, LoginError> {
        let refused = |url: String| LoginError::Address { what, url };
        let parsed = Url::parse(url).map_err(|_| refused(told(url)))?;
        let is_allowed = is_confidential(&parsed) && (self.is_local || !is_loopback(&parsed));
        if is_allowed && parsed.host_str().is_some() && parsed.username().is_empty() {
            Ok(parsed)
        } else {
            Err(refused(shown(&parsed)))
        }
    }

    /// The document at an address; `None` if there is none.
    pub(super) async fn document<T: DeserializeOwned>(&self, url: &Url) -> Result<Option<T>, LoginError> {
        let (status, body) = self.ask(url, self.client.get(url.clone())).await?;
        if status.is_client_error() {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(answer(url, format!("HTTP {status}")));
        }
        // Sites of one page answer every path with that page.
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&body) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| answer(url, error.to_string()))
    }

    pub(super) async fn post_form(
        &self,
        url: &Url,
        form: &[(&str, &str)],
        basic: Option<(&str, &str)>,
    ) -> Result<(StatusCode, Vec<u8>), LoginError> {
        let mut request = self.client.post(url.clone()).form(form);
        if let Some((user, password)) = basic {
            request = request.basic_auth(user, Some(password));
        }
        self.ask(url, request).await
    }

    pub(super) async fn post_json(
        &self,
        url: &Url,
        body: &impl Serialize,
    ) -> Result<(StatusCode, Vec<u8>), LoginError> {
        let body = serde_json::to_vec(body).map_err(|error| answer(url, error.to_string()))?;
        self.ask(url, self.client.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body)).await
    }

    async fn ask(&self, url: &Url, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), LoginError> {
        let sent = request.header(ACCEPT, "application/json").send().await;
        let mut response = sent.map_err(|error| unreachable(url, &error))?;
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|error| unreachable(url, &error))? {
            if body.len() + bytes.len() > ANSWER_MAX {
                return Err(answer(url, format!("it is larger than {ANSWER_MAX} bytes")));
            }
            body.extend_from_slice(&bytes);
        }
        Ok((response.status(), body))
    }
}

pub(super) fn answer(url: &Url, reason: String) -> LoginError {
    LoginError::Answer { place: shown(url), reason }
}

pub(super) fn unreachable(url: &Url, error: &reqwest::Error) -> LoginError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    LoginError::Unreachable { place: shown(url), reason: told(&cause.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(server: &str) -> Result<Web, LoginError> {
        Web::around(&Url::parse(server).unwrap())
    }

    #[test]
    fn a_server_may_only_name_addresses_where_a_secret_may_go() {
        let far = web("https://mcp.example.com/mcp").unwrap();
        assert!(far.address("x", "https://auth.example.com/a").is_ok());
        for wrong in [
            "http://auth.example.com/",
            "http://localhost:1/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://a.localhost/",
            "file:///etc/passwd",
            "https://me@auth.example.com/",
            "auth.example.com",
        ] {
            assert!(far.address("x", wrong).is_err(), "{wrong}");
        }
        let near = web("http://127.0.0.1:1/mcp").unwrap();
        assert!(near.address("x", "http://localhost:2/").is_ok());
        assert!(near.address("x", "http://auth.example.com/").is_err());
        assert!(web("http://mcp.example.com/mcp").is_err());
    }
}
