//! The process of a server, spoken to over its stdin and stdout.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdout, Command};

use super::UpstreamError;
use super::connection::{Common, Connection, Wire};
use crate::message::{self, Incoming};
use crate::transport::{Line, LineReader, Outbound};

/// How long a server may take to end by itself once its stdin is closed, and again once it was asked to. Together less than
/// the 4 s after which clients kill us.
const STOP_GRACE: Duration = Duration::from_millis(1500);
/// A line of stderr is cut here, in bytes.
const STDERR_LINE_MAX: usize = 8 * 1024;

/// How long the last lines of a server that has ended are read.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a process of a server is started.
pub(super) struct Program<'a> {
    pub(super) name: &'a str,
    pub(super) program: &'a str,
    pub(super) args: &'a [String],
    pub(super) env: &'a [(String, String)],
    pub(super) cwd: Option<&'a PathBuf>,
}

impl Program<'_> {
    /// Starts the process, in a process group of its own, so that all it starts can be ended with it.
    fn spawn(&self) -> Result<Child, UpstreamError> {
        let mut command = Command::new(self.program);
        command.args(self.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.kill_on_drop(true);
        if let Some(folder) = self.cwd {
            command.current_dir(folder);
        }
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| UpstreamError::Start {
            command: self.program.to_owned(),
            reason: error.to_string(),
        })?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(mark_lines(self.name.to_owned(), stderr));
        }
        Ok(child)
    }

    /// Starts a process and speaks to it.
    pub(super) fn connect(
        &self,
        max_message: usize,
        common: Common,
    ) -> Result<Arc<Connection>, UpstreamError> {
        let mut child = self.spawn()?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let connection =
            Connection::new(self.name, Wire::Lines(Mutex::new(Some(Outbound::start(stdin)))), common);
        let reader = Reader { connection: connection.clone(), max_message };
        tokio::spawn(reader.run(child, stdout));
        Ok(connection)
    }
}

struct Reader {
    connection: Arc<Connection>,
    max_message: usize,
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
        self.connection.hang_up();
        let status = tokio::select! {
            status = end(&mut child) => status,
            never = async { self.lines(&mut lines).await; std::future::pending().await } => never,
        };
        let name = self.connection.server();
        self.connection.close(match status {
            Ok(status) => format!("the MCP server `{name}` ended ({status})"),
            Err(error) => format!("the MCP server `{name}` is gone ({error})"),
        });
    }

    async fn lines(&self, lines: &mut LineReader<ChildStdout>) {
        loop {
            match lines.next().await {
                Ok(Some(line)) => self.line(line).await,
                Ok(None) => return,
                Err(error) => {
                    let server = self.connection.server();
                    tracing::warn!(server, %error, "the MCP server's stdout cannot be read");
                    return;
                }
            }
        }
    }

    async fn line(&self, line: Line<'_>) {
        match line {
            Line::Text(text) => match message::parse(text) {
                Ok(Incoming::One(message)) => self.connection.take(None, message).await,
                Ok(Incoming::Batch(parts)) => {
                    for part in parts {
                        match part {
                            Ok(message) => self.connection.take(None, message).await,
                            Err(malformed) => self.ignore(&malformed.message),
                        }
                    }
                }
                Err(malformed) => self.ignore(&malformed.message),
            },
            Line::NotText => self.ignore("not UTF-8"),
            Line::TooLong { bytes, head, tail } => {
                self.connection.too_long(bytes, self.max_message, message::id_at_ends(&head, &tail));
            }
        }
    }

    fn ignore(&self, why: &str) {
        let server = self.connection.server();
        tracing::warn!(server, why, "a line of the MCP server is no message; it is ignored");
    }
}

/// Brings what the server writes to its stderr to ours, line by line, marked with its name.
async fn mark_lines(name: String, mut stderr: impl AsyncRead + Unpin) {
    let mut pending = Vec::new();
    loop {
        let ended = !matches!(stderr.read_buf(&mut pending).await, Ok(count) if count > 0);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            mark(&name, &line);
        }
        if ended || pending.len() > STDERR_LINE_MAX {
            mark(&name, &std::mem::take(&mut pending));
        }
        if ended {
            return;
        }
    }
}

fn mark(name: &str, line: &[u8]) {
    use std::io::Write;
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if !text.is_empty() {
        // Our stderr may be closed; then nobody wants to know.
        let _ = writeln!(std::io::stderr(), "[{name}] {text}");
    }
}

/// Waits for a process whose stdin is closed; one that stays is asked to go, then made to.
async fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Ok(status) = tokio::time::timeout(STOP_GRACE, child.wait()).await {
        return status;
    }
    signal_group(child.id(), Signal::Terminate);
    if let Ok(status) = tokio::time::timeout(STOP_GRACE, child.wait()).await {
        return status;
    }
    signal_group(child.id(), Signal::Kill);
    child.kill().await?;
    child.wait().await
}

#[derive(Clone, Copy)]
enum Signal {
    Terminate,
    Kill,
}

#[cfg(unix)]
fn signal_group(leader: Option<u32>, signal: Signal) {
    use rustix::process::{Pid, Signal as Unix, kill_process_group};
    let pid = leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let signal = match signal {
            Signal::Terminate => Unix::TERM,
            Signal::Kill => Unix::KILL,
        };
        let _ = kill_process_group(pid, signal);
    }
}

#[cfg(not(unix))]
fn signal_group(_leader: Option<u32>, _signal: Signal) {}
