//! The way out: a bounded queue of lines, written together when several wait.

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many lines may wait before whoever sends the next one waits too.
const QUEUE: usize = 1024;
/// How many bytes are gathered into one write.
const GATHER: usize = 64 * 1024;

/// Sends lines to one stream, in order. Cheap to clone; when the last clone is gone, or one is told to finish, the stream is
/// closed behind what was sent until then.
#[derive(Debug, Clone)]
pub struct Outbound {
    lines: mpsc::Sender<String>,
    finish: CancellationToken,
    closed: CancellationToken,
}

impl Outbound {
    /// Starts writing to `stream`.
    pub fn start(stream: impl AsyncWrite + Send + Unpin + 'static) -> Outbound {
        let (lines, queue) = mpsc::channel(QUEUE);
        let outbound = Outbound { lines, finish: CancellationToken::new(), closed: CancellationToken::new() };
        let (finish, closed) = (outbound.finish.clone(), outbound.closed.clone());
        tokio::spawn(async move {
            if let Err(error) = write_all(stream, queue, finish).await {
                tracing::debug!(%error, "the reader of our messages is gone");
            }
            closed.cancel();
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
        self.finish.cancel();
        self.closed().await;
    }

    /// Resolves when the stream can take nothing more.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

async fn write_all(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<String>,
    finish: CancellationToken,
) -> std::io::Result<()> {
    let mut text = Vec::new();
    loop {
        let line = tokio::select! {
            biased;
            () = finish.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            line = queue.recv() => line,
        };
        let Some(line) = line else { break };
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
