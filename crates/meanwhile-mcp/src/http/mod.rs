//! Streamable HTTP: both eras at once, on the same paths.
//!
//! | module | question it answers |
//! |---|---|
//! | [`connections`], [`body`] | how much may be on its way, and for how long? |
//! | [`endpoint`] | what stands behind a path? |
//! | [`guard`] | which hosts and origins may be named? |
//! | [`cors`] | what may pages of those origins do? |
//! | [`access`], [`oauth`] | who asks? |
//! | [`modern`], [`headers`] | how is a request answered that stands for itself? |
//! | [`legacy`], [`session`], [`streams`] | how is one that belongs to a session? |
//! | [`kept`], [`letters`] | how does another process go on with a session? |
//! | [`refusal`] | how is it refused? |
//! | [`sse`] | how does a message go out? |

mod access;
mod body;
mod connections;
mod cors;
mod endpoint;
mod guard;
mod headers;
mod kept;
mod legacy;
mod letters;
mod modern;
mod oauth;
mod refusal;
mod session;
mod sse;
mod streams;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use meanwhile_core::Store;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::access::{Access, Principal, Tokens};
use self::body::Bodies;
pub use self::endpoint::{Conversation, Endpoint, MakeSettings, OneServer};
pub use self::guard::Guard;
pub use self::oauth::OAuth;
use self::refusal::Refusal;
use self::session::{Sessions, Visit};
use crate::message::{self, INTERNAL_ERROR, INVALID_REQUEST, Incoming};
use crate::revision::{Era, Revision};

#[cfg(feature = "fuzzing")]
pub(crate) fn read_from_header(value: &str) -> Option<String> {
    headers::decoded(&headers::VERSION, value).ok()
}

/// The method whose response stream stays open.
const LISTEN: &str = "subscriptions/listen";

/// How much there may be at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body of a request, in bytes.
    pub body: usize,
    /// Requests that are being answered.
    pub requests: usize,
    /// Streams that stay open to hear of changes.
    pub streams: usize,
    /// Sessions of the legacy era.
    pub sessions: usize,
    /// A session that is left alone for so long ends.
    pub session_idle: Duration,
    /// As long ends a server that is asked nothing outside of sessions.
    pub server_idle: Duration,
}

impl Limits {
    /// How often it is looked for what is idle.
    fn pace(&self) -> Duration {
        let soonest = self.session_idle.min(self.server_idle);
        (soonest / 4).clamp(Duration::from_millis(10), Duration::from_secs(60))
    }
}

/// What answers HTTP requests.
pub struct Server(Arc<Shared>);

struct Shared {
    /// By the path behind `/mcp/`; the common one is the empty path.
    endpoints: HashMap<String, Arc<dyn Endpoint>>,
    guard: Guard,
    access: Access,
    limits: Limits,
    bodies: Bodies,
    sessions: Sessions,
    /// Where sessions are kept, for other processes to go on with.
    store: Arc<dyn Store>,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    next_request: AtomicU64,
    ending: CancellationToken,
}

impl Server {
    /// A server of `endpoints`: the one named `""` at `/mcp`, the others at `/mcp/NAME`. Its sessions can be gone on with by every
    /// other one on the same store.
    #[must_use]
    pub fn new(
        endpoints: HashMap<String, Arc<dyn Endpoint>>,
        guard: Guard,
        access: Access,
        limits: Limits,
        store: Arc<dyn Store>,
    ) -> Server {
        let ending = CancellationToken::new();
        let most = connections::most(limits.requests, limits.streams);
        let streams = connections::most_streams(limits.streams, most);
        if streams < limits.streams {
            tracing::info!(
                streams,
                "so few files may be open that there are no more streams at once than this"
            );
        }
        Server(Arc::new(Shared {
            endpoints,
            guard,
            access,
            limits,
            bodies: Bodies::new(limits.body, ending.clone()),
            sessions: Sessions::new(limits.sessions, limits.session_idle),
            store,
            requests: Arc::new(Semaphore::new(limits.requests)),
            streams: Arc::new(Semaphore::new(streams)),
            next_request: AtomicU64::new(1),
            ending,
        }))
    }

