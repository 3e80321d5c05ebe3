//! Tokens: asked for, and renewed before they expire.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::words;
use super::client::{BASIC, Client, POST};
use super::discovery::Discovery;
use super::vault::{Credentials, Entry, Grant, Secret};
use super::web::{Web, answer, shown};
use super::{LoginError, told};

/// So long before its end a token is renewed, in seconds.
const AHEAD: u64 = 60;

/// What a token endpoint gives.
#[derive(Deserialize)]
pub(super) struct Fresh {
    access_token: Secret,
    token_type: String,
    expires_in: Option<serde_json::Value>,
    refresh_token: Option<Secret>,
    scope: Option<String>,
}

/// Why it gives none.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

/// How a renewal went.
pub(crate) enum Renewal {
    /// There is another token, whoever fetched it.
    Renewed(Box<Credentials>),
    /// Only its user can help.
    LoginNeeded(String),
}

impl Fresh {
    fn expires_at(&self, now: u64) -> Option<u64> {
        // Some write the number as a text.
        let lasts = match self.expires_in.as_ref()? {
            serde_json::Value::String(text) => text.parse().ok(),
            number => number.as_f64().map(|seconds| seconds as u64),
        };
        lasts.map(|lasts: u64| now.saturating_add(lasts))
    }

    pub(super) fn begin(
        self,
        discovery: &Discovery,
        client: Client,
        asked: Vec<String>,
        grant: Grant,
    ) -> Credentials {
        let now = now();
        let granted = self.scope.as_deref().map(words).unwrap_or_default();
        Credentials {
            server: shown(&discovery.server),
            resource: discovery.resource.clone(),
            issuer: discovery.metadata.issuer.clone(),
            token_endpoint: discovery.metadata.token_endpoint.clone(),
            revocation_endpoint: discovery.metadata.revocation_endpoint.clone(),
            grant,
            client,
            scopes: if asked.is_empty() { granted } else { asked },
            wanted: vec![],
            expires_at: self.expires_at(now),
            received_at: now,
            access_token: self.access_token,
            refresh_token: self.refresh_token,
        }
    }

    fn renew(self, before: &Credentials) -> Credentials {
        let now = now();
        Credentials {
            expires_at: self.expires_at(now),
            received_at: now,
            access_token: self.access_token,
            // One that is not replaced stays good.
            refresh_token: self.refresh_token.or_else(|| before.refresh_token.clone()),
            ..before.clone()
        }
    }
}

impl Credentials {
    /// Whether the token ends soon, or has ended. Short-lived ones have half their life.
    pub(crate) fn is_ending(&self) -> bool {
        let Some(expires_at) = self.expires_at else { return false };
        let ahead = AHEAD.min(expires_at.saturating_sub(self.received_at) / 2);
        now().saturating_add(ahead) >= expires_at
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.expires_at.is_some_and(|expires_at| now() >= expires_at)
    }

    /// Whether a new one can be had without its user.
    pub(crate) fn is_renewable(&self) -> bool {
        self.refresh_token.is_some() || self.grant == Grant::Client
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Logs in without a user: the client speaks for itself.
///
/// # Errors
/// If the authorization server does not take it.
pub async fn log_in_as_client(
    discovery: &Discovery,
    client: Client,
    scopes: &[String],
) -> Result<Credentials, LoginError> {
    let scopes = if scopes.is_empty() { discovery.scopes(&[]) } else { scopes.to_vec() };
    let joined = scopes.join(" ");
    let mut form = vec![("grant_type", "client_credentials"), ("resource", discovery.resource.as_str())];
    if !joined.is_empty() {
        form.push(("scope", &joined));
    }
    let endpoint = discovery.web.address("token endpoint", &discovery.metadata.token_endpoint)?;
    let fresh = ask(&discovery.web, &endpoint, &client, &form).await?;
    Ok(fresh.begin(discovery, client, scopes, Grant::Client))
}

/// Tells the authorization server that a login is over, if it wants to know.
///
/// # Errors
/// If it cannot be told, or says no.
pub async fn revoke(credentials: &Credentials) -> Result<(), LoginError> {
    let Some(endpoint) = &credentials.revocation_endpoint else { return Ok(()) };
    let server = LoginError::Address { what: "MCP server", url: credentials.server.clone() };
    let web = Web::around(&Url::parse(&credentials.server).map_err(|_| server)?)?;
    let endpoint = web.address("revocation endpoint", endpoint)?;
    let token = credentials.refresh_token.as_ref().unwrap_or(&credentials.access_token);
    let (status, _) = post(&web, &endpoint, &credentials.client, &[("token", token.text())]).await?;
    if status.is_success() { Ok(()) } else { Err(answer(&endpoint, format!("HTTP {status}"))) }
}

/// Asks for a token.
pub(super) async fn ask(
    web: &Web,
    endpoint: &Url,
    client: &Client,
    form: &[(&str, &str)],
) -> Result<Fresh, LoginError> {
    match ask_or_hear(web, endpoint, client, form).await? {
        Ok(fresh) => Ok(fresh),
        Err(refusal) => Err(LoginError::Denied(refusal.told())),
    }
}

async fn ask_or_hear(
    web: &Web,
    endpoint: &Url,
    client: &Client,
    form: &[(&str, &str)],
) -> Result<Result<Fresh, Refusal>, LoginError> {
    let (status, body) = post(web, endpoint, client, form).await?;
    if status.is_success() {
        let fresh: Fresh =
            serde_json::from_slice(&body).map_err(|_| answer(endpoint, "it is no token".to_owned()))?;
        if !fresh.token_type.eq_ignore_ascii_case("Bearer") {
            return Err(answer(
                endpoint,
                format!("a token of the type `{}` is none that we can use", told(&fresh.token_type)),
            ));
        }
        return Ok(Ok(fresh));
    }
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) if status.is_client_error() => Ok(Err(refusal)),
        _ => Err(answer(endpoint, format!("HTTP {status}"))),
    }
}

