//! `meanwhile serve`, over real sockets.

mod guard;
mod hub;
mod legacy;
mod modern;
mod oauth;
mod shutdown;
mod web;