    /// What stands behind which path.
    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/mcp", any(common))
            .route("/mcp/{name}", any(named))
            .route(oauth::METADATA, get(metadata))
            .route(&format!("{}/mcp", oauth::METADATA), get(metadata))
            .route(&format!("{}/mcp/{{name}}", oauth::METADATA), get(metadata))
            .fallback(nothing)
            .layer(cors::layer())
            .layer(from_fn_with_state(self.0.clone(), guarded))
            .with_state(self.0.clone())
    }

    /// Answers requests until `end` resolves, and then those that are on their way. Returns when all have been answered.
    pub async fn serve(&self, listener: TcpListener, end: impl Future<Output = ()> + Send) {
        let shared = &self.0;
        let most = connections::most(shared.limits.requests, shared.limits.streams);
        let serving = connections::serve(listener, self.router(), most, &shared.ending);
        let until_the_end = async {
            tokio::select! {
                () = end => {}
                () = sweep(shared) => {}
            }
            shared.ending.cancel();
            shared.sessions.stop_listening();
        };
        let all = async { tokio::join!(serving, until_the_end) };
        tokio::select! {
            _ = all => {}
            // Also at the end: what waits for an answer of its client can get it through other processes alone.
            () = shared.hear_of_sessions() => {}
        }
    }
}

/// Who names a host or an origin that is not allowed learns nothing, nor what pages of others may do.
async fn guarded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match shared.guard.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Ends what is idle, for ever.
async fn sweep(shared: &Shared) {
    let mut pace = tokio::time::interval(shared.limits.pace());
    loop {
        pace.tick().await;
        shared.sessions.end_the_idle();
        shared.keep_what_is_used().await;
        for endpoint in shared.endpoints.values() {
            endpoint.end_the_idle();
        }
    }
}

async fn common(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.handle("", request).await
}

async fn named(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    match name {
        Ok(Path(name)) => shared.handle(&name, request).await,
        // It is no text.
        Err(_) => nothing().await,
    }
}

/// Who issues the tokens that let one in. Anybody may ask that.
async fn metadata(
    State(shared): State<Arc<Shared>>,
    name: Result<Option<Path<String>>, PathRejection>,
) -> Response {
    let place = match name {
        Ok(name) => name.map(|Path(name)| name).unwrap_or_default(),
        Err(_) => return nothing().await,
    };
    match &shared.access.oauth {
        Some(oauth) if shared.endpoints.contains_key(&place) => sse::json(oauth.metadata(&place).to_string()),
        _ => nothing().await,
    }
}

async fn nothing() -> Response {
    let why = "there is nothing here; servers are at /mcp/NAME";
    Refusal::new(StatusCode::NOT_FOUND, INVALID_REQUEST, why).into_response()
}

impl Shared {
    async fn handle(self: &Arc<Self>, name: &str, request: Request) -> Response {
        self.answer(name, request).await.unwrap_or_else(Refusal::into_response)
    }

    async fn answer(self: &Arc<Self>, name: &str, request: Request) -> Result<Response, Refusal> {
        let (head, body) = request.into_parts();
        let who = self.access.principal(&head.headers, name).await?;
        let endpoint = self.endpoints.get(name).ok_or_else(|| {
            let why = format!("there is no server `{name}` here");
            Refusal::new(StatusCode::NOT_FOUND, INVALID_REQUEST, why)
        })?;
        let headers = &head.headers;
        let at = legacy::At { shared: self, endpoint: &**endpoint, place: name, who: &who, headers };
        match head.method {
            Method::POST => {
                check_types(headers)?;
                check_accepts_both(headers, names_modern(headers))?;
                let _visit = self.before_its_body(&at).await?;
                let incoming = self.read(body).await?;
                match incoming {
                    Incoming::One(message) if is_modern(headers, &message) => {
                        check_accepts_both(headers, true)?;
                        modern::post(self, &**endpoint, &who, headers, message).await
                    }
                    Incoming::Batch(_) if names_modern(headers) => Err(Refusal::new(
                        StatusCode::BAD_REQUEST,
                        INVALID_REQUEST,
                        "this revision has no batches",
                    )),
                    incoming => at.post(incoming).await,
                }
            }
            Method::GET | Method::DELETE if names_modern(headers) => Err(not_allowed("POST")),
            Method::GET => {
                check_accepts(headers, "text/event-stream", false)?;
                at.get().await
            }
            Method::DELETE => at.delete().await,
            _ => Err(not_allowed("POST, GET, DELETE")),
        }
    }

