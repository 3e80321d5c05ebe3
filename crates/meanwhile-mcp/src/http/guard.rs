//! Whose pages may speak to us: a web page that has its name resolve to this machine must reach nothing
//! (<https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http#security-endpoint>).

use std::net::{IpAddr, Ipv6Addr};

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, StatusCode, Uri};

use super::refusal::Refusal;
use crate::message::INVALID_REQUEST;

/// The hosts and origins that requests may name. Loopback names are always among them.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Guard {
    /// `hosts` as they stand in `Host`, with or without a port; `origins` as they stand in `Origin`.
    #[must_use]
    pub fn new(hosts: Vec<String>, origins: Vec<String>) -> Guard {
        let lower = |texts: Vec<String>| texts.iter().map(|text| text.to_ascii_lowercase()).collect();
        Guard { hosts: lower(hosts), origins: lower(origins) }
    }

    /// A host as it may stand in `Host`.
    ///
    /// # Errors
    /// The text says how to write one.
    pub fn host(text: &str) -> Result<String, String> {
        if is_host(text) {
            return Ok(text.to_owned());
        }
        Err(format!(
            "`{text}` is no host: write HOST or HOST:PORT, for example mcp.example.org or [fd00::7]:8808"
        ))
    }

    /// An origin as it may stand in `Origin`.
    ///
    /// # Errors
    /// The text says how to write one.
    pub fn origin(text: &str) -> Result<String, String> {
        let is_scheme = |scheme: &str| !scheme.is_empty() && scheme.parse::<Scheme>().is_ok();
        let parts = text.split_once("://");
        let is_origin = parts.is_some_and(|(scheme, host)| is_scheme(scheme) && is_host(host));
        // What pages without an origin of their own send.
        if is_origin || text == "null" {
            return Ok(text.to_owned());
        }
        Err(format!(
            "`{text}` is no origin: write SCHEME://HOST or SCHEME://HOST:PORT, for example https://app.example.org"
        ))
    }

    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        // Whoever stands between us and the client may have looked at another one than we do: all that are named must be allowed.
        let named = headers.get_all(HOST).iter().map(|host| text(Some(host)).unwrap_or_default());
        let named: Vec<&str> = uri.authority().map(Authority::as_str).into_iter().chain(named).collect();
        let foreign = named.iter().find(|host| !self.allows_host(host));
        if named.is_empty() || foreign.is_some() || headers.get_all(HOST).iter().nth(1).is_some() {
            return Err(forbidden("Host", foreign.copied().unwrap_or_default(), "--allow-host"));
        }
        // More than one is no browser's doing.
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if text(Some(origin)).is_some_and(|origin| self.allows_origin(origin)) => {
                Ok(())
            }
            (origin, _) => Err(forbidden("Origin", text(origin).unwrap_or_default(), "--allow-origin")),
        }
    }

    fn allows_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let Ok(authority) = host.parse::<Authority>() else { return false };
        is_loopback(authority.host())
            || self.hosts.iter().any(|allowed| *allowed == host || allowed == authority.host())
    }

    fn allows_origin(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.origins.contains(&origin) {
            return true;
        }
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.and_then(|host| host.parse::<Authority>().ok()).is_some_and(|host| is_loopback(host.host()))
    }
}

/// Whether this is a name or an address, with or without a port.
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let (host, port) = text.split_at(authority.host().len().min(text.len()));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_plain),
    };
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()))
}

fn forbidden(header: &str, value: &str, option: &str) -> Refusal {
    let message =
        format!("`{header}: {value}` is not allowed here; the server's operator can allow it with {option}");
    Refusal::new(StatusCode::FORBIDDEN, INVALID_REQUEST, message)
}

fn text(value: Option<&axum::http::HeaderValue>) -> Option<&str> {
    value?.to_str().ok()
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        guard.check(&Uri::from_static("/mcp"), &headers).is_ok()
    }

    #[test]
    fn what_can_never_be_named_cannot_be_allowed() {
        for host in ["mcp.example.org", "my_service:8808", "10.0.0.7", "[fd00::7]:8808", "[::1]"] {
            assert_eq!(Guard::host(host).as_deref(), Ok(host));
            let origin = format!("https://{host}");
            assert_eq!(Guard::origin(&origin), Ok(origin));
        }
        for host in
            ["", "http://x", "x/y", "*.example.org", "me@x", "::1", "x:", "x:99999", ":8808", "[x]", "a b"]
        {
            let why = Guard::host(host).unwrap_err();
            assert!(why.contains("HOST:PORT"), "{why}");
        }
        for origin in ["", "foo", "*", "app.example.org", "https://x/", "https://", "://x", "a b://x"] {
            let why = Guard::origin(origin).unwrap_err();
            assert!(why.contains("SCHEME://HOST"), "{why}");
        }
        assert!(Guard::origin("null").is_ok() && Guard::origin("chrome-extension://abc").is_ok());
    }

    #[test]
    fn only_loopback_and_what_was_named_is_let_in() {
        let guard = Guard::new(
            vec!["mcp.Example.org".into(), "10.0.0.7:8808".into()],
            vec!["https://app.example".into()],
        );
        for host in [
            "localhost:1",
            "LOCALHOST",
            "127.0.0.1:8808",
            "[::1]:8808",
            "mcp.example.org:443",
            "10.0.0.7:8808",
        ] {
            assert!(check(&guard, host, None), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7:1", "", "[::2]:1"]
        {
            assert!(!check(&guard, host, None), "{host}");
        }
        for origin in ["http://localhost:6274", "https://127.0.0.1", "http://[::1]:1", "https://app.example"]
        {
            assert!(check(&guard, "localhost", Some(origin)), "{origin}");
        }
        for origin in [
            "http://evil.example",
            "null",
            "https://app.example:8443",
            "file://localhost",
            "http://localhost.evil.example",
        ] {
            assert!(!check(&guard, "localhost", Some(origin)), "{origin}");
        }
        let mut twice = HeaderMap::new();
        for host in ["localhost", "evil.example"] {
            twice.append(HOST, host.parse().unwrap());
        }
        assert!(guard.check(&Uri::from_static("/mcp"), &twice).is_err(), "a host is named once");
        let absolute = Uri::from_static("http://localhost/mcp");
        for (host, is_allowed) in [("localhost", true), ("evil.example", false)] {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            assert_eq!(guard.check(&absolute, &headers).is_ok(), is_allowed, "{host}");
        }
        assert!(
            Guard::default().check(&Uri::from_static("/mcp"), &HeaderMap::new()).is_err(),
            "a request names its host"
        );
    }
}
