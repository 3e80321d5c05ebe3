//! Bodies of requests: how long each may be, how long it may take, and how much is held of those that are not whole.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::refusal::Refusal;
use crate::message::{INTERNAL_ERROR, INVALID_REQUEST};

/// How long a client may take to send the body of a request.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may still take when we are about to end.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// So many bytes of each body do not count: small ones are read however many large ones are on their way.
const FREE: usize = 16 * 1024;
/// As many of the largest bodies may be on their way at once; of smaller ones more.
const LARGEST_AT_ONCE: usize = 2;

/// Reads bodies.
pub(super) struct Bodies {
    max: usize,
    /// How many bytes may still be held.
    room: Semaphore,
    ending: CancellationToken,
}

impl Bodies {
    /// None of them may be longer than `max` bytes.
    pub(super) fn new(max: usize, ending: CancellationToken) -> Bodies {
        let room = max.saturating_mul(LARGEST_AT_ONCE).min(Semaphore::MAX_PERMITS);
        Bodies { max, room: Semaphore::new(room), ending }
    }

    /// A body, once it is whole.
    pub(super) async fn read(&self, body: Body) -> Result<Vec<u8>, Refusal> {
        let ends = async {
            self.ending.cancelled().await;
            tokio::time::sleep(LAST_MOMENT).await;
        };
        tokio::select! {
            biased;
            whole = self.whole(body) => whole,
            () = tokio::time::sleep(PATIENCE) => {
                let why = "the body did not come in time";
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, INVALID_REQUEST, why))
            }
            () = ends => Err(unavailable("this server is about to end; try again later")),
        }
    }

    async fn whole(&self, mut body: Body) -> Result<Vec<u8>, Refusal> {
        if body.size_hint().lower() > self.max as u64 {
            return Err(self.too_long());
        }
        let (mut whole, mut held) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let why = format!("the body cannot be read: {error}");
                Refusal::new(StatusCode::BAD_REQUEST, INVALID_REQUEST, why)
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let length = whole.len() + data.len();
            if length > self.max {
                return Err(self.too_long());
            }
            let counted = data.len().min(length.saturating_sub(FREE));
            let more =
                u32::try_from(counted).ok().and_then(|counted| self.room.try_acquire_many(counted).ok());
            let Some(more) = more else {
                return Err(unavailable("too much is being sent at once; try again later"));
            };
            match &mut held {
                None => held = Some(more),
                Some(held) => held.merge(more),
            }
            // Copied, for a frame may keep more alive than it holds.
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    }

    fn too_long(&self) -> Refusal {
        let why = format!("a body of more than {} bytes; the limit is raised with --max-message", self.max);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, why)
    }
}

fn unavailable(why: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, why)
        .header(RETRY_AFTER, HeaderValue::from_static("1"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::StreamExt;
    use tokio::time::Instant;

    use super::*;

    /// A body of which so much comes, and no more.
    fn half(bytes: usize) -> Body {
        let sent = futures_util::stream::iter([Ok::<_, Infallible>(vec![b' '; bytes])]);
        Body::from_stream(sent.chain(futures_util::stream::pending()))
    }

    fn status(read: Result<Vec<u8>, Refusal>) -> u16 {
        axum::response::IntoResponse::into_response(read.unwrap_err()).status().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_whole_holds_no_more_than_it_may_and_not_for_long() {
        let max = 10 * FREE;
        let bodies = Bodies::new(max, CancellationToken::new());
        let began = Instant::now();
        let many = (0..60).map(|_| bodies.read(half(5 * FREE)));
        let together = async {
            let statuses: Vec<u16> =
                futures_util::future::join_all(many).await.into_iter().map(status).collect();
            let of = |which: u16| statuses.iter().filter(|status| **status == which).count();
            // Four fifths of each count.
            assert_eq!((of(408), of(503)), (5, 55), "{statuses:?}");
        };
        let beside = async {
            tokio::task::yield_now().await;
            assert_eq!(bodies.read(Body::from(vec![b' '; FREE])).await.unwrap().len(), FREE);
            assert_eq!(status(bodies.read(Body::from(vec![b' '; 5 * FREE])).await), 503);
            assert_eq!(began.elapsed(), Duration::ZERO);
        };
        tokio::join!(together, beside);
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
        assert_eq!(bodies.read(Body::from(vec![b' '; max])).await.unwrap().len(), max, "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_said_to_be_too_long_is_not_waited_for() {
        let bodies = Bodies::new(10, CancellationToken::new());
        assert_eq!(status(bodies.read(Body::from(vec![b' '; 11])).await), 413);
        assert_eq!(status(bodies.read(half(11)).await), 413);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_it_is_waited_for_a_moment_only() {
        let bodies = Bodies::new(100, CancellationToken::new());
        bodies.ending.cancel();
        let began = Instant::now();
        assert_eq!(status(bodies.read(half(50)).await), 503);
        assert_eq!(began.elapsed().as_secs(), LAST_MOMENT.as_secs());
        assert_eq!(bodies.read(Body::from("{}")).await.unwrap(), b"{}");
    }
}
