//! The way out: a bounded queue of lines, written together when several wait.

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many lines may wait before whoever sends the next one waits too.
const QUEUE: usize = 1024;
/// How many bytes are gathered into one write.
const GATHER: usize = 64 * 1024;

/// Sends lines to one stream, in order. Cheap to clone; when the last clone is gone the stream is closed.
#[derive(Debug, Clone)]
pub struct Outbound {
    lines: mpsc::Sender<String>,
    closed: Arc<CancellationToken>,
}

impl Outbound {
    /// Starts writing to `stream`.
    pub fn start(stream: impl AsyncWrite + Send + Unpin + 'static) -> Outbound {
        let (lines, queue) = mpsc::channel(QUEUE);
        let closed = Arc::new(CancellationToken::new());
        let gone = closed.clone();
        tokio::spawn(async move {
            if let Err(error) = write_all(stream, queue).await {
                tracing::debug!(%error, "the reader of our messages is gone");
            }
            gone.cancel();
        });
        Outbound { lines, closed }
    }

    /// Sends one line, which carries no end of its own. Returns whether the stream still took it into its queue.
    pub async fn send(&self, line: String) -> bool {
        self.lines.send(line).await.is_ok()
    }

    /// Sends one line if there is room for it, and drops it otherwise: for what a later line replaces.
    pub fn send_soon(&self, line: String) {
        let _ = self.lines.try_send(line);
    }

    /// Resolves when the stream can take nothing more.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

async fn write_all(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<String>,
) -> std::io::Result<()> {
    let mut text = Vec::new();
    while let Some(line) = queue.recv().await {
        append(&mut text, &line);
        while text.len() < GATHER {
            let Ok(line) = queue.try_recv() else { break };
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
