//! The keys that an issuer publishes: found by its metadata, kept, and fetched again when a token names one that is not known,
//! but not as often as anybody likes. While they are fetched nobody waits whose key is known.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet};
use reqwest::{Client, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Denied;

/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// An issuer's answer that is larger is none, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;
/// Whatever tokens come, keys are fetched so often in this time, and no more.
const FETCHES_MAX: usize = 2;
const WINDOW: Duration = Duration::from_secs(20);
/// Keys that are older are fetched again, so that one that was withdrawn is not taken for ever.
const STALE: Duration = Duration::from_secs(3600);
/// How long one whose key is known, and old, waits for what the issuer says of it now.
const MOMENT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Keys(Arc<Published>);

struct Published {
    issuer: String,
    client: Client,
    known: Mutex<Known>,
    /// One fetches them at a time.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    set: Option<JwkSet>,
    fetched: Option<Instant>,
    /// The last fetches, the oldest first.
    tried: VecDeque<Instant>,
    /// How many have ended, whatever came of them.
    ended: u64,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    pub(super) fn new(issuer: &str) -> reqwest::Result<Keys> {
        // Another one may be there already, and is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build()?;
        let (known, fetching) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Keys(Arc::new(Published { issuer: issuer.to_owned(), client, known, fetching })))
    }

    /// The key of this name, or the only one there is.
    pub(super) async fn find(&self, name: Option<&str>) -> Result<Jwk, Denied> {
        let (key, is_stale) = {
            let known = self.0.known();
            (known.key(name), known.is_stale())
        };
        match key {
            Some(key) if !is_stale || self.0.fetching.try_lock().is_err() => return Ok(key),
            // It is fetched to the end also without us.
            Some(_) => drop(tokio::time::timeout(MOMENT, self.fetched()).await),
            None => self.fetched().await,
        }
        let known = self.0.known();
        match &known.set {
            // An issuer that is out of reach for a while leaves its keys as they were.
            Some(_) => known.key(name).ok_or_else(|| super::invalid("its key is not one of the issuer's")),
            None => Err(Denied::Unknown("the issuer's keys are not known now; try again later".to_owned())),
        }
    }

    /// Resolves when they have been fetched, by us or by one who was at it, or may not be fetched now.
    async fn fetched(&self) {
        let (published, ended) = (self.0.clone(), self.0.known().ended);
        let fetched = tokio::spawn(async move {
            let _alone = published.fetching.lock().await;
            let may_fetch = {
                let mut known = published.known();
                known.ended == ended && known.may_fetch()
            };
            if may_fetch {
                let set = published.fetch().await;
                published.known().take(set, &published.issuer);
            }
        });
        let _ = fetched.await;
    }
}

impl Published {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let mut why = String::new();
        for place in places(&self.issuer)? {
            match self.get::<Metadata>(place.clone()).await {
                Ok(metadata) if metadata.issuer == self.issuer => {
                    check_url(&metadata.jwks_uri).map_err(|why| format!("its `jwks_uri` {why}"))?;
                    let uri = Url::parse(&metadata.jwks_uri).map_err(|error| error.to_string())?;
                    return self.get(uri).await;
                }
                Ok(metadata) => why = format!("{place} is of another issuer, `{}`", metadata.issuer),
                Err(error) => why = format!("{place}: {error}"),
            }
        }
        Err(why)
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, String> {
        let response = self.client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let mut response = response.map_err(|error| error.without_url().to_string())?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
            body.extend_from_slice(&part);
            if body.len() > ANSWER_MAX {
                return Err("it answers too much".to_owned());
            }
        }
        serde_json::from_slice(&body)
            .map_err(|error| format!("it does not answer what was asked for: {error}"))
    }
}

impl Known {
    fn is_stale(&self) -> bool {
        self.fetched.is_none_or(|fetched| fetched.elapsed() > STALE)
    }

    /// Takes what a fetch has brought.
    fn take(&mut self, fetched: Result<JwkSet, String>, issuer: &str) {
        self.ended += 1;
        match fetched {
            Ok(set) => (self.set, self.fetched) = (Some(set), Some(Instant::now())),
            Err(why) => tracing::warn!(issuer, why, "the issuer's keys cannot be fetched"),
        }
    }

    fn may_fetch(&mut self) -> bool {
        self.tried.retain(|tried| tried.elapsed() < WINDOW);
        let may = self.tried.len() < FETCHES_MAX;
        if may {
            self.tried.push_back(Instant::now());
        }
        may
    }

    fn key(&self, name: Option<&str>) -> Option<Jwk> {
        let set = self.set.as_ref()?;
        match name {
            Some(name) => set.find(name).cloned(),
            None if set.keys.len() == 1 => set.keys.first().cloned(),
            None => None,
        }
    }
}

/// Where an issuer's metadata may be: as RFC 8414 has it, and as OpenID Connect has it.
fn places(issuer: &str) -> Result<[Url; 3], String> {
    let url = Url::parse(issuer).map_err(|error| error.to_string())?;
    let path = url.path().trim_end_matches('/').to_owned();
    let at = |place: String| {
        let mut url = url.clone();
        url.set_path(&place);
        url
    };
    Ok([
        at(format!("/.well-known/oauth-authorization-server{path}")),
        at(format!("/.well-known/openid-configuration{path}")),
        at(format!("{path}/.well-known/openid-configuration")),
    ])
}

/// What is fetched decides who is let in, so nobody on the way may change it.
pub(super) fn check_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|_| "is no URL: one begins with https://".to_owned())?;
    let host = url.host_str().unwrap_or_default();
    let is_here = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        _ if url.query().is_some() || url.fragment().is_some() => {
            Err("must have no query and no fragment".to_owned())
        }
        "https" => Ok(()),
        "http" if is_here => Ok(()),
        _ => Err("must begin with https://, or be on this machine".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_where_the_standards_have_it() {
        let places = places("https://id.example/tenant/").unwrap().map(|url| url.to_string());
        assert_eq!(
            places,
            [
                "https://id.example/.well-known/oauth-authorization-server/tenant",
                "https://id.example/.well-known/openid-configuration/tenant",
                "https://id.example/tenant/.well-known/openid-configuration",
            ]
        );
        assert!(check_url("https://id.example").is_ok() && check_url("http://127.0.0.1:1/x").is_ok());
        for wrong in ["http://id.example", "id.example", "https://id.example?x", "ftp://localhost"] {
            assert!(check_url(wrong).is_err(), "{wrong}");
        }
    }
}
