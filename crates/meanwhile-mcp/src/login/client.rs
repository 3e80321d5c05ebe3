//! Who we are to an authorization server.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/authorization/client-registration>.

use serde::{Deserialize, Serialize};

use super::discovery::Discovery;
use super::vault::{Credentials, Secret};
use super::web::answer;
use super::{LoginError, told};

pub(super) const BASIC: &str = "client_secret_basic";
pub(super) const POST: &str = "client_secret_post";
pub(super) const NONE: &str = "none";

/// A client as an authorization server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub(super) id: String,
    pub(super) secret: Option<Secret>,
    /// How it shows who it is.
    pub(super) method: String,
    pub(super) origin: Origin,
    /// Where the browser comes back to, if that was registered.
    pub(super) redirect: Option<String>,
}

/// Where a client's id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Its user has registered it.
    Given,
    /// It is the URL of a document that says who it is.
    Document,
    /// The authorization server has registered it for us.
    Registered,
}

/// What the user says of the client.
#[derive(Debug, Clone, Default)]
pub struct ClientAsked {
    /// The id of a client that is registered.
    pub id: Option<String>,
    /// Its secret.
    pub secret: Option<Secret>,
    /// The URL of a document about the client, for authorization servers that take one.
    pub document: Option<String>,
}

/// A request to be registered (RFC 7591).
#[derive(Serialize)]
struct Registration<'a> {
    client_name: &'static str,
    redirect_uris: [&'a str; 1],
    grant_types: [&'static str; 2],
    response_types: [&'static str; 1],
    token_endpoint_auth_method: &'a str,
    application_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Registered {
    client_id: String,
    client_secret: Option<Secret>,
    token_endpoint_auth_method: Option<String>,
}

impl Client {
    /// A client that may log in: the one that is given, one that a document tells of, the one that was registered `before`, or one
    /// that is registered now. The browser will come back to `redirect`.
    ///
    /// # Errors
    /// [`LoginError`], if none of these can be had.
    pub async fn obtain(
        discovery: &Discovery,
        asked: ClientAsked,
        before: Option<&Credentials>,
        redirect: &str,
    ) -> Result<Client, LoginError> {
        if let Some(id) = asked.id {
            let client = Client::given(discovery, id, asked.secret);
            return client.unless_moved(discovery, before);
        }
        if let Some(id) = asked.document
            && discovery.metadata.client_id_metadata_document_supported
        {
            return Ok(Client {
                id,
                secret: None,
                method: NONE.to_owned(),
                origin: Origin::Document,
                redirect: None,
            });
        }
        let same =
            before.filter(|before| before.issuer == discovery.metadata.issuer).map(|before| &before.client);
        // Where it was registered for another port there is no use for it.
        let usable = same.filter(|client| {
            client.origin == Origin::Registered && client.redirect.as_deref() == Some(redirect)
        });
        match usable {
            Some(client) => Ok(client.clone()),
            None => Client::register(discovery, redirect).await,
        }
    }

    /// A client that its user has registered.
    #[must_use]
    pub fn given(discovery: &Discovery, id: String, secret: Option<Secret>) -> Client {
        let method = if secret.is_some() { discovery.shows_secret_by() } else { NONE };
        Client { id, secret, method: method.to_owned(), origin: Origin::Given, redirect: None }
    }

    /// The port that the browser should come back to, so that the registration of an earlier login holds.
    #[must_use]
    pub fn port_of(before: &Credentials) -> Option<u16> {
        reqwest::Url::parse(before.client.redirect.as_deref()?).ok()?.port()
    }

    /// What one authorization server knows, another need not.
    fn unless_moved(self, discovery: &Discovery, before: Option<&Credentials>) -> Result<Client, LoginError> {
        let now = &discovery.metadata.issuer;
        match before.filter(|before| before.client.id == self.id && before.issuer != *now) {
            Some(before) => Err(LoginError::Moved { before: before.issuer.clone(), now: now.clone() }),
            None => Ok(self),
        }
    }

    async fn register(discovery: &Discovery, redirect: &str) -> Result<Client, LoginError> {
        let metadata = &discovery.metadata;
        let Some(endpoint) = &metadata.registration_endpoint else {
            return Err(LoginError::NoRegistration { issuer: metadata.issuer.clone() });
        };
        let url = discovery.web.address("registration endpoint", endpoint)?;
        let methods = metadata.token_endpoint_auth_methods_supported.as_deref();
        let needs_secret = methods.is_some_and(|methods| !methods.iter().any(|method| method == NONE));
        let scopes = discovery.scopes(&[]);
        let request = Registration {
            client_name: "Meanwhile",
            redirect_uris: [redirect],
            grant_types: ["authorization_code", "refresh_token"],
            response_types: ["code"],
            token_endpoint_auth_method: if needs_secret { discovery.shows_secret_by() } else { NONE },
            application_type: "native",
            scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
        };
        let (status, body) = discovery.web.post_json(&url, &request).await?;
        if !status.is_success() {
            let why = format!("HTTP {status}: {}", told(&String::from_utf8_lossy(&body)));
            return Err(LoginError::Denied(format!("it does not register us ({why}); give --client-id")));
        }
        let registered: Registered =
            serde_json::from_slice(&body).map_err(|error| answer(&url, error.to_string()))?;
        let method = match (registered.token_endpoint_auth_method, &registered.client_secret) {
            (_, None) => NONE.to_owned(),
            (Some(method), Some(_)) => method,
            // What it is when nothing is said.
            (None, Some(_)) => discovery.shows_secret_by().to_owned(),
        };
        Ok(Client {
            id: registered.client_id,
            secret: registered.client_secret,
            method,
            origin: Origin::Registered,
            redirect: Some(redirect.to_owned()),
        })
    }
}
