//! A server elsewhere, as the command line names it.

use anyhow::{Context, ensure};
use clap::Args;
use meanwhile_mcp::upstream::Target;

use crate::login;
use crate::state::State;
use crate::wrong_usage;

/// Where a server is that runs by itself.
#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// The URL of an MCP server, instead of a command
    #[arg(long, value_name = "URL", conflicts_with = "command")]
    pub(crate) url: Option<String>,

    /// A header for every request to the server, such as Authorization=Bearer…; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", requires = "url", conflicts_with = "command", value_parser = header)]
    headers: Vec<Header>,

    /// The server at the URL has the old transport, with one stream of events
    #[arg(long, requires = "url", conflicts_with = "command")]
    sse: bool,
}

/// One header. Its value may be a secret, and is not shown.
#[derive(Clone)]
pub(crate) struct Header(String, String);

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.0)
    }
}

fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once(['=', ':']).ok_or("write NAME=VALUE")?;
    Ok(Header(name.trim().to_owned(), value.trim().to_owned()))
}

impl Remote {
    /// The server at the URL, and its name, if a URL was given.
    pub(crate) fn target(&self, state: &State) -> anyhow::Result<Option<(String, Target)>> {
        let Some(url) = &self.url else { return Ok(None) };
        let host = checked(url)?;
        let headers = self.headers.iter().map(|Header(name, value)| (name.clone(), value.clone())).collect();
        let login = Some(login::for_requests(state, url, &format!("--url {}", cut(url)))?);
        Ok(Some((host, Target::Remote { url: url.clone(), headers, legacy_sse: self.sse, login })))
    }
}

/// The host of the `--url` of a command line, with its port if it has one of its own.
pub(crate) fn checked(url: &str) -> anyhow::Result<String> {
    host(url).map_err(|why| wrong_usage(&format!("--url: `{}` is no URL: {why}", cut(url))))
}

/// A URL without what may be a secret in it: who asks, a query, a fragment.
pub(crate) fn cut(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_at(url.find("://").map_or(0, |at| at + 3));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}{}{path}", authority.rsplit('@').next().unwrap_or_default())
}

/// The host of a URL, with its port if it has one of its own.
fn host(url: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("it begins with http:// or https://")?;
    ensure!(["http", "https"].contains(&scheme), "it begins with http:// or https://");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    ensure!(!host.is_empty(), "it has no host");
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_host() {
        assert_eq!(host("https://me:pw@mcp.example.com/a?b").unwrap(), "mcp.example.com");
        assert_eq!(host("http://127.0.0.1:3001/mcp").unwrap(), "127.0.0.1:3001");
        assert_eq!(cut("https://me:pw@mcp.example.com/a@b?c#d"), "https://mcp.example.com/a@b");
        for wrong in ["mcp.example.com", "ftp://x", "http:///mcp"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_header_is_written_as_people_do() {
        for text in ["Authorization=Bearer a=b", "Authorization: Bearer a=b"] {
            let Header(name, value) = header(text).unwrap();
            assert_eq!((name.as_str(), value.as_str()), ("Authorization", "Bearer a=b"));
        }
        assert!(header("Authorization").is_err());
    }
}
