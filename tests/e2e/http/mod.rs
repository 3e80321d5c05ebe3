//! `meanwhile serve`, over real sockets.

mod config;
pub(crate) mod guard;
mod hub;
mod legacy;
mod limits;
mod modern;
mod oauth;
mod replicas;
mod rest;
mod sessions;
mod share;
mod shutdown;
mod strangers;
pub(crate) mod web;
