//! End-to-end tests: real processes, driven over their stdin and stdout by an independent client.
//!
//! The upstreams are examples of this package; `cargo build --examples -p meanwhile-cli` builds them, and so
//! does a plain `cargo test`.

mod bridging;
mod client;
mod control;
mod demo;
mod economy;
mod eras;
mod faces;
mod fixture;
mod hardship;
mod http;
mod inbox;
mod jobs_command;
mod ledger;
mod lingering;
mod load;
mod login;
mod malformed;
mod modern;
mod nested;
mod passing;
mod questions;
mod remote;
mod results;
mod tasks;
mod upstream;
mod watching;
