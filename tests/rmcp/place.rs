//! Where a test happens: a folder of its own, and the processes that end with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub(crate) struct Place {
    home: TempDir,
    servers: Vec<Child>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { home: TempDir::new().expect("a temporary folder"), servers: vec![] }
    }

    /// The fixture as a process of the client's.
    pub(crate) fn stdio(&self, options: &[&str]) -> TokioChildProcess {
        let mut command = Command::new(fixture());
        command.args(options);
        TokioChildProcess::new(command).expect("the fixture starts")
    }

    /// The fixture behind `meanwhile wrap`.
    pub(crate) fn wrapped(&self, tasks: &str) -> TokioChildProcess {
        let mut command = self.meanwhile();
        command.args(["wrap", "--no-linger", "--"]).arg(fixture()).args(["--tasks", tasks]);
        TokioChildProcess::new(command).expect("the gateway starts")
    }

    /// The fixture over HTTP.
    pub(crate) async fn http(&mut self) -> StreamableHttpClientTransport<reqwest::Client> {
        let mut command = Command::new(fixture());
        command.args(["--transport", "http", "--tasks", "extension"]);
        Self::at(&self.listening(command).await)
    }

    /// The endpoint of `meanwhile serve` with the fixture behind it.
    pub(crate) async fn served(&mut self, tasks: &str) -> String {
        let config = self.home.path().join("config.json");
        let upstream = json!({ "command": fixture(), "args": ["--tasks", tasks] });
        let servers = json!({ "mcpServers": { "fixture": upstream } });
        std::fs::write(&config, servers.to_string()).expect("the configuration is written");
        let mut command = self.meanwhile();
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config);
        let url = self.listening(command).await;
        format!("{}/mcp/fixture", url.trim_end_matches('/'))
    }

    pub(crate) fn at(url: &str) -> StreamableHttpClientTransport<reqwest::Client> {
        // Whoever comes second changes nothing: it is the same for all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        StreamableHttpClientTransport::from_uri(url)
    }

    fn meanwhile(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meanwhile"));
        command.env("MEANWHILE_STATE_DIR", self.home.path().join("state"));
        command
    }

    /// Starts a server, and waits until it says on stderr where it listens.
    async fn listening(&mut self, mut command: Command) -> String {
        command.stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
        let mut server = command.spawn().expect("the server starts");
        let mut lines = BufReader::new(server.stderr.take().expect("its stderr is ours")).lines();
        let url = loop {
            let line = lines.next_line().await.expect("its stderr is text");
            let line = line.expect("the server says where it listens before it ends");
            if let Some((_, url)) = line.split_once("listening on ") {
                break url.trim().to_owned();
            }
        };
        // What else it says goes nowhere, but a server that cannot say it would end.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.servers.push(server);
        url
    }
}

fn fixture() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_meanwhile")).parent().expect("a binary is in a folder");
    let path = folder.join("examples/conformance-upstream").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is missing: cargo build --examples -p meanwhile-cli", path.display());
    path
}
