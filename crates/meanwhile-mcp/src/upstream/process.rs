//! The process of a server.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::UpstreamError;

/// How long a server may take to end by itself once its stdin is closed, and again once it was asked to. Together less than
/// the 4 s after which clients kill us.
const STOP_GRACE: Duration = Duration::from_millis(1500);
/// A line of stderr is cut here, in bytes.
const STDERR_LINE_MAX: usize = 8 * 1024;

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The server's configured name, which marks its lines on our stderr.
    pub name: String,
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Launch {
    /// Starts the process, in a process group of its own, so that all it starts can be ended with it.
    pub(super) fn spawn(&self) -> Result<Child, UpstreamError> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| UpstreamError::Start {
            command: self.program.clone(),
            reason: error.to_string(),
        })?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(mark_lines(self.name.clone(), stderr));
        }
        Ok(child)
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
pub(super) async fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
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
