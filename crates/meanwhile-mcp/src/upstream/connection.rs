//! One process of a server while it lives: requests out, answers matched to them, everything else to the inbox.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use meanwhile_core::{Handle, Json, Progress, RunContext, Signal};
use serde::Deserialize;
use tokio::process::{Child, ChildStdout};
use tokio::sync::oneshot;

use super::{Inbox, UpstreamError, process};
use crate::message::{self, Answer, Fields, INTERNAL_ERROR, Id, Incoming, Message, to_json};
use crate::transport::{Line, LineReader, Outbound};

/// How long the last lines of a server that has ended are read.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Progress messages are kept up to this length, in characters. Whoever waits sees them whole.
const MESSAGE_CHARS: usize = 1000;
/// Marks the progress tokens that are ours.
const TOKEN_PREFIX: &str = "meanwhile-";
/// How many cancelled calls are remembered, to notice an answer that comes all the same.
const CANCELLED_MAX: usize = 1000;

/// What came of a request.
#[derive(Debug)]
pub enum Reply {
    /// The answer, and what else its envelope held.
    Answer(Answer, Fields),
    /// The process is gone; the text says how.
    Lost(String),
}

impl Reply {
    /// The answer, where nothing else of it counts.
    ///
    /// # Errors
    /// If the server was lost before it answered.
    pub fn answer(self) -> Result<Answer, UpstreamError> {
        match self {
            Reply::Answer(answer, _) => Ok(answer),
            Reply::Lost(reason) => Err(UpstreamError::Lost { reason }),
        }
    }
}

enum Waiter {
    Waiting {
        reply: oneshot::Sender<(Answer, Fields)>,
        progress: Option<RunContext>,
        stopping: Arc<Stopping>,
    },
    Cancelled(Handle),
}

/// What is known of a request that is to stop.
#[derive(Debug, Default)]
struct Stopping {
    is_told: AtomicBool,
    went_on: AtomicBool,
}

/// A request that has been sent.
#[derive(Debug)]
pub struct Waiting {
    connection: Arc<Connection>,
    id: u64,
    reply: oneshot::Receiver<(Answer, Fields)>,
    stopping: Arc<Stopping>,
}

/// One process of a server.
pub struct Connection {
    out: Mutex<Option<Outbound>>,
    waiters: Mutex<HashMap<u64, Waiter>>,
    next_id: AtomicU64,
    stop: Signal,
    closed: Signal,
    /// How the process ended.
    end: OnceLock<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("end", &self.end).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn start(
        mut child: Child,
        name: &str,
        max_message: usize,
        inbox: Option<Weak<dyn Inbox>>,
        spoke: Arc<AtomicBool>,
    ) -> Arc<Connection> {
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let connection = Arc::new(Connection {
            out: Mutex::new(Some(Outbound::start(stdin))),
            waiters: Mutex::default(),
            next_id: AtomicU64::new(1),
            stop: Signal::default(),
            closed: Signal::default(),
            end: OnceLock::new(),
        });
        let reader =
            Reader { connection: connection.clone(), name: name.to_owned(), max_message, inbox, spoke };
        tokio::spawn(reader.run(child, stdout));
        connection
    }

    /// Whether the process is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_raised()
    }

    /// How the process ended, once it has.
    pub(super) fn end(&self) -> Option<&str> {
        self.end.get().map(String::as_str)
    }

    /// Sends a request.
    pub async fn request(self: &Arc<Self>, method: &str, params: Option<Json>) -> Waiting {
        self.send_request(method, params, Fields::default(), None, None).await
    }

    /// Sends a request as it came, but for its id.
    pub async fn forward(self: &Arc<Self>, method: &str, params: Option<Json>, extra: Fields) -> Waiting {
        self.send_request(method, params, extra, None, None).await
    }

    /// Sends a `tools/call` whose progress goes to `context`.
    pub async fn call(self: &Arc<Self>, params: Fields, context: RunContext) -> Waiting {
        self.send_request("tools/call", None, Fields::default(), Some(params), Some(context)).await
    }

    async fn send_request(
        self: &Arc<Self>,
        method: &str,
        mut params: Option<Json>,
        extra: Fields,
        call: Option<Fields>,
        progress: Option<RunContext>,
    ) -> Waiting {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(call) = call {
            params = Some(with_token(call, id));
        }
        let (reply, answer) = oneshot::channel();
        let stopping = Arc::<Stopping>::default();
        self.waiters().insert(id, Waiter::Waiting { reply, progress, stopping: stopping.clone() });
        let message = Message::Request { id: Id::from(id), method: method.to_owned(), params, extra };
        // A line that cannot be sent is lost with the process, and the reader tells so.
        self.send(message.to_line()).await;
        if self.is_closed() {
            self.waiters().remove(&id);
        }
        Waiting { connection: self.clone(), id, reply: answer, stopping }
    }

    /// Sends anything that wants no answer.
    pub async fn send(&self, line: String) {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(out) = out {
            out.send(line).await;
        }
    }

    /// The call that a request of the server belongs to: that with our id `about`, or, where the transport does not say which,
    /// the one that was sent last among those that still wait.
    #[must_use]
    pub fn context_of(&self, about: Option<u64>) -> Option<RunContext> {
        let waiters = self.waiters();
        let calls = waiters.iter().filter_map(|(id, waiter)| match waiter {
            Waiter::Waiting { progress: Some(context), .. } => Some((*id, context)),
            _ => None,
        });
        match about {
            Some(about) => calls.into_iter().find(|(id, _)| *id == about).map(|(_, context)| context.clone()),
            None => calls.max_by_key(|(id, _)| *id).map(|(_, context)| context.clone()),
        }
    }

    /// Answers a request of the server.
    pub async fn answer(&self, id: Id, answer: Answer, extra: Fields) {
        self.send(Message::Response { id, answer, extra }.to_line()).await;
    }

    /// Tells a new process what the old one knew. What it answers is nobody's concern.
    pub(super) async fn replay(self: &Arc<Self>, message: Message) {
        match message {
            Message::Request { method, params, .. } => drop(self.request(&method, params).await),
            message => self.send(message.to_line()).await,
        }
    }

    /// Closes the server's stdin and waits until the process is gone: by itself, or made to.
    pub(super) async fn stop(&self) {
        self.stop.raise();
        self.closed.raised().await;
    }

    fn waiters(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> Reply {
        Reply::Lost(self.end.get().cloned().unwrap_or_else(|| "the MCP server is gone".to_owned()))
    }
}