    /// What can be said of a request before its body is read, and the session that it is of.
    async fn before_its_body(&self, at: &legacy::At<'_>) -> Result<Option<Visit>, Refusal> {
        if !names_modern(at.headers) {
            return at.known_session().await;
        }
        if let Some(method) = headers::request(at.headers) {
            // It is taken when the request is there: who sends one slowly keeps nobody from being answered.
            drop(self.permit(method)?);
        }
        Ok(None)
    }

    async fn read(&self, body: Body) -> Result<Incoming, Refusal> {
        let bytes = self.bodies.read(body).await?;
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            Refusal::new(StatusCode::BAD_REQUEST, message::PARSE_ERROR, "a message must be UTF-8")
        })?;
        let parsed = message::parse(text).map_err(Refusal::malformed)?;
        if !text.contains(['\n', '\r']) {
            return Ok(parsed);
        }
        // It is JSON, so they stand between its tokens; behind us they would end a line.
        message::parse(&text.replace(['\n', '\r'], " ")).map_err(Refusal::malformed)
    }

    fn next_request(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    fn permit(&self, method: &str) -> Result<OwnedSemaphorePermit, Refusal> {
        if method == LISTEN { self.stream_permit() } else { self.work_permit() }
    }

    fn work_permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.requests.clone().try_acquire_owned().map_err(|_| self.too_many("requests"))
    }

    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.streams.clone().try_acquire_owned().map_err(|_| self.too_many("streams"))
    }

    fn too_many(&self, what: &str) -> Refusal {
        let why = format!("there are too many {what} at once; try again later, or have --max-{what} raised");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, why)
            .header(RETRY_AFTER, HeaderValue::from_static("1"))
    }
}

fn is_modern(headers: &HeaderMap, message: &message::Message) -> bool {
    let params = match message {
        message::Message::Request { params, .. } | message::Message::Notification { params, .. } => {
            params.as_ref()
        }
        message::Message::Response { .. } => None,
    };
    names_modern(headers) || headers::is_modern(params)
}

fn names_modern(headers: &HeaderMap) -> bool {
    let named = headers.get(headers::VERSION).and_then(|value| value.to_str().ok());
    named.and_then(Revision::from_name).is_some_and(|revision| revision.era() == Era::Modern)
}

fn check_types(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let why = "the header Content-Type must be application/json";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, why))
}

fn check_accepts_both(headers: &HeaderMap, is_needed: bool) -> Result<(), Refusal> {
    check_accepts(headers, "application/json", is_needed)?;
    check_accepts(headers, "text/event-stream", is_needed)
}

/// Whether the client takes this type. A client that does not say takes anything, unless it is needed that it says so.
fn check_accepts(headers: &HeaderMap, kind: &str, is_needed: bool) -> Result<(), Refusal> {
    let group = kind.split('/').next().unwrap_or_default();
    let mut says = false;
    for value in headers.get_all(ACCEPT) {
        says = true;
        let mut ranges = value.to_str().unwrap_or_default().split(',');
        let takes = |range: &str| {
            let range = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            range == kind || range == "*/*" || range.strip_suffix("/*") == Some(group)
        };
        if ranges.any(takes) {
            return Ok(());
        }
    }
    if !says && !is_needed {
        return Ok(());
    }
    let why = format!("the header Accept must list {kind}");
    Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, why))
}

fn not_allowed(methods: &'static str) -> Refusal {
    let why = format!("this is for {methods}");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, INVALID_REQUEST, why)
        .header(ALLOW, HeaderValue::from_static(methods))
}
