//! When the server is there: started at need, started again, with growing pauses, when it has died, at rest while nobody asks it
//! anything, and ended for good.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Common, Connection};
use super::process::Program;
use super::record::pause_after;
use super::{Target, Upstream, UpstreamError, http};

/// A server that lived this long had started well.
const LIVED_WELL: Duration = Duration::from_secs(10);

/// How a server that comes up lives. Whether it comes up at all is a matter of all sessions (`record`).
#[derive(Debug, Default)]
pub(super) struct Life {
    /// How often on end it has died soon.
    deaths: u32,
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
        let mut life = self.starting.lock().await;
        let Some(connection) = self.current().take() else { return };
        if !may_rest() {
            *self.current() = Some(connection);
            return;
        }
        *life = Life::default();
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
        let mut life = self.starting.lock().await;
        if let Some(connection) = self.running() {
            return Ok(connection);
        }
        if let Some(error) = self.never_came_up() {
            return Err(error);
        }
        if self.spoke.load(Ordering::Relaxed) {
            self.pause(&mut life).await;
        } else if let Err(error) = self.launch.record.take_turn() {
            return Err(self.held_off(error));
        }
        if self.stopped.is_cancelled() {
            return Err(UpstreamError::Ending);
        }
        let began = Instant::now();
        life.started = Some(began);
        self.began.get_or_init(|| began);
        let started = self.start().await;
        match &started {
            Ok(connection) => *self.current() = Some(connection.clone()),
            Err(UpstreamError::Ending) => {}
            // A server elsewhere may be there later.
            Err(error) if self.spoke.load(Ordering::Relaxed) || self.launch.is_remote() => {
                self.launch.record.failed(began, error.clone());
                tracing::error!(server = self.launch.name, "{error}");
            }
            Err(error) => self.fail(error.clone()),
        }
        started
    }

    /// Why the server never came up, if it did not: it could not be started, or it ended before its first answer, or instead of
    /// saying who it is. That is for its user to mend, and it is not tried again.
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

    /// It has gone instead of saying who it is: so far it has not come up, whatever it has said before. One elsewhere may later.
    pub(super) fn went_unintroduced(&self, error: &UpstreamError) {
        *self.verdict() = self.launch.verdict();
        if !self.launch.is_remote() && !self.stopped.is_cancelled() {
            self.fail(error.clone());
        }
    }

    fn fail(&self, error: UpstreamError) {
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!(server = self.launch.name, "{error}");
            let began = self.began.get().copied().unwrap_or_else(Instant::now);
            self.launch.record.failed(began, error);
        }
    }

    /// It has just failed for somebody else. A server elsewhere may be asked again here.
    fn held_off(&self, error: UpstreamError) -> UpstreamError {
        tracing::info!(server = self.launch.name, %error, "the MCP server is not started");
        if !self.launch.is_remote() {
            let _ = self.failed.set(error.clone());
        }
        error
    }

    /// Whether it never came up, and another may be tried in its place.
    #[must_use]
    pub fn may_be_replaced(&self) -> bool {
        self.never_came_up().is_some() && self.launch.record.held_off().is_none()
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

    /// Leaves a server alone that has just died, or could not be started.
    async fn pause(&self, life: &mut Life) {
        if self.current().take().is_some() {
            let lived_well = life.started.is_some_and(|started| started.elapsed() > LIVED_WELL);
            life.deaths = if lived_well { 0 } else { life.deaths + 1 };
        }
        let after_death = life.started.map(|started| started + pause_after(life.deaths));
        let Some(until) = after_death.max(self.launch.record.next_start()) else { return };
        let pause = until.saturating_duration_since(Instant::now());
        if pause.is_zero() {
            return;
        }
        tracing::info!(server = self.launch.name, ?pause, "the MCP server is started again after a pause");
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
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
