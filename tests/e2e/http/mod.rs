//! `meanwhile serve`, over real sockets.

mod guard;
mod legacy;
mod modern;
mod shutdown;
mod web;