/// Posts a form; the client shows who it is as was agreed.
async fn post(
    web: &Web,
    endpoint: &Url,
    client: &Client,
    form: &[(&str, &str)],
) -> Result<(StatusCode, Vec<u8>), LoginError> {
    let (encoded, mut form) =
        (client.secret.as_ref().map(|secret| (encode(&client.id), encode(secret.text()))), form.to_vec());
    let mut basic = None;
    match (client.method.as_str(), &client.secret, &encoded) {
        (BASIC, _, Some((id, secret))) => basic = Some((id.as_str(), secret.as_str())),
        (POST, Some(secret), _) => {
            form.extend([("client_id", client.id.as_str()), ("client_secret", secret.text())])
        }
        _ => form.push(("client_id", &client.id)),
    }
    web.post_form(endpoint, &form, basic).await
}

impl Refusal {
    fn told(&self) -> String {
        let described = self.error_description.as_deref().map(|text| format!(": {}", told(text)));
        told(&self.error) + &described.unwrap_or_default()
    }
}

/// Name and secret are encoded as in a form before they are joined (RFC 6749, section 2.3.1).
fn encode(text: &str) -> String {
    let mut url = Url::parse("http://localhost/").expect("a URL");
    url.query_pairs_mut().append_pair("", text);
    url.query().unwrap_or_default().trim_start_matches('=').to_owned()
}

/// Fetches another token than the one that is `old`, unless somebody has done so already. One at a time, whichever process.
pub(crate) async fn renew(entry: &Entry, old: &Secret) -> Result<Renewal, LoginError> {
    let _lock = entry.lock().await?;
    let Some(kept) = entry.read()? else {
        return Ok(Renewal::LoginNeeded("you have logged out".to_owned()));
    };
    if kept.access_token != *old {
        return Ok(Renewal::Renewed(Box::new(kept)));
    }
    let refresh = kept.refresh_token.clone();
    let scope = kept.scopes.join(" ");
    let mut form = vec![("resource", kept.resource.as_str())];
    match (kept.grant, &refresh) {
        (Grant::Client, _) if scope.is_empty() => form.push(("grant_type", "client_credentials")),
        (Grant::Client, _) => form.extend([("grant_type", "client_credentials"), ("scope", &scope)]),
        (Grant::User, Some(token)) => {
            form.extend([("grant_type", "refresh_token"), ("refresh_token", token.text())])
        }
        (Grant::User, None) => return Ok(Renewal::LoginNeeded("the login has expired".to_owned())),
    }
    let server = Url::parse(&kept.server).map_err(|_| entry.unreadable("`server` is no URL"))?;
    let web = Web::around(&server)?;
    let endpoint = web.address("token endpoint", &kept.token_endpoint)?;
    match ask_or_hear(&web, &endpoint, &kept.client, &form).await? {
        Ok(fresh) => {
            let renewed = fresh.renew(&kept);
            entry.write(&renewed)?;
            Ok(Renewal::Renewed(Box::new(renewed)))
        }
        Err(refusal) => {
            // It will not be taken another time either.
            if refusal.error == "invalid_grant" {
                entry.write(&Credentials { refresh_token: None, ..kept })?;
            }
            Ok(Renewal::LoginNeeded(format!("the login is no longer good ({})", refusal.told())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_secret_are_encoded_before_they_are_joined() {
        assert_eq!(encode("a:b c=ü"), "a%3Ab+c%3D%C3%BC");
        assert_eq!(encode("=x"), "%3Dx");
    }

    #[test]
    fn how_long_a_token_lasts_is_read_in_every_form() {
        for (text, at) in [
            ("3600", Some(3610)),
            ("\"3600\"", Some(3610)),
            ("1.5", Some(11)),
            ("null", None),
            ("-1", Some(10)),
        ] {
            let json = format!(r#"{{"access_token":"x","token_type":"bearer","expires_in":{text}}}"#);
            let fresh: Fresh = serde_json::from_str(&json).unwrap();
            assert_eq!(fresh.expires_at(10), at, "{text}");
        }
    }
}
