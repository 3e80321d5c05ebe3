//! `meanwhile wrap`: an MCP server over stdio that fronts another one.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::FalseyValueParser;
use meanwhile_mcp::gateway::{Gateway, Settings};
use meanwhile_mcp::rules::duration;
use meanwhile_mcp::transport::{Outbound, stdin, stdout};
use meanwhile_mcp::upstream::{Launch, Target};
use tokio::io::AsyncRead;

use crate::calls::Calls;
use crate::detach::Leash;
use crate::remote::Remote;
use crate::state::State;

const EXAMPLES: &str = "\
Examples:
  meanwhile wrap -- npx -y @modelcontextprotocol/server-everything
  meanwhile wrap --inline-budget 5s -- uvx mcp-server-git
  meanwhile wrap --url https://example.com/mcp --header 'Authorization=Bearer …'
  meanwhile wrap --tool 'render*=handle,timeout=30m' --tool 'get_*=inline' -- ./my-server

In a client's configuration, put `meanwhile` where the server's command was, and the command behind `--`:
  {\"mcpServers\": {\"everything\": {\"command\": \"meanwhile\",
    \"args\": [\"wrap\", \"--\", \"npx\", \"-y\", \"@modelcontextprotocol/server-everything\"]}}}";

/// `meanwhile wrap`.
#[derive(Debug, Args)]
#[command(override_usage = "meanwhile wrap [OPTIONS] -- COMMAND [ARGS…]\n       meanwhile wrap [OPTIONS] --url URL", after_help = EXAMPLES)]
pub(crate) struct Wrap {
    #[command(flatten)]
    calls: Calls,

    /// How long running jobs are finished after the client is gone; what is not done by then, and is safe to repeat, is left
    /// to the next session
    #[arg(long, env = "MEANWHILE_LINGER", value_name = "TIME", default_value = "24h", value_parser = duration)]
    linger: Duration,

    /// Do not outlive the process that the client started: if it is killed, its jobs are interrupted
    #[arg(long, env = "MEANWHILE_NO_LINGER", value_parser = FalseyValueParser::new())]
    no_linger: bool,

    /// The server's name, for its jobs and its lines on stderr [default: from the command]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Who may see the jobs [default: this user, the server's name and this folder]
    #[arg(long, env = "MEANWHILE_SCOPE", value_name = "SCOPE")]
    scope: Option<String>,

    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    state: State,

    /// The MCP server's command
    #[arg(trailing_var_arg = true, required_unless_present = "url", value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

impl Wrap {
    pub(crate) async fn run(self, leash: &mut Option<Leash>) -> anyhow::Result<u8> {
        if std::io::stdin().is_terminal() {
            eprintln!(
                "meanwhile: waiting for an MCP client on stdin; put this command into your client's configuration"
            );
        }
        survive_size_limits();
        let (store, artifacts) = self.state.open()?;
        let settings = self.settings()?;
        let input = stdin().context("cannot read stdin")?;
        let down = Outbound::start(stdout().context("cannot write stdout")?);
        let gateway = Gateway::start(settings, store, artifacts, down.clone());
        let mut code = 0;
        let ended = tokio::select! {
            served = session(&gateway, input, &down, leash.as_ref()) => {
                served.context("the client's messages cannot be read")?;
                code = u8::from(gateway.never_came_up());
                self.linger(&gateway, leash.take(), code).await
            }
            signal = asked_to_end() => Ended::Told(signal),
        };
        if let Ended::Told(why) = ended {
            tracing::info!(why, "letting go of the jobs that are left");
            gateway.interrupt().await;
        }
        gateway.stop_upstream().await;
        Ok(code)
    }

    /// The client is gone: its jobs are finished, for as long as that may take.
    async fn linger(&self, gateway: &Gateway, leash: Option<Leash>, code: u8) -> Ended {
        if let Some(leash) = leash {
            // With nothing to finish the server ends first, so that a client that starts it again at once finds it gone. What is
            // taken up while it ends would find no server.
            gateway.retire().await;
            if gateway.is_idle() {
                gateway.stop_upstream().await;
            }
            leash.release(code);
        }
        tokio::select! {
            () = gateway.drain() => Ended::ByItself,
            signal = asked_to_end() => Ended::Told(signal),
            () = tokio::time::sleep(self.linger) => Ended::Told("the time to linger is over"),
        }
    }

    /// The server that is a command, and its name.
    fn command(&self) -> anyhow::Result<(String, Target)> {
        let (program, args) =
            self.command.split_first().context("give the MCP server's command after `--`, or its --url")?;
        let (program, args, env) = (program.clone(), args.to_vec(), vec![]);
        Ok((name_of(&self.command), Target::Process { program, args, env, cwd: None }))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let (name, target) = match self.remote.target(&self.state)? {
            Some(remote) => remote,
            None => self.command()?,
        };
        let name = self.name.clone().unwrap_or(name);
        Ok(Settings {
            scope: self.scope.clone().unwrap_or_else(|| scope_of(&name)),
            launch: Launch::new(name, target, None),
            rules: self.calls.rules(),
            wait_max: self.calls.wait_max,
            max_message: self.calls.max_message,
            max_arguments: self.calls.max_arguments,
            engine: self.calls.engine(),
        })
    }
}

/// Why a gateway ends.
enum Ended {
    ByItself,
    Told(&'static str),
}

/// Serves the client until it is gone, and answers what it asked for until then.
async fn session(
    gateway: &Arc<Gateway>,
    input: impl AsyncRead + Unpin,
    down: &Outbound,
    leash: Option<&Leash>,
) -> std::io::Result<()> {
    let shim_is_gone = async {
        match leash {
            Some(leash) => leash.broken().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = gateway.serve(input) => served?,
        () = shim_is_gone => tracing::info!("the process that the client started is gone"),
    }
    gateway.answer_the_rest().await;
    down.finish().await;
    Ok(())
}

/// A limit on the size of files ends the write that meets it, as a full disk does, and not this process. By a handler that does
/// nothing: what is ignored would stay so in the server.
pub(crate) fn survive_size_limits() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Err(error) = signal(SignalKind::from_raw(libc::SIGXFSZ)) {
            tracing::debug!(%error, "a limit on the size of files would end this process");
        }
    }
}

/// Resolves with the name of the signal that asks this process to end.
pub(crate) async fn asked_to_end() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = tokio::signal::ctrl_c() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
        }
    }
    let _ = tokio::signal::ctrl_c().await;
    "SIGINT"
}

