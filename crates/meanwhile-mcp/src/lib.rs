//! The MCP gateway of Meanwhile.
//!
//! | module | question it answers |
//! |---|---|
//! | [`message`] | what is a message, and how does it pass through unchanged? |
//! | [`revision`] | what can a peer of this revision do? |
//! | [`modern`] | what does revision 2026-07-28 add to a message? |
//! | [`dialect`] | how is a job shown as a native task? |
//! | [`transport`] | how do messages come and go? |
//! | [`upstream`] | how is the server behind us started, called, and started again? |
//! | [`catalog`] | which tools does the upstream have, and how do we show them? |
//! | [`answers`] | what can be an answer to a question of a server? |
//! | [`rules`] | which face does a call get, and which limits? |
//! | [`clients`] | how long does this client wait for an answer? |
//! | [`economy`] | what is waiting worth? |
//! | [`gateway`] | how are a client and a server joined through the job engine? |
//! | [`http`] | how do clients reach it over HTTP? |
//! | [`hub`] | how are several servers one? |
//! | [`login`] | how does a user log in at a server elsewhere? |
//! | [`document`], [`preview`], [`slice`](mod@slice) | how is an answer shown that is too large for a model? |
//! | [`words`] | what does a model read? |
//!
//! Invariants: a message that is not ours passes through with nothing but its id and its progress token changed; only parameters
//! that we own are parsed; no store is known here, only the engine.

pub mod answers;
pub mod catalog;
pub mod clients;
pub mod dialect;
pub mod document;
pub mod economy;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod http;
pub mod hub;
pub mod login;
pub mod message;
pub mod modern;
pub mod preview;
pub mod revision;
pub mod rules;
pub mod slice;
pub mod transport;
pub mod upstream;
pub mod words;
