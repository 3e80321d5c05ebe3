//! The HTTP client: what it sends with every request, and what it follows.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, StatusCode};

use super::CONNECT;

/// How often it is looked whether a silent connection is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How often a request may be redirected.
const REDIRECTS_MAX: usize = 5;

pub(super) fn client() -> reqwest::Result<Client> {
    // Another one may be there already, and is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("meanwhile/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .tcp_keepalive(KEEP_ALIVE)
        .redirect(Policy::custom(redirected))
        .build()
}

/// A redirection is followed only where it changes neither the method nor the origin: what we send is for that server alone.
fn redirected(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let keeps_method =
        matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    let is_same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if keeps_method && is_same && attempt.previous().len() <= REDIRECTS_MAX {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// What the user has a server sent with every request.
pub(super) fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        let name = name.map_err(|_| "a header has a name that no header may have".to_owned())?;
        let value = HeaderValue::from_str(value);
        let mut value =
            value.map_err(|_| format!("the header `{name}` has a value that no header may have"))?;
        value.set_sensitive(true);
        map.append(name, value);
    }
    Ok(map)
}
