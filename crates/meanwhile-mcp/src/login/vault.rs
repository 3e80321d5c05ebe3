//! Where logins are kept: a file for each server, which only its owner can read.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::LoginError;
use super::client::Client;
use super::web::shown as shown_url;

/// How long another process may hold a login to itself.
const LOCKED_MAX: Duration = Duration::from_secs(90);

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    #[must_use]
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What a login has brought, and what it takes to renew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The URL of the server, without its query.
    pub(super) server: String,
    /// What the token is good for.
    pub(super) resource: String,
    /// Who gave it.
    pub(super) issuer: String,
    pub(super) token_endpoint: String,
    pub(super) revocation_endpoint: Option<String>,
    pub(super) grant: Grant,
    pub(super) client: Client,
    /// The rights that were asked for.
    pub(super) scopes: Vec<String>,
    /// The rights that turned out to be missing.
    #[serde(default)]
    pub(super) wanted: Vec<String>,
    pub(super) access_token: Secret,
    /// When it was received and when it ends, in seconds since 1970.
    pub(super) received_at: u64,
    pub(super) expires_at: Option<u64>,
    pub(super) refresh_token: Option<Secret>,
}

/// For whom a token speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// For the user who agreed.
    User,
    /// For the client itself.
    Client,
}

impl Credentials {
    /// Who gave the token.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When it ends, in seconds since 1970, if it does.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// Whether a new token can be had without logging in again.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.is_renewable()
    }

    pub(crate) fn token(&self) -> &Secret {
        &self.access_token
    }
}

/// The folder of all logins.
#[derive(Debug, Clone)]
pub struct Vault {
    folder: PathBuf,
}

/// The login at one server.
#[derive(Debug, Clone)]
pub struct Entry {
    path: PathBuf,
}

/// While it is there, nobody else changes the login.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Vault {
    /// Nothing is read or made before it is used.
    #[must_use]
    pub fn new(folder: PathBuf) -> Vault {
        Vault { folder }
    }

    /// The place of the login at the server with this URL.
    #[must_use]
    pub fn entry(&self, url: &str) -> Entry {
        let (host, key) = match Url::parse(url) {
            Ok(url) => (url.host_str().unwrap_or_default().to_owned(), shown_url(&url)),
            Err(_) => (String::new(), url.to_owned()),
        };
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '.' || letter == '-';
        let host: String =
            host.chars().take(64).map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
        let hash = blake3::hash(key.as_bytes()).to_hex();
        Entry { path: self.folder.join(format!("{host}-{}.json", &hash[..16])) }
    }
}

impl Entry {
    /// What is kept of the login, if there was one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self) -> Result<Option<Credentials>, LoginError> {
        match fs::read(&self.path) {
            Ok(text) => {
                let read = serde_json::from_slice(&text);
                // What is wrong with it is told without a word of it.
                read.map(Some).map_err(|_| self.unreadable("it is no login; log out and in again"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Keeps a login. It is there whole, or the one before it is.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, credentials: &Credentials) -> Result<(), LoginError> {
        let text =
            serde_json::to_vec_pretty(credentials).map_err(|error| self.unreadable(&error.to_string()))?;
        self.replace(&text).map_err(|error| self.failed(&error))
    }

    fn replace(&self, text: &[u8]) -> std::io::Result<()> {
        self.make_folder()?;
        let next = self.path.with_extension("next");
        // Left behind by one who died over it; whoever writes holds the lock.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private().write(true).create_new(true).open(&next)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)
    }

    /// Forgets the login, and says whether there was one.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn forget(&self) -> Result<bool, LoginError> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Waits until nobody else changes the login.
    ///
    /// # Errors
    /// If the system does not give the lock.
    pub async fn lock(&self) -> Result<Lock, LoginError> {
        let entry = self.clone();
        let locked = tokio::task::spawn_blocking(move || entry.locked_file());
        match tokio::time::timeout(LOCKED_MAX, locked).await {
            Ok(Ok(Ok(file))) => Ok(Lock { _file: file }),
            Ok(Ok(Err(error))) => Err(self.failed(&error)),
            Ok(Err(_)) | Err(_) => Err(self.unreadable("another process holds it, and does not let go")),
        }
    }

    fn locked_file(&self) -> std::io::Result<File> {
        self.make_folder()?;
        // A file of its own, which stays: the login's file is another one after each change.
        let file =
            private().write(true).create(true).truncate(false).open(self.path.with_extension("lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => file.lock()?,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(file)
    }

    /// Notes that more rights are needed than the token has, for the next login.
    pub(crate) async fn want(&self, scopes: &[String]) -> Result<(), LoginError> {
        let _lock = self.lock().await?;
        let Some(mut kept) = self.read()? else { return Ok(()) };
        let missing: Vec<String> = scopes
            .iter()
            .filter(|scope| !kept.scopes.contains(scope) && !kept.wanted.contains(scope))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        kept.wanted.extend(missing);
        self.write(&kept)
    }

    fn make_folder(&self) -> std::io::Result<()> {
        let Some(folder) = self.path.parent() else { return Ok(()) };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)
    }

    pub(super) fn unreadable(&self, reason: &str) -> LoginError {
        LoginError::File { path: shown(&self.path), reason: reason.to_owned() }
    }

    fn failed(&self, error: &std::io::Error) -> LoginError {
        self.unreadable(&error.to_string())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// How a file is opened that only its owner can read.
fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