/// A server's name from its command: the program, or what a runner such as `npx` is told to run.
fn name_of(command: &[String]) -> String {
    const RUNNERS: [&str; 10] =
        ["npx", "bunx", "uvx", "pipx", "node", "bun", "deno", "python", "python3", "uv"];
    const VERBS: [&str; 5] = ["run", "exec", "x", "dlx", "tool"];
    let Some((program, args)) = command.split_first() else { return String::new() };
    let program = telling_part(program);
    if !RUNNERS.contains(&program.as_str()) {
        return program;
    }
    let told = args.iter().find(|arg| !arg.starts_with('-') && !VERBS.contains(&arg.as_str()));
    told.map_or(program, |told| telling_part(told))
}

/// The last part of a path that tells one server from another: many are a `dist/index.js` in a folder of their name.
fn telling_part(path: &str) -> String {
    const ANY: [&str; 10] =
        ["index", "main", "server", "cli", "app", "__main__", "dist", "build", "src", "bin"];
    let stems = Path::new(path)
        .iter()
        .rev()
        .map(|part| Path::new(part).file_stem().unwrap_or(part).to_string_lossy());
    let mut stems = stems.filter(|stem| stem != "/" && stem != "." && stem != "..");
    let last = stems.next().unwrap_or_default().into_owned();
    if !ANY.contains(&last.as_str()) {
        return last;
    }
    stems.find(|stem| !ANY.contains(&stem.as_ref())).map_or(last, |stem| stem.into_owned())
}

/// A session in the same folder, of the same user, with a server of the same name sees the same jobs.
fn scope_of(name: &str) -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_else(|_| "user".to_owned());
    let folder =
        std::env::current_dir().map_or_else(|_| "?".to_owned(), |folder| folder.display().to_string());
    format!("{user}/{name}{}{folder}", if folder.starts_with('/') { "" } else { "/" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_what_is_run() {
        for (command, name) in [
            ("./my-server --port 1", "my-server"),
            ("npx -y @modelcontextprotocol/server-everything stdio", "server-everything"),
            ("uvx mcp-server-git", "mcp-server-git"),
            ("python3 -u servers/render.py", "render"),
            ("uv run render.py", "render"),
            ("node", "node"),
            (
                "node node_modules/@modelcontextprotocol/server-everything/dist/index.js stdio",
                "server-everything",
            ),
            ("python server.py", "server"),
            ("/opt/render/bin/main", "render"),
        ] {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(name_of(&words), name, "{command}");
        }
    }
}
