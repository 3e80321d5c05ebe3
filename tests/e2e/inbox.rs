//! What a child process has said so far, sorted by kind, and how a test waits for more of it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

/// No wait of a test is longer than this; whatever takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that arrived and that no test has taken yet.
#[derive(Default)]
pub(crate) struct Arrived {
    pub(crate) responses: VecDeque<Message>,
    pub(crate) notifications: VecDeque<Message>,
    pub(crate) requests: VecDeque<Message>,
    /// Lines on stdout that are not UTF-8, not JSON, or not a JSON-RPC message.
    pub(crate) malformed: Vec<String>,
    pub(crate) stderr: Vec<String>,
    stdout_ended: bool,
    stderr_ended: bool,
}

/// A message as it was written, and as it reads.
pub(crate) struct Message {
    pub(crate) raw: String,
    pub(crate) value: Value,
}

#[derive(Default)]
pub(crate) struct Inbox {
    arrived: Mutex<Arrived>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Inbox {
    /// Reads both streams to their ends, on threads of their own.
    pub(crate) fn collect(
        stdout: impl Read + Send + 'static,
        stderr: impl Read + Send + 'static,
    ) -> Arc<Self> {
        let inbox = Arc::new(Self::default());
        let (out, err) = (Arc::clone(&inbox), Arc::clone(&inbox));
        thread::spawn(move || out.read(stdout, Stream::Stdout));
        thread::spawn(move || err.read(stderr, Stream::Stderr));
        inbox
    }

    fn read(&self, from: impl Read, stream: Stream) {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let mut arrived = self.lock();
            match (stream, String::from_utf8(line)) {
                (Stream::Stdout, Ok(line)) => arrived.sort(&line),
                (Stream::Stdout, Err(error)) => arrived.malformed.push(lossy(error.as_bytes())),
                (Stream::Stderr, Ok(line)) => arrived.stderr.push(line),
                (Stream::Stderr, Err(error)) => arrived.stderr.push(lossy(error.as_bytes())),
            }
            self.changed.notify_all();
        }
        let mut arrived = self.lock();
        match stream {
            Stream::Stdout => arrived.stdout_ended = true,
            Stream::Stderr => arrived.stderr_ended = true,
        }
        self.changed.notify_all();
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Arrived> {
        // A test that panicked elsewhere leaves the data as good as it was.
        self.arrived.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until `take` finds something on that stream.
    ///
    /// Panics when the stream ends before, or after [`PATIENCE`], and shows the child's stderr.
    pub(crate) fn wait<T>(
        &self,
        stream: Stream,
        what: &str,
        mut take: impl FnMut(&mut Arrived) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut arrived = self.lock();
        loop {
            if let Some(taken) = take(&mut arrived) {
                return taken;
            }
            assert!(!arrived.ended(stream), "the process ended before {what}\n{}", arrived.report());
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} within {PATIENCE:?}\n{}", arrived.report());
            arrived =
                self.changed.wait_timeout(arrived, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

impl Arrived {
    fn sort(&mut self, line: &str) {
        // A batch is the same as its messages one after the other.
        if let Ok(batch) = serde_json::from_str::<Vec<Box<RawValue>>>(line) {
            batch.iter().for_each(|raw| self.sort(raw.get()));
            return;
        }
        let value = serde_json::from_str::<Value>(line).unwrap_or_default();
        if value["jsonrpc"] != "2.0" {
            self.malformed.push(line.to_owned());
            return;
        }
        let kind = match (value.get("method"), value.get("id")) {
            (Some(_), Some(_)) => &mut self.requests,
            (Some(_), None) => &mut self.notifications,
            (None, _) => &mut self.responses,
        };
        kind.push_back(Message { raw: line.to_owned(), value });
    }

    fn ended(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout_ended,
            Stream::Stderr => self.stderr_ended,
        }
    }

    /// What a failed test has to show.
    pub(crate) fn report(&self) -> String {
        let methods: Vec<&Value> =
            self.notifications.iter().chain(&self.requests).map(|message| &message.value["method"]).collect();
        let ids: Vec<&Value> = self.responses.iter().map(|message| &message.value["id"]).collect();
        format!(
            "untaken responses: {ids:?}\nuntaken others: {methods:?}\nmalformed: {:?}\nstderr:\n{}",
            self.malformed,
            self.stderr.join("\n")
        )
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Takes the first message that fits out of the queue.
pub(crate) fn take_first(queue: &mut VecDeque<Message>, fits: impl Fn(&Value) -> bool) -> Option<Message> {
    let at = queue.iter().position(|message| fits(&message.value))?;
    queue.remove(at)
}
