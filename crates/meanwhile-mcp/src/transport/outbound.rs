//! The way out: a bounded queue of lines, written together when several wait.

use std::sync::Arc;

use meanwhile_core::Signal;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How many lines may wait before whoever sends the next one waits too.
const QUEUE: usize = 1024;
/// How many bytes are gathered into one write.
const GATHER: usize = 64 * 1024;

/// Sends lines to one stream, in order. Cheap to clone; when the last clone is gone, or one is told to finish, the stream is
/// closed behind what was sent until then.
#[derive(Debug, Clone)]
pub struct Outbound {
    lines: mpsc::Sender<String>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    finish: Signal,
    closed: Signal,
}

/// The other end of an [`Outbound`]: what was sent, in order.
#[derive(Debug)]
pub struct Outgoing {
    queue: mpsc::Receiver<String>,
    state: Arc<State>,
}

impl Outgoing {
    /// The next line; `None` once all senders are gone, or were told to finish, and everything sent until then was taken.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                biased;
                () = self.state.finish.raised(), if !self.queue.is_closed() => self.queue.close(),
                line = self.queue.recv() => return line,
            }
        }
    }

    /// The next line, if it is there already.
    pub fn ready(&mut self) -> Option<String> {
        self.queue.try_recv().ok()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.state.closed.raise();
    }
}

impl Outbound {
    /// A way out whose other end the caller reads.
    #[must_use]
    pub fn channel() -> (Outbound, Outgoing) {
        let (lines, queue) = mpsc::channel(QUEUE);
        let state = Arc::<State>::default();
        (Outbound { lines, state: state.clone() }, Outgoing { queue, state })
    }

    /// Starts writing to `stream`.
    pub fn start(stream: impl AsyncWrite + Send + Unpin + 'static) -> Outbound {
        let (outbound, outgoing) = Outbound::channel();
        tokio::spawn(async move {
            if let Err(error) = write_all(stream, outgoing).await {
                tracing::debug!(%error, "the reader of our messages is gone");
            }
        });
        outbound
    }

    /// Sends one line, which carries no end of its own. Returns whether the stream still took it into its queue.
    pub async fn send(&self, line: String) -> bool {
        self.lines.send(line).await.is_ok()
    }

    /// Sends one line if there is room for it, and drops it otherwise: for what a later line replaces.
    pub fn send_soon(&self, line: String) {
        let _ = self.lines.try_send(line);
    }

    /// Takes nothing more, and resolves when all that was sent has been written, or nobody reads it any more.
    pub async fn finish(&self) {
        self.state.finish.raise();
        self.closed().await;
    }

    /// Resolves when the stream can take nothing more.
    pub async fn closed(&self) {
        self.state.closed.raised().await;
    }
}

async fn write_all(mut stream: impl AsyncWrite + Unpin, mut outgoing: Outgoing) -> std::io::Result<()> {
    let mut text = Vec::new();
    while let Some(line) = outgoing.next().await {
        append(&mut text, &line);
        while text.len() < GATHER {
            let Some(line) = outgoing.ready() else { break };
            append(&mut text, &line);
        }
        stream.write_all(&text).await?;
        stream.flush().await?;
        text.clear();
        text.shrink_to(GATHER);
    }
    stream.shutdown().await
}

fn append(text: &mut Vec<u8>, line: &str) {
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
}
