//! When the server is there: started at need, started again, with growing pauses, when it has died, at rest while nobody asks it
//! anything, and ended for good.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Common, Connection};
use super::process::Program;
use super::{Target, Upstream, UpstreamError, http};

/// The first pause before a dead server is started again; it doubles with each start that fails.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A server that lived this long had started well.
const LIVED_WELL: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    started: Option<Instant>,
}

impl Upstream {
    /// Ends the server until somebody asks it something, unless it is to tell of a resource. `may_rest` is asked again when
    /// whoever comes has to wait.
    pub async fn rest(&self, may_rest: impl Fn() -> bool + Send) {
        let may_rest = || self.is_initialized() && !self.memory.is_subscribed() && may_rest();
        if self.running().is_none() || !may_rest() {
            return;
        }
        let mut backoff = self.starting.lock().await;
        let Some(connection) = self.current().take() else { return };
        if !may_rest() {
            *self.current() = Some(connection);
            return;
        }
        *backoff = Backoff::default();
        tracing::info!(
            server = self.launch.name,
            "nobody asks the server anything; it rests until somebody does"
        );
        connection.stop().await;
    }

    /// The running server, or a new process of it, which then has been told all that the old one knew.
    ///
    /// # Errors
    /// [`UpstreamError`], if it cannot be brought up. The next call tries again, unless it [never came up](Self::never_came_up).
    pub async fn connect(self: &Arc<Self>) -> Result<Arc<Connection>, UpstreamError> {
        if let Some(connection) = self.running() {
            return Ok(connection);
        }
        // In a task of its own: whoever gives up waiting must not leave a process behind that nobody knows of.
        let upstream = self.clone();
        let brought_up = tokio::spawn(async move { upstream.bring_up().await });
        brought_up.await.unwrap_or_else(|_| Err(UpstreamError::Ending))
    }

    async fn bring_up(&self) -> Result<Arc<Connection>, UpstreamError> {
        let mut backoff = self.starting.lock().await;
        if let Some(connection) = self.running() {
            return Ok(connection);
        }
        if let Some(error) = self.never_came_up() {
            return Err(error);
        }
        self.pause(&mut backoff).await;
        if self.stopped.is_cancelled() {
            return Err(UpstreamError::Ending);
        }
        backoff.started = Some(Instant::now());
        let started = self.start().await;
        match &started {
            Ok(connection) => *self.current() = Some(connection.clone()),
            Err(UpstreamError::Ending) => {}
            // A server elsewhere may be there later.
            Err(error) if self.spoke.load(Ordering::Relaxed) || self.launch.is_remote() => {
                backoff.failures += 1;
                tracing::error!("{error}");
            }
            Err(error) => self.fail(error.clone()),
        }
        started
    }

    /// Why the server never came up, if it did not: it could not be started, or it ended before its first answer. That is
    /// for its user to mend, and it is not tried again.
    #[must_use]
    pub fn never_came_up(&self) -> Option<UpstreamError> {
        let may_come = self.spoke.load(Ordering::Relaxed) || self.launch.is_remote();
        if !may_come && !self.stopped.is_cancelled() {
            let ended = self.current().as_ref().and_then(|connection| connection.end().map(str::to_owned));
            if let Some(reason) = ended {
                self.fail(UpstreamError::Lost { reason });
            }
        }
        self.failed.get().cloned()
    }

    fn fail(&self, error: UpstreamError) {
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!("{error}");
        }
    }

    /// The running server, if there is one.
    #[must_use]
    pub fn running(&self) -> Option<Arc<Connection>> {
        self.current().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// Ends the server for good: its stdin is closed, then it is asked, then made to go.
    pub async fn stop(&self) {
        self.stopped.cancel();
        // One that is just being started is ended where it is started.
        let _started = self.starting.lock().await;
        let connection = self.current().take();
        if let Some(connection) = connection {
            connection.stop().await;
        }
    }

    async fn pause(&self, backoff: &mut Backoff) {
        let Some(started) = backoff.started else { return };
        if self.current().take().is_some() {
            backoff.failures = if started.elapsed() > LIVED_WELL { 0 } else { backoff.failures + 1 };
        }
        if backoff.failures == 0 {
            return;
        }
        let pause = BACKOFF_FIRST.saturating_mul(1 << (backoff.failures - 1).min(16)).min(BACKOFF_MAX);
        tracing::info!(server = self.launch.name, ?pause, "the MCP server is started again after a pause");
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(started.elapsed())) => {}
            () = self.stopped.cancelled() => {}
        }
    }

    pub(super) fn reach(&self) -> Result<Arc<Connection>, UpstreamError> {
        let common =
            Common { memory: self.memory.clone(), parties: self.parties.clone(), spoke: self.spoke.clone() };
        match &self.launch.target {
            Target::Process { program, args, env, cwd } => {
                let program = Program { name: &self.launch.name, program, args, env, cwd: cwd.as_ref() };
                program.connect(self.max_message, common)
            }
            Target::Remote { url, headers, legacy_sse, login } => {
                let (name, login) = (&self.launch.name, login.as_ref());
                http::connect(name, url, headers, login, *legacy_sse, self.max_message, common)
            }
        }
    }

    pub(super) fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
