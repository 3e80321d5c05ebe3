//! What web pages may do whose origin the [guard](super::guard) has let through: browsers ask that before they send anything but
//! the simplest requests, and hide from a page what it was not told that it may see (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::time::Duration;

use axum::http::Method;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::headers::VERSION;
use super::legacy::SESSION;

/// How long a browser may remember what it was told.
const REMEMBERED: Duration = Duration::from_secs(600);

/// To be put behind the guard, for it asks nobody who they are.
pub(super) fn layer() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Among them are `Mcp-Param-*`, whose names the tools have.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([SESSION, VERSION, WWW_AUTHENTICATE, RETRY_AFTER])
        .max_age(REMEMBERED)
}
