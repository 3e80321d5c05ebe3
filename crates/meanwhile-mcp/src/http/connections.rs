//! Connections: how many there are at once, how long each may keep us waiting for a request, and how they end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::http::Request;
use axum::serve::Listener;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the head of a request may take from its first byte on.
const HEAD: Duration = Duration::from_secs(30);
/// How long a connection may be quiet between two requests, or before the first. Proxies reuse one for up to a minute.
const QUIET: Duration = Duration::from_secs(75);
/// So many connections there may be besides those whose request is being answered, or whose stream is open.
const SPARE: usize = 1024;

/// How many connections there may be at once: of the files that this process may open, a quarter is left for everything else.
pub(super) fn most(requests: usize, streams: usize) -> usize {
    let wanted = requests.saturating_add(streams).saturating_add(SPARE);
    wanted.min(files() / 4 * 3).clamp(1, Semaphore::MAX_PERMITS)
}

/// Of so many connections as many may be streams that stay open, so that others are still answered.
pub(super) fn most_streams(streams: usize, most: usize) -> usize {
    streams.min((most / 4 * 3).max(1))
}

#[cfg(unix)]
fn files() -> usize {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

#[cfg(not(unix))]
fn files() -> usize {
    usize::MAX
}

/// Answers what comes over the connections of a listener, `most` at once, until it is told that we are `ending`, and then what is
/// on its way. Returns when all of them have ended. Who comes when there are too many takes the place of the one on which nothing
/// has been asked for longest, or waits for another one to end.
pub(super) async fn serve(
    mut listener: TcpListener,
    router: Router,
    most: usize,
    ending: &CancellationToken,
) {
    let (room, open, crowd) = (Arc::new(Semaphore::new(most)), TaskTracker::new(), Arc::new(Notify::new()));
    let mut is_told = false;
    loop {
        let next = async {
            // After an error that lasts, such as of too many open files, it rests for a second.
            let (stream, _) = Listener::accept(&mut listener).await;
            if room.available_permits() == 0 {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(
                        most,
                        "there are as many connections as there may be; quiet ones are ended"
                    );
                }
                crowd.notify_one();
            }
            (room.clone().acquire_owned().await.expect("it is never closed"), stream)
        };
        let (place, stream) = tokio::select! {
            biased;
            () = ending.cancelled() => break,
            next = next => next,
        };
        // A message is whole when it is written: nothing is gained by holding it back.
        drop(stream.set_nodelay(true));
        let connection = answer(stream, router.clone(), crowd.clone(), ending.clone());
        open.spawn(hold(place, connection));
    }
    drop(listener);
    open.close();
    open.wait().await;
}

async fn hold(place: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(place);
}

