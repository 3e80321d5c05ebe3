//! Where one run happens: its folder, the programs under test, and the end of everything that was started there.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::processes::Process;

/// The upstream's program.
pub(crate) const FIXTURE: &str = "fixture-upstream";
/// All sessions share one scope, so that each may ask for every job.
const SCOPE: &str = "torture";
/// Short, and told for all tools, so that it stays what it is whatever their history says.
const INLINE_BUDGET: &str = "*=inline-budget=40ms";
/// What a dead process held is settled after this.
const LEASE: &str = "300ms";
/// A process that writes beyond its limit is to be told, not killed: what it inherits so, it keeps.
const TOLD_OF_FULL_DISKS: &str = "trap '' XFSZ; exec \"$@\"";
/// The upstream's own log is not on the disk that is full.
const WITHOUT_LIMIT: &str = "ulimit -S -f unlimited; exec \"$@\"";
/// How often something is looked for that gives no sign of its own.
pub(crate) const GLANCE: Duration = Duration::from_millis(20);

/// A folder of this run's own. When it goes, so does every process that still lives there.
pub(crate) struct Place {
    dir: TempDir,
}

/// How one session is started.
pub(crate) struct Start {
    pub(crate) handle_mode: bool,
    pub(crate) linger: &'static str,
    pub(crate) stays: bool,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { dir: TempDir::with_prefix("meanwhile-torture-").expect("a temporary folder") }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What the upstreams have done so far.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("fixture.log")
    }

    /// `meanwhile wrap`, with all three streams piped.
    pub(crate) fn wrap(&self, start: &Start) -> Command {
        let mut command = self.command("sh", &["-c", TOLD_OF_FULL_DISKS, "sh", meanwhile(), "wrap"]);
        command.args(["--name", "torture", "--scope", SCOPE, "--tool", INLINE_BUDGET, "--max-running", "3"]);
        command.args(["--linger", start.linger]);
        if start.handle_mode {
            command.args(["--mode", "handle"]);
        }
        if !start.stays {
            command.arg("--no-linger");
        }
        command.args(["--", "sh", "-c", WITHOUT_LIMIT, "sh"]).arg(fixture()).stdin(Stdio::piped());
        command
    }

    /// `meanwhile jobs …`.
    pub(crate) fn jobs(&self, args: &[&str]) -> Command {
        let mut command = self.command(meanwhile(), &["jobs"]);
        command.args(args).stdin(Stdio::null());
        command
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("MEANWHILE_STATE_DIR", self.state_dir())
            .env("MEANWHILE_LEASE", LEASE)
            .env("FIXTURE_LOG", self.log_path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        Process::all(&self.state_dir())
    }

    /// Waits until no process is left, at most for so long, and returns those that are.
    pub(crate) async fn emptied(&self, patience: Duration) -> Vec<Process> {
        let deadline = Instant::now() + patience;
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Removes the folder, which nobody uses any more.
    pub(crate) fn remove(&self) -> bool {
        self.end_all();
        std::fs::remove_dir_all(self.dir.path()).is_ok() && !self.dir.path().exists()
    }

    fn end_all(&self) {
        for process in self.processes() {
            process.kill();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end_all();
    }
}

fn meanwhile() -> &'static str {
    env!("CARGO_BIN_EXE_meanwhile")
}

fn fixture() -> PathBuf {
    let folder = Path::new(meanwhile()).parent().expect("a binary is in a folder");
    let path = folder.join("examples").join(FIXTURE);
    assert!(path.exists(), "{} is missing: cargo build --examples -p meanwhile-cli", path.display());
    path
}