/// The parameters of a call with a progress token of ours, whether or not the caller gave one.
fn with_token(mut call: Fields, id: u64) -> Json {
    let mut meta: Fields = call.read("_meta").unwrap_or_default();
    meta.set("progressToken", to_json(&format!("{TOKEN_PREFIX}{id}")));
    call.set("_meta", meta.to_json());
    call.to_json()
}

impl Waiting {
    /// Our id of the request.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The connection it went to.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the answer, as long as it takes.
    pub async fn reply(mut self) -> Reply {
        self.next_reply().await
    }

    /// As [`Waiting::reply`], for who may give up in between. Not to be called again after it has returned.
    pub async fn next_reply(&mut self) -> Reply {
        match (&mut self.reply).await {
            Ok((answer, extra)) => Reply::Answer(answer, extra),
            Err(_) => self.connection.lost(),
        }
    }

    /// Tells the server that nobody wants the answer any more.
    pub async fn cancel(&self, reason: &str) {
        self.stopping.is_told.store(true, Ordering::Relaxed);
        let params = to_json(&serde_json::json!({"requestId": self.id, "reason": reason}));
        self.connection.send(Message::notification("notifications/cancelled", params).to_line()).await;
    }

    /// Whether the server has reported progress after it was told to stop.
    #[must_use]
    pub fn went_on(&self) -> bool {
        self.stopping.went_on.load(Ordering::Relaxed)
    }

    /// Gives the request up, but goes on listening for an answer that comes all the same.
    pub fn give_up(self, handle: Handle) {
        let mut waiters = self.connection.waiters();
        if waiters.len() < CANCELLED_MAX {
            waiters.insert(self.id, Waiter::Cancelled(handle));
        } else {
            waiters.remove(&self.id);
        }
    }
}

struct Reader {
    connection: Arc<Connection>,
    name: String,
    max_message: usize,
    inbox: Option<Weak<dyn Inbox>>,
    /// Whether any process of the server has answered anything.
    spoke: Arc<AtomicBool>,
}

impl Reader {
    async fn run(self, mut child: Child, stdout: ChildStdout) {
        let mut lines = LineReader::new(stdout, self.max_message);
        tokio::select! {
            () = self.lines(&mut lines) => {}
            () = self.connection.stop.raised() => {}
            // Its end may come before that of its stdout, which a process that it has started may hold.
            _ = child.wait() => drop(tokio::time::timeout(LAST_WORDS, self.lines(&mut lines)).await),
        }
        // Without its stdin a server ends by itself; one that does not is ended. What it still writes is read, for a full
        // pipe would hold it up.
        self.connection.out.lock().unwrap_or_else(PoisonError::into_inner).take();
        let status = tokio::select! {
            status = process::end(&mut child) => status,
            never = async { self.lines(&mut lines).await; std::future::pending().await } => never,
        };
        let end = match status {
            Ok(status) => format!("the MCP server `{}` ended ({status})", self.name),
            Err(error) => format!("the MCP server `{}` is gone ({error})", self.name),
        };
        tracing::info!("{end}");
        let _ = self.connection.end.set(end);
        self.connection.closed.raise();
        self.connection.waiters().clear();
    }

