//! What a test starts, and what ends with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};

/// Every wait of a test ends here, far beyond what a healthy one takes, and before anything is polled that is pushed.
const PATIENCE: Duration = Duration::from_secs(40);

/// Waits for what is to come.
pub(crate) async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, coming).await.unwrap_or_else(|_| panic!("{what} did not come in time"))
}

/// How the client reaches the gateway: `meanwhile serve` over HTTP, or `meanwhile wrap` over stdio.
#[derive(Clone, Copy)]
pub(crate) enum Seat {
    Served,
    Wrapped,
}

/// An MCP server, as the gateway is told of it.
pub(crate) enum Upstream {
    Command(PathBuf),
    Url(String),
}

/// What a client connects to.
pub(crate) enum Door {
    Url(String),
    Command(Box<Command>),
}

/// A folder of its own, and the processes that were started in it.
pub(crate) struct Stage {
    dir: TempDir,
    processes: Vec<Child>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage { dir: tempfile::tempdir().expect("a temporary folder"), processes: Vec::new() }
    }

    /// `tower-mcp`'s server as a process of the gateway's.
    pub(crate) fn tower(&self) -> Upstream {
        Upstream::Command(env!("CARGO_BIN_EXE_tower-upstream").into())
    }

    /// The same over HTTP.
    pub(crate) async fn tower_over_http(&mut self) -> Upstream {
        let mut server = Command::new(env!("CARGO_BIN_EXE_tower-upstream"));
        server.arg("--http");
        Upstream::Url(self.listening(server).await)
    }

    /// The gateway with this server behind it.
    pub(crate) async fn door(&mut self, seat: Seat, upstream: &Upstream) -> Door {
        let mut gateway = Command::new(meanwhile());
        gateway.env("MEANWHILE_STATE_DIR", self.dir.path().join("state"));
        match seat {
            Seat::Wrapped => {
                gateway.args(["wrap", "--no-linger"]);
                match upstream {
                    Upstream::Command(command) => gateway.arg("--").arg(command),
                    Upstream::Url(url) => gateway.args(["--url", url]),
                };
                Door::Command(Box::new(gateway))
            }
            Seat::Served => {
                let server = match upstream {
                    Upstream::Command(command) => json!({"command": command}),
                    Upstream::Url(url) => json!({"type": "http", "url": url}),
                };
                let config = self.dir.path().join("config.json");
                let servers = json!({"mcpServers": {"upstream": server}});
                std::fs::write(&config, servers.to_string()).expect("the folder is ours");
                gateway.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config);
                Door::Url(format!("{}/mcp/upstream", self.listening(gateway).await))
            }
        }
    }

    /// Starts a server, and waits until it says on stderr where it listens.
    async fn listening(&mut self, mut command: Command) -> String {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the server starts");
        let mut said = BufReader::new(child.stderr.take().expect("it was piped")).lines();
        self.processes.push(child);
        let url = soon("where the server listens", async {
            while let Ok(Some(line)) = said.next_line().await {
                if let Some((_, url)) = line.split_once("listening on ") {
                    return url.to_owned();
                }
            }
            panic!("the server ended before it listened")
        });
        let url = url.await;
        // What else it says is shown when a test fails, and never blocks it.
        tokio::spawn(async move {
            while let Ok(Some(line)) = said.next_line().await {
                eprintln!("{line}");
            }
        });
        url
    }

    /// Reins for one tool, and the arguments of the call that takes them.
    pub(crate) fn reins(&self) -> (Stable, Value) {
        let path = self.dir.path().join("reins");
        let arguments = json!({"reins": path});
        (Stable(UnixListener::bind(path).expect("a socket in our folder")), arguments)
    }
}

/// The binary under test: `MEANWHILE_BIN`, or what cargo built last.
fn meanwhile() -> PathBuf {
    if let Some(named) = std::env::var_os("MEANWHILE_BIN") {
        return named.into();
    }
    built("meanwhile", "cargo build")
}

/// The upstream of the end-to-end tests, which is written with another SDK.
pub(crate) fn fixture() -> Upstream {
    Upstream::Command(built("examples/fixture-upstream", "cargo build --examples"))
}

fn built(name: &str, mend: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let target = root.join(std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned()));
    let builds = ["debug", "release"].map(|profile| target.join(profile).join(name));
    let found = builds.into_iter().find(|build| build.exists());
    found
        .unwrap_or_else(|| panic!("no {name} below {}: run `{mend}`, or set MEANWHILE_BIN", target.display()))
}

/// Where a tool comes for its reins as it starts.
pub(crate) struct Stable(UnixListener);

impl Stable {
    pub(crate) async fn taken(&self) -> Reins {
        let (tool, _) = soon("the tool", self.0.accept()).await.expect("the tool connects");
        Reins::new(tool)
    }
}

/// The test's end of what it steers a tool with.
pub(crate) struct Reins {
    said: Lines<BufReader<OwnedReadHalf>>,
    orders: OwnedWriteHalf,
}

impl Reins {
    fn new(tool: UnixStream) -> Reins {
        let (said, orders) = tool.into_split();
        Reins { said: BufReader::new(said).lines(), orders }
    }

    pub(crate) async fn order(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("the tool listens");
    }

    /// What the tool says next.
    pub(crate) async fn said(&mut self) -> String {
        soon("a word of the tool", self.said.next_line()).await.expect("a line").expect("it has not ended")
    }
}
