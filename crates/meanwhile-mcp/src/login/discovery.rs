//! Where a server wants its users to log in.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/authorization/authorization-server-discovery>.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::client::{BASIC, POST};
use super::web::{Web, answer, shown, unreachable};
use super::{LoginError, told};
use crate::revision::Revision;

/// Asked for when the authorization server has it, so that the login can be renewed.
const OFFLINE: &str = "offline_access";

/// What a server says of itself (RFC 9728).
#[derive(Debug, Deserialize)]
struct Resource {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    scopes_supported: Option<Vec<String>>,
}

/// What an authorization server says of itself (RFC 8414, OpenID Connect Discovery).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    pub(super) registration_endpoint: Option<String>,
    pub(super) revocation_endpoint: Option<String>,
    scopes_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    pub(super) client_id_metadata_document_supported: bool,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// A server, and its authorization server.
#[derive(Debug)]
pub struct Discovery {
    pub(super) web: Web,
    pub(super) server: Url,
    /// What a token is to be good for.
    pub(super) resource: String,
    pub(super) metadata: Metadata,
    /// The rights that the server asks for, if it says so.
    scopes: Vec<String>,
}

impl Discovery {
    /// Asks the server at a URL, without a token, and follows what it says.
    ///
    /// # Errors
    /// [`LoginError`], if it does not want a login, or what it says cannot be used.
    pub async fn of(url: &str) -> Result<Discovery, LoginError> {
        let mut server = Url::parse(url).map_err(|_| LoginError::Address {
            what: "MCP server",
            url: told(url.split('?').next().unwrap_or_default()),
        })?;
        server.set_fragment(None);
        let _ = (server.set_username(""), server.set_password(None));
        let web = Web::around(&server)?;
        let (status, challenge) = challenge(&web, &server).await?;
        let found = resource(&web, &server, &challenge).await?;
        let (resource, issuer, supported) = match found {
            Some(Resource { resource, authorization_servers, scopes_supported }) => {
                let issuer = authorization_servers.into_iter().next();
                let issuer = issuer.ok_or_else(|| {
                    answer(&server, "no authorization server is named in its metadata".to_owned())
                })?;
                (resource, issuer, scopes_supported)
            }
            // As it was before servers could say it themselves: the authorization server has the same origin.
            None => (canonical(&server), server.origin().ascii_serialization(), None),
        };
        let Some(metadata) = metadata(&web, &issuer).await? else {
            return Err(nowhere(status));
        };
        let scopes =
            if challenge.scopes.is_empty() { supported.unwrap_or_default() } else { challenge.scopes };
        Ok(Discovery { web, server, resource, metadata, scopes })
    }

    /// Who gives the tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.metadata.issuer
    }

    /// The rights to ask for: those that are wanted now, and those that were wanted `before`, so that none is lost.
    pub(super) fn scopes(&self, before: &[String]) -> Vec<String> {
        let mut scopes = self.scopes.clone();
        scopes.extend(before.iter().cloned());
        // By itself it would be all that is asked for.
        if !scopes.is_empty() && self.metadata.scopes_supported.iter().flatten().any(|scope| scope == OFFLINE)
        {
            scopes.push(OFFLINE.to_owned());
        }
        let mut seen = std::collections::HashSet::new();
        scopes.retain(|scope| seen.insert(scope.clone()));
        scopes
    }

    /// That a code which was read on the way is of no use to whoever read it.
    pub(super) fn check_proof(&self) -> Result<(), LoginError> {
        let methods = self.metadata.code_challenge_methods_supported.iter().flatten();
        if methods.clone().any(|method| method == "S256") {
            return Ok(());
        }
        Err(LoginError::Unsafe { issuer: self.metadata.issuer.clone(), what: "PKCE with S256" })
    }

    /// How a client with a secret shows it.
    pub(super) fn shows_secret_by(&self) -> &'static str {
        let methods = self.metadata.token_endpoint_auth_methods_supported.as_deref();
        match methods {
            Some(methods)
                if !methods.iter().any(|method| method == BASIC)
                    && methods.iter().any(|method| method == POST) =>
            {
                POST
            }
            _ => BASIC,
        }
    }
}

fn nowhere(status: StatusCode) -> LoginError {
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; give it its token with --header",
        status if status.is_success() => ": it wants none",
        _ => "",
    };
    LoginError::NoAuthorizationServer { status: status.as_u16(), hint }
}

