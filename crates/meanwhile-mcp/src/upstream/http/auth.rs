//! The token of a login, which goes with every request to its server, and to nobody else. It is renewed before it ends, and when
//! the server no longer takes it; what only its user can mend is told with the command that does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tokio::time::Instant;

use super::{Failure, failure};
use crate::login::{Challenge, Credentials, Entry, LoginError, Renewal, is_confidential, renew};

/// A renewal that failed is not tried again for so long, while the token still holds.
const PAUSE: Duration = Duration::from_secs(10);

/// The login that belongs to a server.
#[derive(Debug, Clone)]
pub struct Login {
    /// Where it is kept, once there is one.
    pub entry: Entry,
    /// What its user runs to log in.
    pub command: String,
}

/// The token of one connection.
pub(super) struct Auth {
    server: String,
    login: Option<Login>,
    held: Mutex<Option<Arc<Held>>>,
    renewing: tokio::sync::Mutex<Option<Instant>>,
}

struct Held {
    credentials: Credentials,
    header: HeaderValue,
}

impl Auth {
    /// A header of the user's own goes before any login, and no token goes where others could read it.
    pub(super) fn new(server: &str, login: Option<&Login>, url: &Url, headers: &HeaderMap) -> Auth {
        let login = login.filter(|_| is_confidential(url) && !headers.contains_key(AUTHORIZATION));
        Auth {
            server: server.to_owned(),
            login: login.cloned(),
            held: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        }
    }

    /// Sends a request with the token, if there is one, and once more with another one if that is refused.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let Some(login) = &self.login else { return sent(request, None).await };
        let again = request.try_clone();
        let held = self.current(login).await?;
        let response = sent(request, held.as_deref()).await?;
        let (Some(again), Some(held)) = (again, held) else { return Ok(response) };
        match self.other(login, &held, &response).await? {
            Some(other) => sent(again, Some(&other)).await,
            None => Ok(response),
        }
    }

    /// The token to use now.
    async fn current(&self, login: &Login) -> Result<Option<Arc<Held>>, Failure> {
        let held = self.held().clone();
        let held = match held {
            Some(held) if !held.credentials.is_ending() => return Ok(Some(held)),
            _ => self.read(login)?,
        };
        let Some(held) = held else { return Ok(None) };
        if !held.credentials.is_ending() || !held.credentials.is_renewable() {
            return Ok(Some(held));
        }
        let has_ended = held.credentials.has_ended();
        match self.renewed(login, &held, has_ended).await {
            Ok(renewed) => Ok(Some(renewed)),
            Err(failure) if has_ended => Err(failure),
            Err(_) => Ok(Some(held)),
        }
    }

    /// Another token than the one with which the server has given this response, if that may help.
    async fn other(
        &self,
        login: &Login,
        held: &Held,
        response: &Response,
    ) -> Result<Option<Arc<Held>>, Failure> {
        let is_unknown = response.status() == StatusCode::UNAUTHORIZED;
        if !is_unknown && !wants_more(response) {
            return Ok(None);
        }
        // Its user may have logged in again.
        match self.read(login)? {
            Some(found) if found.header != held.header => Ok(Some(found)),
            Some(found) if is_unknown && found.credentials.is_renewable() => {
                self.renewed(login, &found, true).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Fetches another token than this one, unless somebody else has.
    async fn renewed(&self, login: &Login, old: &Held, is_needed: bool) -> Result<Arc<Held>, Failure> {
        let mut failed = self.renewing.lock().await;
        if let Some(held) = self.held().clone().filter(|held| held.header != old.header) {
            return Ok(held);
        }
        if !is_needed && failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return Err(Failure::Refused("cannot be logged in at now".to_owned()));
        }
        let renewed = renew(&login.entry, old.credentials.token()).await;
        *failed = Some(Instant::now());
        let why = match renewed {
            Ok(Renewal::Renewed(credentials)) => {
                *failed = None;
                return self.hold(*credentials);
            }
            Ok(Renewal::LoginNeeded(why)) => format!("wants a login, and {why}; run: {}", login.command),
            Err(error) => format!(
                "wants a login that could not be renewed: {error}; if that stays so, run: {}",
                login.command
            ),
        };
        tracing::warn!(server = self.server, why, "there is no new token for the MCP server");
        Err(Failure::Refused(why))
    }

    fn read(&self, login: &Login) -> Result<Option<Arc<Held>>, Failure> {
        match login.entry.read().map_err(unusable)? {
            Some(credentials) => self.hold(credentials).map(Some),
            None => {
                *self.held() = None;
                Ok(None)
            }
        }
    }

    fn hold(&self, credentials: Credentials) -> Result<Arc<Held>, Failure> {
        let header = HeaderValue::try_from(format!("Bearer {}", credentials.token().text()));
        let mut header =
            header.map_err(|_| Failure::Refused("has a token that no header can hold".to_owned()))?;
        header.set_sensitive(true);
        let held = Arc::new(Held { credentials, header });
        *self.held() = Some(held.clone());
        Ok(held)
    }

    /// Whether a refusal is about who asks, which is for the user of the gateway to mend, not for its client.
    pub(super) fn is_about_login(&self, status: StatusCode, challenge: &Challenge) -> bool {
        let wants_more = status == StatusCode::FORBIDDEN && challenge.wants_more();
        self.login.is_some() && (status == StatusCode::UNAUTHORIZED || wants_more)
    }

    /// What mends a refusal. What a token lacks is noted for the next login.
    pub(super) async fn mend(&self, status: StatusCode, challenge: &Challenge) -> String {
        let Some(login) = self.login.as_ref().filter(|_| self.is_about_login(status, challenge)) else {
            return match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    "; give it what it asks for with --header".to_owned()
                }
                _ => String::new(),
            };
        };
        let run = format!("run: {}", login.command);
        if status == StatusCode::UNAUTHORIZED {
            // Without that it may be one that knows tokens only, and no place to get one.
            let or = if challenge.resource_metadata.is_some() {
                ""
            } else {
                ", or give it its token with --header"
            };
            return format!("; {run}{or}");
        }
        if let Err(error) = login.entry.want(&challenge.scopes).await {
            tracing::warn!(server = self.server, %error, "what the login lacks cannot be noted");
        }
        let scopes = challenge.scopes.join(" ");
        format!(
            "; the login does not allow it{}; {run}",
            if scopes.is_empty() { scopes } else { format!(" ({scopes})") }
        )
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wants_more(response: &Response) -> bool {
    response.status() == StatusCode::FORBIDDEN && Challenge::read(response.headers()).wants_more()
}

fn unusable(error: LoginError) -> Failure {
    Failure::Refused(format!("has a login that cannot be used: {error}"))
}

async fn sent(request: RequestBuilder, held: Option<&Held>) -> Result<Response, Failure> {
    let request = match held {
        Some(held) => request.header(AUTHORIZATION, held.header.clone()),
        None => request,
    };
    request.send().await.map_err(|error| failure(&error))
}
