//! `meanwhile serve`: MCP servers behind streamable HTTP.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use meanwhile_mcp::gateway::Settings;
use meanwhile_mcp::http::{Access, Endpoint, Guard, Limits, OAuth, OneServer, Principal, Server, Tokens};
use meanwhile_mcp::hub::Hub;
use meanwhile_mcp::rules::duration;
use meanwhile_mcp::upstream::{Launch, Target};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::calls::{Calls, whole};
use crate::config;
use crate::login;
use crate::state::State;
use crate::wrap::{asked_to_end, survive_size_limits};

/// How many files may be open at once, if the system allows that: enough for all connections that there may be by default.
#[cfg(unix)]
const FILES: u64 = 16 * 1024;

/// More than this at once no machine has room for.
const MANY: usize = 1_000_000;

const EXAMPLES: &str = "\
Examples:
  meanwhile serve --config mcp.json
  meanwhile serve --config mcp.toml --listen 0.0.0.0:8808 --token-file tokens --allow-host mcp.example.org

The configuration is the one that clients have:
  {\"mcpServers\": {\"everything\": {\"command\": \"npx\",
    \"args\": [\"-y\", \"@modelcontextprotocol/server-everything\"]}}}
Each server is then at http://127.0.0.1:8808/mcp/NAME, and all of them together at http://127.0.0.1:8808/mcp.";

/// `meanwhile serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// The servers: a file with `mcpServers`, JSON as clients have it, or TOML of the same shape
    #[arg(long, env = "MEANWHILE_CONFIG", value_name = "FILE")]
    config: PathBuf,

    /// Where to listen, an IP address with a port such as 127.0.0.1:8808 or [::1]:8808; port 0 takes a free one
    #[arg(long, env = "MEANWHILE_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8808", value_parser = address)]
    listen: SocketAddr,

    /// The bearer tokens that let clients in, each with a name of its own: lines of `NAME: TOKEN`, or a JSON object; only you
    /// may be able to read the file
    #[arg(long, env = "MEANWHILE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Let in who has an access token (a JWT) of this issuer; its keys are found by its metadata
    #[arg(long, env = "MEANWHILE_OAUTH_ISSUER", value_name = "URL", requires = "oauth_audience")]
    oauth_issuer: Option<String>,

    /// The URL of /mcp here, as clients know it: tokens must be for it, or for /mcp/NAME below it
    #[arg(long, env = "MEANWHILE_OAUTH_AUDIENCE", value_name = "URL", requires = "oauth_issuer")]
    oauth_audience: Option<String>,

    /// A host that requests may name besides localhost; may be given several times
    #[arg(long, value_name = "HOST[:PORT]", value_parser = Guard::host)]
    allow_host: Vec<String>,

    /// An origin of web pages that may ask besides those of this machine; may be given several times
    #[arg(long, value_name = "ORIGIN", value_parser = Guard::origin)]
    allow_origin: Vec<String>,

    /// How long requests are answered and jobs finished after a signal to end, a second one ends it; what is not done by then, and
    /// is safe to repeat, is left to the next session with its server
    #[arg(long, env = "MEANWHILE_LINGER", value_name = "TIME", default_value = "5s", value_parser = duration)]
    linger: Duration,

    /// What this process has of a session that is left alone for so long ends; its jobs run on, and its next request takes it up
    /// again
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    session_idle: Duration,

    /// A server that nobody has asked anything for so long ends; the next request starts it again
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    server_idle: Duration,

    /// How many requests are answered at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole(1, MANY))]
    max_requests: usize,

    /// How many streams stay open at once to hear of changes
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = whole(0, MANY))]
    max_streams: usize,

    /// How many sessions there are at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole(1, MANY))]
    max_sessions: usize,

    #[command(flatten)]
    calls: Calls,

    #[command(flatten)]
    state: State,
}

