//! What is measured: the two bare servers, the gateway in front of them, and a folder for what they leave behind.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use tempfile::TempDir;

use crate::client::Tool;
use crate::cores::Placement;
use crate::family::Family;
use crate::server;
use crate::table::Table;

/// The binary under test.
const MEANWHILE: &str = env!("CARGO_BIN_EXE_meanwhile");
/// A server as they are written: the fixture of the end-to-end tests, by the official SDK.
const FIXTURE: &str = "fixture-upstream";

/// Where the store is; each command gets another one, by which its processes are known.
const STATE_DIR: &str = "MEANWHILE_STATE_DIR";

/// A tool of both servers that answers at once.
pub(crate) const ECHO: Tool = Tool { name: "echo", arguments: |n| format!("{{\"text\":\"call {n}\"}}") };

/// A server that can be run bare, or wrapped.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    program: PathBuf,
    args: &'static [&'static str],
}

/// A command, and how the processes that it becomes are known.
pub(crate) struct Launch {
    pub(crate) command: Command,
    pub(crate) family: Family,
}

/// What one run has at hand.
pub(crate) struct Bench {
    servers: Vec<Server>,
    scratch: TempDir,
    states: Cell<u32>,
}

impl Bench {
    pub(crate) fn new() -> anyhow::Result<Bench> {
        let program = std::env::current_exe().context("this program is nowhere")?;
        let mut servers = vec![Server { name: "std", program, args: &[server::ARGUMENT] }];
        let fixture = fixture();
        if fixture.exists() {
            servers.push(Server { name: "rmcp", program: fixture, args: &[] });
        }
        // Beside the build, since a temporary folder may be in memory, where a flush costs nothing.
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(Bench { servers, scratch, states: Cell::new(0) })
    }

    /// The servers there are: `std` first, then, if it has been built, `rmcp`.
    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The fastest server.
    pub(crate) fn std_server(&self) -> &Server {
        &self.servers[0]
    }

    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Says which rows are left out, and why.
    pub(crate) fn note_what_is_missing(&self, table: &mut Table) {
        if self.servers.len() == 1 {
            let build = "cargo build --release --examples -p meanwhile-cli";
            table.note(format!("no rows of the rmcp server: {FIXTURE} is not built; {build}"));
        }
        if !Placement::all().contains(&Placement::OneCore) {
            table.note("no rows on one core: that needs Linux and taskset (util-linux)".to_owned());
        }
    }

    /// A server with nothing before it.
    pub(crate) fn bare(&self, server: &Server) -> anyhow::Result<Launch> {
        let mut command = Command::new(&server.program);
        command.args(server.args);
        self.launch(command)
    }

    /// The gateway before a server, with an empty store of its own.
    pub(crate) fn wrapped(&self, server: &Server, options: &[&str]) -> anyhow::Result<Launch> {
        let mut command = Command::new(MEANWHILE);
        command.arg("wrap").args(options).arg("--").arg(&server.program).args(server.args);
        self.launch(command)
    }

    /// Without settings of whoever runs this, and with a stderr that costs the same everywhere.
    fn launch(&self, mut command: Command) -> anyhow::Result<Launch> {
        for setting in ["MODE", "INLINE_BUDGET", "MAX_RUNNING", "TIMEOUT", "TTL", "WAIT_MAX", "SCOPE", "LOG"]
        {
            command.env_remove(format!("MEANWHILE_{setting}"));
        }
        // Should this run be killed itself, jobs that never end must not keep a gateway for a day.
        command.env("MEANWHILE_LINGER", "0s");
        let state = self.folder().join(format!("state-{}", self.states.replace(self.states.get() + 1)));
        command.env(STATE_DIR, &state);
        let log = File::options().create(true).append(true).open(self.folder().join("stderr.log"))?;
        command.stderr(Stdio::from(log));
        Ok(Launch { command, family: Family::new(STATE_DIR, &state) })
    }
}

fn fixture() -> PathBuf {
    let folder = Path::new(MEANWHILE).parent().unwrap_or(Path::new("."));
    folder.join("examples").join(FIXTURE).with_extension(std::env::consts::EXE_EXTENSION)
}
