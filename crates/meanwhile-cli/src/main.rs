//! The binary `meanwhile`: makes the slow tools of any MCP server asynchronous.
//!
//! | module | command |
//! |---|---|
//! | [`wrap`] | `meanwhile wrap -- SERVER…`: an MCP server that fronts another one |
//! | [`jobs`] | `meanwhile jobs …`: look at jobs and control them, from any terminal |
//! | [`demo`] | `meanwhile demo`: what it does, shown in half a minute |
//! | [`state`] | where jobs are kept |

mod demo;
mod jobs;
mod state;
mod wrap;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Slow MCP tools answer with a handle at once, and go on as durable jobs.
#[derive(Debug, Parser)]
#[command(name = "meanwhile", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// More on stderr: -v what happens, -vv every detail (or MEANWHILE_LOG, as in MEANWHILE_LOG=debug)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  meanwhile demo
  meanwhile wrap -- npx -y @modelcontextprotocol/server-everything
  meanwhile wrap --tool 'render*=handle,timeout=30m' -- uvx my-server
  meanwhile jobs list
  meanwhile jobs watch

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such job, 4 the job has no result";

#[derive(Debug, Subcommand)]
enum Command {
    /// Front an MCP server over stdio, so that its slow tools become durable jobs
    Wrap(wrap::Wrap),
    /// Look at jobs and control them, while wrappers run or afterwards
    Jobs(jobs::Jobs),
    /// See what it does, in half a minute, without a network or a key
    Demo(demo::Demo),
    /// The slow MCP server that the demo calls
    #[command(hide = true)]
    DemoServer,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            if cli.verbose > 0 {
                eprintln!("meanwhile: {error:?}");
            } else {
                eprintln!("meanwhile: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// One thread is enough for one client and one server, and keeps a call from crossing between cores.
#[tokio::main(flavor = "current_thread")]
async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Wrap(wrap) => wrap.run().await,
        Command::Jobs(jobs) => jobs.run().await,
        Command::Demo(demo) => demo.run().await,
        Command::DemoServer => demo::serve().await,
    }
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "meanwhile=info,meanwhile_core=info,meanwhile_mcp=info,meanwhile_sqlite=info,warn",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("MEANWHILE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(
            std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .with_target(false)
        .init();
}
