//! Where the browser comes back to: a port of this machine, for as long as a login takes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use meanwhile_mcp::login::{Code, Flow, LoginError, Returned};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// How long the browser has to fetch its last page.
const LAST_PAGE: Duration = Duration::from_secs(1);

/// The place that the browser comes back to.
pub(super) struct Callback {
    listener: TcpListener,
    url: String,
}

struct Waiting {
    flow: Arc<Flow>,
    came: mpsc::Sender<Result<Code, LoginError>>,
}

impl Callback {
    /// Listens on the port that is `asked` for, or else on the one `before`, if it is free, or on any.
    pub(super) async fn listen(asked: Option<u16>, before: Option<u16>) -> anyhow::Result<Callback> {
        let on = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        if let Some(port) = asked {
            let listener = on(port)
                .await
                .with_context(|| format!("port {port} is not free for the browser to come back to"))?;
            // As clients that are registered by hand have it.
            return Ok(Callback { listener, url: format!("http://localhost:{port}/callback") });
        }
        let again = match before {
            Some(port) => on(port).await.ok(),
            None => None,
        };
        let listener = match again {
            Some(listener) => listener,
            None => on(0).await.context("there is no free port for the browser to come back to")?,
        };
        let port = listener.local_addr().context("the port is not known")?.port();
        Ok(Callback { listener, url: format!("http://127.0.0.1:{port}/callback") })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Waits for the browser. Who comes with anything else than the answer to this login is sent away.
    pub(super) async fn code(self, flow: Arc<Flow>) -> anyhow::Result<Code> {
        let (came, mut comes) = mpsc::channel(1);
        let waiting = Arc::new(Waiting { flow, came });
        let app = Router::new().route("/callback", get(returned)).with_state(waiting);
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let serving = axum::serve(self.listener, app).with_graceful_shutdown(async { drop(told.await) });
        let mut serving = tokio::spawn(serving.into_future());
        let code = comes.recv().await.context("the listener failed")?;
        drop(tell);
        if tokio::time::timeout(LAST_PAGE, &mut serving).await.is_err() {
            serving.abort();
            drop(serving.await);
        }
        Ok(code?)
    }
}

async fn returned(State(waiting): State<Arc<Waiting>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let (status, page) = match waiting.flow.returned(&query.unwrap_or_default()) {
        Returned::Foreign => (StatusCode::BAD_REQUEST, "This is not the login that is waited for."),
        // A second one comes too late, and changes nothing.
        Returned::Code(code) => {
            let _ = waiting.came.try_send(Ok(code));
            (StatusCode::OK, "You can close this page; the rest is said in the terminal.")
        }
        Returned::Refused(error) => {
            let _ = waiting.came.try_send(Err(error));
            (StatusCode::BAD_REQUEST, "There is no login; the terminal says why.")
        }
    };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], page)
}
