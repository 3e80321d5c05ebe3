//! OAuth as the client of a server elsewhere: where it wants its users to log in, how that is done, and what is kept of it.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/authorization>.
//!
//! [`Discovery::of`] finds the authorization server, [`Client::obtain`] makes us known there, and [`Flow`] has the user agree in a
//! browser; [`log_in_as_client`] does without one. What they bring, [`Credentials`], is kept in a [`Vault`], from which requests
//! take their token.

mod challenge;
mod client;
mod discovery;
mod flow;
mod token;
mod vault;
mod web;

pub use self::client::{Client, ClientAsked, Origin};
pub use self::discovery::Discovery;
pub use self::flow::{Code, Flow, Returned};
pub use self::token::{log_in_as_client, revoke};
pub use self::vault::{Credentials, Entry, Grant, Lock, Secret, Vault};

pub(crate) use self::challenge::Challenge;
pub(crate) use self::token::{Renewal, renew};
pub(crate) use self::web::is_confidential;

/// How much of what others say is told, in characters.
const TOLD_MAX: usize = 300;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// An address to which no secret may go.
    #[error(
        "the {what} `{url}` is not used: it must begin with https://; http:// will do only where it and the MCP server are on this machine"
    )]
    Address {
        /// What is at the address.
        what: &'static str,
        /// The address, without what may be a secret in it.
        url: String,
    },
    /// Nobody answered.
    #[error("`{place}` cannot be reached: {reason}")]
    Unreachable {
        /// Who.
        place: String,
        /// What happened.
        reason: String,
    },
    /// An answer that cannot be used.
    #[error("what `{place}` answered cannot be used: {reason}")]
    Answer {
        /// Who answered.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not say where to log in.
    #[error("the MCP server does not say where to log in (it answered HTTP {status} without a token){hint}")]
    NoAuthorizationServer {
        /// How it answered.
        status: u16,
        /// What that may mean.
        hint: &'static str,
    },
    /// The authorization server is too old.
    #[error("the authorization server `{issuer}` does not support {what}, without which a login is not safe")]
    Unsafe {
        /// Which one.
        issuer: String,
        /// What it lacks.
        what: &'static str,
    },
    /// Clients have to be registered by hand.
    #[error(
        "the authorization server `{issuer}` does not register clients by itself: register one there, for a redirect to http://localhost:PORT/callback, and give its --client-id and --callback-port"
    )]
    NoRegistration {
        /// Which one.
        issuer: String,
    },
    /// The server has moved to another authorization server.
    #[error(
        "the MCP server has moved from the authorization server `{before}` to `{now}`, where the client id may be none; if it is one, log out first"
    )]
    Moved {
        /// To which the client id belongs.
        before: String,
        /// The new one.
        now: String,
    },
    /// The authorization server says no.
    #[error("the authorization server says no: {0}")]
    Denied(String),
    /// What came back to us did not come from the authorization server that was asked.
    #[error("the login was answered by another authorization server than the one that was asked: {0}")]
    WrongIssuer(String),
    /// What was kept cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// What another says, cut to a length that can be told, and without what would act upon a terminal.
fn told(text: &str) -> String {
    text.trim().chars().filter(|letter| !letter.is_control()).take(TOLD_MAX).collect()
}

/// Random letters that nobody guesses: of 256 bits.
fn random() -> Result<String, LoginError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| LoginError::NoRandomness)?;
    Ok(data_encoding::BASE64URL_NOPAD.encode(&bytes))
}