/// Answers what comes over one connection, until its client has ended it, keeps us waiting for too long, its place is needed in the
/// `crowd`, or we are `ending`.
async fn answer<S>(stream: S, router: Router, crowd: Arc<Notify>, ending: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = Arc::new(watch::Sender::new(Phase::Quiet));
    let (mut seen, mut asked) = (phase.subscribe(), phase.subscribe());
    let socket = Socket { stream, phase: phase.clone(), is_full: false };
    let service = TowerToHyperService::new(router);
    let answers = service_fn(move |request: Request<Incoming>| {
        phase.send_replace(Phase::Asked);
        let (answer, phase) = (service.call(request), phase.clone());
        async move { answer.await.map(|response| response.map(|body| Answered { body, phase })) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(QUIET);
    let connection = builder.serve_connection(TokioIo::new(socket), answers);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = overdue(&mut seen) => return tracing::debug!("the head of a request did not come in time"),
        () = crowded_out(&mut asked, &crowd) => {}
        () = ending.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection => {}
        // Whose request is not there yet asks elsewhere, or again.
        () = begins(&mut seen) => {}
    }
}

/// What there is of a request on a connection.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Nothing.
    Quiet,
    /// The beginning of its head.
    Begun,
    /// Its head; it is not answered.
    Asked,
}

/// Resolves when there is the beginning of a head.
async fn begins(seen: &mut watch::Receiver<Phase>) {
    // It is not closed before the connection ends, and then nobody waits here.
    let _ = seen.wait_for(|phase| *phase == Phase::Begun).await;
}

/// Resolves when the rest of a head does not come in time.
async fn overdue(seen: &mut watch::Receiver<Phase>) {
    loop {
        begins(seen).await;
        if tokio::time::timeout(HEAD, seen.wait_for(|phase| *phase != Phase::Begun)).await.is_err() {
            return;
        }
    }
}

/// Resolves when a connection on which nothing is asked has to make room. Those come first that have waited here for longest.
async fn crowded_out(seen: &mut watch::Receiver<Phase>, crowd: &Notify) {
    loop {
        let _ = seen.wait_for(|phase| *phase != Phase::Asked).await;
        tokio::select! {
            biased;
            // Then somebody else makes room.
            _ = seen.wait_for(|phase| *phase == Phase::Asked) => {}
            () = crowd.notified() => return,
        }
    }
}

/// A connection that says when a request begins to come.
struct Socket<S> {
    stream: S,
    phase: Arc<watch::Sender<Phase>>,
    /// The client does not take what is written: the answer before is still on its way.
    is_full: bool,
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        self.is_full = written.is_pending();
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        // Who has not read the answer before is not late with the next request.
        if into.filled().len() > before && !self.is_full {
            self.phase.send_if_modified(|phase| {
                let begins = *phase == Phase::Quiet;
                if begins {
                    *phase = Phase::Begun;
                }
                begins
            });
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The body of an answer. When it goes, it has been handed over whole, or nobody wants the rest.
struct Answered {
    body: axum::body::Body,
    phase: Arc<watch::Sender<Phase>>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Quiet);
    }
}

impl HttpBody for Answered {
    type Data = <axum::body::Body as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";

    /// A client's end of a connection whose requests are answered when the gate opens.
    fn connection() -> (DuplexStream, Arc<Notify>, CancellationToken) {
        let (client, server) = tokio::io::duplex(4096);
        let (gate, ending) = (Arc::new(Notify::new()), CancellationToken::new());
        let opens = gate.clone();
        let router = Router::new().route("/", post(async move || opens.notified().await));
        tokio::spawn(answer(server, router, Arc::default(), ending.clone()));
        (client, gate, ending)
    }

    /// How long it takes until the other end closes, and what it says before.
    async fn closes(client: &mut DuplexStream) -> (Duration, String) {
        let (began, mut said) = (Instant::now(), String::new());
        // What is half sent may be answered by a reset.
        let _ = client.read_to_string(&mut said).await;
        (began.elapsed(), said)
    }

    async fn answered(client: &mut DuplexStream) {
        let mut said = [0; 512];
        let length = client.read(&mut said).await.unwrap();
        assert!(said[..length].starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_byte_by_byte_is_waited_for_so_long_and_no_longer() {
        let (mut client, gate, _) = connection();
        gate.notify_one();
        client.write_all(REQUEST).await.unwrap();
        answered(&mut client).await;
        tokio::time::sleep(QUIET / 2).await;
        let began = Instant::now();
        for byte in REQUEST {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(HEAD / 20).await;
        }
        assert!(began.elapsed() >= HEAD && began.elapsed() < HEAD + HEAD / 10, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_connection_ends_after_a_while_and_one_that_waits_for_an_answer_does_not() {
        let (mut client, ..) = connection();
        assert_eq!(closes(&mut client).await.0.as_secs(), QUIET.as_secs());
        let (mut client, gate, _) = connection();
        client.write_all(REQUEST).await.unwrap();
        tokio::time::sleep(10 * QUIET).await;
        gate.notify_one();
        answered(&mut client).await;
        assert_eq!(closes(&mut client).await.0.as_secs(), QUIET.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_slowly_is_not_cut_by_the_beginning_of_the_next_request() {
        const LONG: usize = 100_000;
        for ends in [false, true] {
            let (mut client, server) = tokio::io::duplex(4096);
            let ending = CancellationToken::new();
            let router = Router::new().route("/", post(async || "x".repeat(LONG)));
            tokio::spawn(answer(server, router, Arc::default(), ending.clone()));
            client.write_all(REQUEST).await.unwrap();
            let mut first = [0; 100];
            client.read_exact(&mut first).await.unwrap();
            client.write_all(&REQUEST[..20]).await.unwrap();
            tokio::time::sleep(2 * HEAD).await;
            if ends {
                ending.cancel();
                tokio::time::sleep(HEAD).await;
            }
            assert!(closes(&mut client).await.1.len() > LONG - first.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_only_those_are_waited_for_who_have_asked() {
        let (quiet, half, asked, used) = (connection(), connection(), connection(), connection());
        let sent: [(_, &[u8]); 3] = [(half, &REQUEST[..20]), (asked, REQUEST), (used, REQUEST)];
        let mut clients = vec![quiet];
        for (mut connection, bytes) in sent {
            connection.0.write_all(bytes).await.unwrap();
            clients.push(connection);
        }
        let used = &mut clients[3];
        used.1.notify_one();
        answered(&mut used.0).await;
        clients.iter().for_each(|(_, _, ending)| ending.cancel());
        for which in [0, 1, 3] {
            let (took, said) = closes(&mut clients[which].0).await;
            assert_eq!((took, said.as_str()), (Duration::ZERO, ""), "{which}");
        }
        tokio::time::sleep(HEAD).await;
        clients[2].1.notify_one();
        assert!(closes(&mut clients[2].0).await.1.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn there_are_no_more_connections_than_there_may_be_and_quiet_ones_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, ending) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (gate, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (opens, is_asked) = (gate.clone(), asked.clone());
        let handler = async move || {
            is_asked.notify_one();
            opens.notified().await;
        };
        let router = Router::new().route("/", post(handler));
        let serving = tokio::spawn({
            let ending = ending.clone();
            async move { serve(listener, router, 2, &ending).await }
        });
        let connect = || tokio::net::TcpStream::connect(address);
        let (mut quiet, mut busy) = (connect().await.unwrap(), connect().await.unwrap());
        busy.write_all(REQUEST).await.unwrap();
        asked.notified().await;
        let (mut next, mut said) = (connect().await.unwrap(), [0; 512]);
        assert_eq!(quiet.read(&mut said).await.unwrap(), 0, "it makes room");
        next.write_all(REQUEST).await.unwrap();
        asked.notified().await;
        let mut last = connect().await.unwrap();
        last.write_all(REQUEST).await.unwrap();
        gate.notify_one();
        assert!(busy.read(&mut said).await.unwrap() > 0, "who has asked is answered");
        // It makes room then.
        asked.notified().await;
        for client in [&mut next, &mut last] {
            gate.notify_one();
            assert!(client.read(&mut said).await.unwrap() > 0);
        }
        ending.cancel();
        serving.await.unwrap();
        assert!(most(usize::MAX, 1) >= 1 && most(1, 1) <= SPARE + 2);
        assert_eq!(
            [(5, 100), (100, 100), (5, 1)].map(|(streams, most)| most_streams(streams, most)),
            [5, 75, 1]
        );
    }
}
