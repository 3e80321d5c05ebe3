//! What is measured: servers that speak HTTP themselves, and the gateway in front of them.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::json;
use tempfile::TempDir;

use crate::client::{Era, Tool};
use crate::cores::Placement;
use crate::family::Family;
use crate::table::Table;

/// The binary under test.
const MEANWHILE: &str = env!("CARGO_BIN_EXE_meanwhile");
/// The server of the conformance tests, written with the official SDK: it speaks both eras over both transports.
const RMCP: &str = "conformance-upstream";
/// The official demonstration server, if the packages of the peer tests are installed.
const EVERYTHING: &str =
    "../../tests/peers/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
/// Where the store is; each process gets another one, by which it is known.
const STATE_DIR: &str = "MEANWHILE_STATE_DIR";
/// Behind the gateway every server has this name.
pub(crate) const PATH: &str = "/mcp/server";

/// A server that can be asked over its own HTTP, or through the gateway.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) eras: &'static [Era],
    /// A tool that answers at once.
    pub(crate) tool: Tool,
    program: PathBuf,
    /// What makes it speak stdio, and HTTP. It is told its port by a variable, or says it.
    stdio: Vec<String>,
    http: Vec<String>,
}

/// A process that listens. It, and all that it has started, is ended when it is dropped.
pub(crate) struct Running {
    child: Child,
    family: Family,
    pub(crate) address: String,
}

/// What one run has at hand.
pub(crate) struct Bench {
    servers: Vec<Server>,
    scratch: TempDir,
    states: Cell<u32>,
}

impl Bench {
    pub(crate) fn new() -> anyhow::Result<Bench> {
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let servers = [rmcp(), everything()].into_iter().flatten().collect();
        Ok(Bench { servers, scratch, states: Cell::new(0) })
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The server whose listeners are counted.
    pub(crate) fn rmcp(&self) -> Option<&Server> {
        self.servers.iter().find(|server| server.eras.contains(&Era::Modern))
    }

    /// Says which rows are left out, and why.
    pub(crate) fn note_what_is_missing(&self, table: &mut Table) {
        if rmcp().is_none() {
            let build = "cargo build --release --examples -p meanwhile-cli";
            table.note(format!(
                "no rows of the rmcp server, and none of listeners: {RMCP} is not built; {build}"
            ));
        }
        if everything().is_none() {
            table.note("no rows of server-everything: it is not installed; tests/peers/install".to_owned());
        }
        if !Placement::all().contains(&Placement::OneCore) {
            table.note("no rows on one core: that needs Linux and taskset (util-linux)".to_owned());
        }
    }

    /// A server that speaks HTTP itself.
    pub(crate) fn bare(&self, server: &Server) -> anyhow::Result<Running> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(&server.program);
        command.args(&server.http).env("PORT", port.to_string());
        if server.eras.contains(&Era::Modern) {
            command.args(["--port", &port.to_string()]);
        }
        self.start(command, |_| Some(format!("127.0.0.1:{port}")))
    }

    /// The gateway in front of a server.
    pub(crate) fn served(&self, server: &Server) -> anyhow::Result<Running> {
        let config = self.scratch.path().join("mcp.json");
        let entry = json!({"command": server.program, "args": server.stdio});
        std::fs::write(&config, json!({"mcpServers": {"server": entry}}).to_string())?;
        let mut command = Command::new(MEANWHILE);
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        self.start(command, |line| Some(line.split_once("http://")?.1.trim().to_owned()))
    }

    /// Starts a process without settings of whoever runs this, and waits until it says that it listens.
    fn start(
        &self,
        mut command: Command,
        address: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Running> {
        for setting in ["MODE", "INLINE_BUDGET", "MAX_RUNNING", "TIMEOUT", "TTL", "WAIT_MAX", "LINGER", "LOG"]
        {
            command.env_remove(format!("MEANWHILE_{setting}"));
        }
        let state = self.scratch.path().join(format!("state-{}", self.states.replace(self.states.get() + 1)));
        command.env(STATE_DIR, &state).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr is piped")?).lines();
        let family = Family::new(STATE_DIR, &state);
        let mut running = Running { child, family, address: String::new() };
        let mut said = String::new();
        for line in lines.by_ref() {
            let line = line?;
            if let Some(address) = line.contains("listening on").then(|| address(&line)).flatten() {
                running.address = address;
                // What it says later must not fill the pipe.
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                return Ok(running);
            }
            said += &line;
        }
        bail!("{command:?} has ended before it listened: {said}")
    }
}

impl Running {
    /// The memory that it holds by itself, without its children, in KiB. Linux tells it.
    pub(crate) fn resident(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.family.end();
    }
}

fn rmcp() -> Option<Server> {
    let folder = Path::new(MEANWHILE).parent()?.join("examples");
    let program = folder.join(RMCP).with_extension(std::env::consts::EXE_EXTENSION);
    let args = |transport: &str| vec!["--transport".to_owned(), transport.to_owned()];
    program.exists().then(|| Server {
        name: "rmcp",
        eras: &[Era::Legacy, Era::Modern],
        tool: Tool { name: "test_simple_text", arguments: "{}" },
        program,
        stdio: args("stdio"),
        http: args("http"),
    })
}

fn everything() -> Option<Server> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(EVERYTHING).canonicalize().ok()?;
    let args = |transport: &str| vec![program.to_string_lossy().into_owned(), transport.to_owned()];
    Some(Server {
        name: "server-everything",
        eras: &[Era::Legacy],
        tool: Tool { name: "echo", arguments: "{\"message\":\"hello\"}" },
        stdio: args("stdio"),
        http: args("streamableHttp"),
        program: PathBuf::from("node"),
    })
}
