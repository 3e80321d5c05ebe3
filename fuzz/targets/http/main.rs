//! The HTTP face: any requests, one after another, in sessions and outside of them. Each gets a well-formed answer with the
//! status that belongs to it, or the input is kept.
//!
//! An input is a few requests as they are on the wire, with `%%` on a line between them; what comes before the first one says
//! what stands behind the face (`script`).
#![no_main]

mod check;
mod script;
mod server;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::response::Parts;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use libfuzzer_sys::{Corpus, fuzz_target};
use tower::ServiceExt;

use self::script::{Asked, Script};

/// A stream that has been silent for so long is left; time passes at once here.
const SILENCE: Duration = Duration::from_secs(10);
/// So many pieces of a body are read.
const PIECES: usize = 200;

fuzz_target!(|text: &str| -> Corpus {
    let Some(script) = Script::read(text) else { return Corpus::Reject };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(play(&script));
    Corpus::Keep
});

async fn play(script: &Script<'_>) {
    let router = server::router(script);
    let (mut session, mut last_event) = (None, None);
    let mut left = Vec::new();
    for request in &script.requests {
        let Some(asked) = request.fill(session.as_deref(), last_event.as_deref()) else { continue };
        let (answer, rest) = ask(&router, &asked).await;
        check::answer(script, &asked, &answer);
        session = answer.header("mcp-session-id").map(str::to_owned).or(session);
        last_event = answer.last_event().or(last_event);
        // A client that goes on while a stream is open.
        left.push(rest);
    }
}

/// An answer as far as it came.
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: Vec<u8>,
    pub(crate) is_whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    fn last_event(&self) -> Option<String> {
        let text = std::str::from_utf8(&self.body).ok()?;
        text.lines().rev().find_map(|line| line.strip_prefix("id: ")).map(str::to_owned)
    }
}

async fn ask(router: &Router, asked: &Asked) -> (Answer, Body) {
    let mut request = Request::new(Body::from(asked.body.clone()));
    *request.method_mut() = asked.method.clone();
    *request.uri_mut() = asked.uri.clone();
    *request.headers_mut() = asked.headers.clone();
    let response: Response<Body> = router.clone().oneshot(request).await.expect("a router does not fail");
    let (head, mut rest) = response.into_parts();
    let mut answer = Answer { head, body: Vec::new(), is_whole: false };
    for _ in 0..PIECES {
        match tokio::time::timeout(SILENCE, rest.frame()).await {
            Ok(Some(frame)) => {
                let frame = frame.expect("the body does not break");
                answer.body.extend(frame.data_ref().into_iter().flatten());
            }
            Ok(None) => {
                answer.is_whole = true;
                break;
            }
            Err(_) => break,
        }
    }
    (answer, rest)
}
