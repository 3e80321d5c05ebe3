//! `meanwhile serve`, over real sockets.

mod guard;
mod hub;
mod legacy;
mod modern;
mod shutdown;
mod web;