impl Serve {
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        survive_size_limits();
        open_many_files();
        let access = self.access()?;
        let mut servers = config::read(&self.config)?;
        for server in &mut servers {
            self.know_login(&mut server.launch)?;
        }
        let (store, artifacts) = self.state.open()?;
        let mut behind: Vec<Arc<OneServer>> = Vec::new();
        let mut members = Vec::new();
        let names: Vec<String> = servers.iter().map(|server| server.launch.name.clone()).collect();
        let mut endpoints: HashMap<String, Arc<dyn Endpoint>> = HashMap::new();
        for server in servers {
            let (launch, calls) = (server.launch.clone(), calls_of(&self.calls, &server));
            let name = launch.name.clone();
            let settings = move |who: &Principal| settings(&calls, launch.clone(), who);
            let (store, artifacts) = (store.clone(), artifacts.clone());
            let one = OneServer::new(Box::new(settings), store, artifacts, self.server_idle, server.share);
            behind.push(one.clone());
            members.push((name.clone(), one.clone() as Arc<dyn Endpoint>));
            endpoints.insert(name, one);
        }
        endpoints.insert(String::new(), Hub::new(members));
        let limits = Limits {
            body: self.calls.max_message,
            requests: self.max_requests,
            streams: self.max_streams,
            sessions: self.max_sessions,
            session_idle: self.session_idle,
            server_idle: self.server_idle,
        };
        let guard = Guard::new(self.hosts(), self.allow_origin.clone());
        let server = Server::new(endpoints, guard, access, limits, store);
        let listener = TcpListener::bind(self.listen)
            .await
            .map_err(|error| anyhow!("cannot listen on {}: {error}; choose another --listen", self.listen))?;
        let address = listener.local_addr().context("the address that is listened on is not known")?;
        say_where(address, &names);
        let over = self.until_told(&server, listener).await;
        let mut ending = JoinSet::new();
        for one in behind {
            let over = over.clone();
            ending.spawn(async move { one.end(&over).await });
        }
        ending.join_all().await;
        Ok(0)
    }

    /// The login at a server elsewhere, which its user may make at any time.
    fn know_login(&self, launch: &mut Launch) -> anyhow::Result<()> {
        if let Target::Remote { url, login, .. } = &mut launch.target {
            let which = format!("{} --config {}", launch.name, self.config.display());
            *login = Some(login::for_requests(&self.state, url, &which)?);
        }
        Ok(())
    }

    /// Serves until a signal asks to end, and a little longer, to answer what is on its way. What is returned tells when it is
    /// too late for the jobs as well: the time to linger counts once, and a second signal ends it.
    async fn until_told(&self, server: &Server, listener: TcpListener) -> CancellationToken {
        let (told, over) = (CancellationToken::new(), CancellationToken::new());
        let (tell, late, linger) = (told.clone(), over.clone(), self.linger);
        tokio::spawn(async move {
            let signal = asked_to_end().await;
            tracing::info!(signal, "answering what is on its way, and ending");
            tell.cancel();
            tokio::select! {
                () = tokio::time::sleep(linger) => {}
                signal = asked_to_end() => tracing::info!(signal, "ending at once"),
            }
            late.cancel();
        });
        tokio::select! {
            () = server.serve(listener, told.cancelled_owned()) => {}
            () = over.cancelled() => {}
        }
        over
    }

    fn access(&self) -> anyhow::Result<Access> {
        let tokens = self.token_file.as_deref().map(tokens).transpose()?;
        let oauth = self.oauth_issuer.as_ref().zip(self.oauth_audience.as_ref());
        let oauth =
            oauth.map(|(issuer, audience)| OAuth::new(issuer, audience).map_err(|why| anyhow!("{why}")));
        let oauth = oauth.transpose()?;
        if tokens.is_some() || oauth.is_some() {
            return Ok(Access { open: None, tokens, oauth });
        }
        if !self.listen.ip().is_loopback() {
            bail!(
                "--listen {}: others can reach this address, and without --token-file or --oauth-issuer anyone could use your servers",
                self.listen
            );
        }
        Ok(Access { open: Some(Principal::local(&user())), ..Access::default() })
    }

    /// Who listens on an address of its own is known by it.
    fn hosts(&self) -> Vec<String> {
        let mut hosts = self.allow_host.clone();
        // The URL by which clients know it names its host.
        let known_as = self.oauth_audience.as_deref().and_then(|url| url.split('/').nth(2));
        hosts.extend(known_as.map(str::to_owned));
        if !self.listen.ip().is_unspecified() {
            hosts.push(match self.listen {
                SocketAddr::V4(address) => address.ip().to_string(),
                SocketAddr::V6(address) => format!("[{}]", address.ip()),
            });
        }
        hosts
    }
}

/// Says where the servers are, in a form that can be copied.
fn say_where(address: SocketAddr, names: &[String]) {
    let mut said = format!("listening on http://{address}\nall servers: http://{address}/mcp\n");
    for name in names {
        let _ = writeln!(said, "{name}: http://{address}/mcp/{name}");
    }
    let _ = std::io::stderr().write_all(said.as_bytes());
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no IP address with a port: write for example 127.0.0.1:8808"))
}

fn tokens(file: &Path) -> anyhow::Result<Tokens> {
    let shown = file.display();
    check_private(file)?;
    let text = std::fs::read_to_string(file).with_context(|| format!("{shown}: cannot be read"))?;
    Tokens::parse(&text).map_err(|why| anyhow!("{shown}: {why}"))
}

/// What the command line says, and over it what the file says of this server.
fn calls_of(calls: &Calls, server: &config::Server) -> Calls {
    let mut calls = calls.clone();
    calls.mode = server.mode.unwrap_or(calls.mode);
    calls.inline_budget = server.inline_budget.or(calls.inline_budget);
    calls.timeout = server.timeout.or(calls.timeout);
    calls.ttl = server.ttl.unwrap_or(calls.ttl);
    calls.max_running = server.max_running.unwrap_or(calls.max_running);
    calls.tools.extend(server.tools.iter().cloned());
    calls
}

/// All servers of a principal share a scope, so that a job is seen from each of its endpoints.
fn settings(calls: &Calls, launch: Launch, who: &Principal) -> Settings {
    Settings {
        scope: format!("http/{}", who.name()),
        launch,
        rules: calls.rules(),
        wait_max: calls.wait_max,
        max_message: calls.max_message,
        max_arguments: calls.max_arguments,
        engine: calls.engine(),
    }
}

fn user() -> String {
    std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_else(|_| "user".to_owned())
}

/// A file of secrets is for its owner only.
pub(crate) fn check_private(file: &Path) -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let shown = file.display();
        let found = std::fs::metadata(file).with_context(|| format!("{shown}: cannot be read"))?;
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            bail!(
                "{shown}: others can read it (mode {mode:03o}), and it holds tokens; run: chmod 600 {shown}"
            );
        }
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Each connection is an open file, and many a system lets a process open only a thousand until it asks for more.
fn open_many_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let allowed = limit.maximum.unwrap_or(FILES).min(FILES);
        if limit.current.is_some_and(|current| current < allowed)
            && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), ..limit })
        {
            tracing::debug!(%error, allowed, "no more files than until now can be open");
        }
    }
}