    async fn lines(&self, lines: &mut LineReader<ChildStdout>) {
        loop {
            match lines.next().await {
                Ok(Some(line)) => self.line(line).await,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(server = self.name, %error, "the MCP server's stdout cannot be read");
                    return;
                }
            }
        }
    }

    async fn line(&self, line: Line<'_>) {
        match line {
            Line::Text(text) => match message::parse(text) {
                Ok(Incoming::One(message)) => self.message(message).await,
                Ok(Incoming::Batch(parts)) => {
                    for part in parts {
                        match part {
                            Ok(message) => self.message(message).await,
                            Err(malformed) => self.ignore(&malformed.message),
                        }
                    }
                }
                Err(malformed) => self.ignore(&malformed.message),
            },
            Line::NotText => self.ignore("not UTF-8"),
            Line::TooLong { bytes, head, tail } => self.too_long(bytes, &head, &tail),
        }
    }

    fn ignore(&self, why: &str) {
        tracing::warn!(server = self.name, why, "a line of the MCP server is no message; it is ignored");
    }

    /// The answer is gone, but whoever waits for it is told; if it cannot be found out who that is, all who wait are.
    fn too_long(&self, bytes: usize, head: &str, tail: &str) {
        let max = self.max_message;
        let why = format!(
            "the MCP server `{}` sent a message of {bytes} bytes, more than the limit of {max}; raise it with --max-message",
            self.name
        );
        tracing::error!("{why}");
        let error = || (Answer::Error(message::error(INTERNAL_ERROR, &why)), Fields::default());
        let mut waiters = self.connection.waiters();
        let whose = message::id_at_ends(head, tail).filter(|id| waiters.contains_key(id));
        let told: Vec<u64> = whose.map_or_else(|| waiters.keys().copied().collect(), |id| vec![id]);
        for id in told {
            if let Some(Waiter::Waiting { reply, .. }) = waiters.remove(&id) {
                let _ = reply.send(error());
            }
        }
    }

    async fn message(&self, message: Message) {
        match message {
            Message::Response { id, answer, extra } if !id.is_unknown() => self.response(&id, answer, extra),
            Message::Notification { ref method, ref params, .. }
                if method == "notifications/progress" && self.progress(params.as_ref()) =>
            {
                // Whoever waits takes it before the next line is read, so that a burst does not outrun them.
                tokio::task::yield_now().await;
            }
            message => {
                if let Some(inbox) = self.inbox.as_ref().and_then(Weak::upgrade) {
                    inbox.receive(&self.connection, None, message).await;
                }
            }
        }
    }

    fn response(&self, id: &Id, answer: Answer, extra: Fields) {
        self.spoke.store(true, Ordering::Relaxed);
        let waiter = id.number().and_then(|id| self.connection.waiters().remove(&id));
        match waiter {
            Some(Waiter::Waiting { reply, .. }) => drop(reply.send((answer, extra))),
            Some(Waiter::Cancelled(handle)) => {
                if let Some(inbox) = self.inbox.as_ref().and_then(Weak::upgrade) {
                    inbox.late_answer(handle);
                }
            }
            None => tracing::warn!(server = self.name, %id, "an answer to no request of ours; it is ignored"),
        }
    }

    /// Brings progress under one of our tokens to whom it concerns. Returns whether the token was ours.
    fn progress(&self, params: Option<&Json>) -> bool {
        #[derive(Deserialize, Default)]
        struct Report {
            progress: Option<f64>,
            total: Option<f64>,
            message: Option<String>,
        }
        let Some(params) = params else { return false };
        let Ok(fields) = Fields::parse(params.get()) else { return false };
        let token: Option<String> = fields.read("progressToken");
        let Some(id) = token.and_then(|token| token.strip_prefix(TOKEN_PREFIX)?.parse().ok()) else {
            return false;
        };
        // What does not read is still for whoever waits, word for word.
        let report = serde_json::from_str::<Report>(params.get()).unwrap_or_default();
        if let Some(Waiter::Waiting { progress: Some(context), stopping, .. }) =
            self.connection.waiters().get(&id)
        {
            stopping.went_on.fetch_or(stopping.is_told.load(Ordering::Relaxed), Ordering::Relaxed);
            context.progress(Progress {
                progress: report.progress.unwrap_or_default(),
                total: report.total,
                message: report.message.map(|message| message.chars().take(MESSAGE_CHARS).collect()),
                verbatim: Some(params.get().into()),
            });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_our_token_and_keeps_everything_else() {
        let call = Fields::parse(r#"{"name":"x","_meta":{"a":1.0,"progressToken":7},"z":[1e400]}"#).unwrap();
        let expected = r#"{"name":"x","_meta":{"a":1.0,"progressToken":"meanwhile-3"},"z":[1e400]}"#;
        assert_eq!(with_token(call, 3).get(), expected);
    }
}