/// How the server answers who has no token. A question of the modern era is one that begins nothing on a legacy server.
async fn challenge(web: &Web, server: &Url) -> Result<(StatusCode, Challenge), LoginError> {
    let version = Revision::LATEST.name();
    let body = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "meanwhile", "version": env!("CARGO_PKG_VERSION")},
    }}});
    let asked = web
        .client
        .post(server.clone())
        .header(ACCEPT, "application/json, text/event-stream")
        .header(CONTENT_TYPE, "application/json")
        .header("mcp-protocol-version", version)
        .header("mcp-method", "server/discover")
        .body(body.to_string());
    let response = asked.send().await.map_err(|error| unreachable(server, &error))?;
    if response.status() == StatusCode::UNAUTHORIZED {
        return Ok((response.status(), Challenge::read(response.headers())));
    }
    // The old transport has only a stream to open at its URL.
    if response.status().is_client_error() {
        let asked = web.client.get(server.clone()).header(ACCEPT, "text/event-stream");
        let again = asked.send().await.map_err(|error| unreachable(server, &error))?;
        if again.status() == StatusCode::UNAUTHORIZED {
            return Ok((again.status(), Challenge::read(again.headers())));
        }
    }
    Ok((response.status(), Challenge::default()))
}

/// What the server says of itself, at the place that it names, or else at one of the two that are known.
async fn resource(web: &Web, server: &Url, challenge: &Challenge) -> Result<Option<Resource>, LoginError> {
    let places = match &challenge.resource_metadata {
        Some(place) => vec![web.address("address of the server's metadata", place)?],
        None => {
            let known = [
                well_known(server, "oauth-protected-resource", server.path()),
                well_known(server, "oauth-protected-resource", ""),
            ];
            known.to_vec()
        }
    };
    for place in places {
        if let Some(found) = web.document::<Resource>(&place).await? {
            if is_of(server, &found.resource) {
                return Ok(Some(found));
            }
            let reason = format!(
                "it is about `{}`, not about the MCP server `{}`",
                told(&found.resource),
                shown(server)
            );
            return Err(answer(&place, reason));
        }
    }
    Ok(None)
}

/// Whether a server says of itself only what it may: a token for another's resource must not go to it.
fn is_of(server: &Url, resource: &str) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let folder = resource.path().trim_end_matches('/');
    let rest = server.path().strip_prefix(folder);
    resource.origin() == server.origin() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

async fn metadata(web: &Web, issuer: &str) -> Result<Option<Metadata>, LoginError> {
    let url = web.address("authorization server", issuer)?;
    let path = url.path().trim_end_matches('/');
    let mut places = vec![
        well_known(&url, "oauth-authorization-server", path),
        well_known(&url, "openid-configuration", path),
    ];
    if !path.is_empty() {
        let mut below = url.clone();
        below.set_path(&format!("{path}/.well-known/openid-configuration"));
        places.push(below);
    }
    for place in places {
        let Some(found) = web.document::<Metadata>(&place).await? else { continue };
        // With and without the slash of an empty path it is the same URL.
        if found.issuer != issuer
            && !(path.is_empty() && found.issuer.trim_end_matches('/') == issuer.trim_end_matches('/'))
        {
            let reason =
                format!("it is about the issuer `{}`, not about `{}`", told(&found.issuer), told(issuer));
            return Err(answer(&place, reason));
        }
        web.address("token endpoint", &found.token_endpoint)?;
        return Ok(Some(found));
    }
    Ok(None)
}

/// A well-known place of an origin; what it is about follows as a path.
fn well_known(of: &Url, name: &str, path: &str) -> Url {
    let mut url = of.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(&format!("/.well-known/{name}{}", path.trim_end_matches('/')));
    url
}

/// What a server is called as a resource, as long as it does not say so itself.
fn canonical(server: &Url) -> String {
    let mut url = server.clone();
    url.set_query(None);
    let text = url.to_string();
    if url.path() == "/" { text.trim_end_matches('/').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn well_known_places_keep_the_path_behind_them() {
        let server = url("https://example.com/public/mcp?x=1");
        assert_eq!(
            well_known(&server, "oauth-protected-resource", server.path()).as_str(),
            "https://example.com/.well-known/oauth-protected-resource/public/mcp"
        );
        assert_eq!(well_known(&server, "y", "/").as_str(), "https://example.com/.well-known/y");
    }

    #[test]
    fn a_server_speaks_only_for_itself() {
        let server = url("https://example.com/a/mcp");
        for right in [
            "https://example.com",
            "https://EXAMPLE.com/a",
            "https://example.com/a/",
            "https://example.com/a/mcp",
        ] {
            assert!(is_of(&server, right), "{right}");
        }
        for wrong in [
            "https://example.com/b",
            "https://example.com/a/m",
            "https://other.com/a",
            "http://example.com/a/mcp",
            "x",
        ] {
            assert!(!is_of(&server, wrong), "{wrong}");
        }
        assert_eq!(canonical(&url("https://Example.com/?x")), "https://example.com");
        assert_eq!(canonical(&server), "https://example.com/a/mcp");
    }
}
