//! The binary `meanwhile`: makes the slow tools of any MCP server asynchronous.
//!
//! | module | command |
//! |---|---|
//! | [`wrap`] | `meanwhile wrap -- SERVER…`: an MCP server that fronts another one |
//! | [`serve`] | `meanwhile serve`: MCP servers behind streamable HTTP |
//! | [`login`] | `meanwhile login`, `logout`: tokens for servers elsewhere |
//! | [`jobs`] | `meanwhile jobs …`: look at jobs and control them, from any terminal |
//! | [`demo`] | `meanwhile demo`: what it does, shown in twelve seconds |
//! | [`calls`] | how calls are treated, wherever a server is fronted |
//! | [`config`] | the servers that are served |
//! | [`state`] | where jobs are kept |
//! | [`detach`] | how a gateway outlives the client that started it |

mod calls;
mod config;
mod demo;
#[cfg(unix)]
mod detach;
#[cfg(not(unix))]
#[path = "attached.rs"]
mod detach;
mod jobs;
mod login;
mod remote;
mod serve;
mod state;
mod wrap;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use self::detach::Leash;

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

Exit codes: 0 done; 1 failed, or the job has no result and will have none, or its tool's answer is an error; 2 wrong usage; \
3 no such job; 4 the job has no result yet";

#[derive(Debug, Subcommand)]
enum Command {
    /// Front an MCP server over stdio, so that its slow tools become durable jobs
    Wrap(wrap::Wrap),
    /// Put MCP servers behind streamable HTTP, for many clients at once
    Serve(serve::Serve),
    /// Log in at an MCP server elsewhere that wants it, in a browser
    Login(Box<login::Login>),
    /// Forget a login
    Logout(login::Logout),
    /// Look at jobs and control them, while wrappers run or afterwards
    Jobs(jobs::Jobs),
    /// See what it does, in twelve seconds, without a network or a key
    Demo(demo::Demo),
    /// The slow MCP server that the demo calls
    #[command(hide = true)]
    DemoServer,
}

fn main() -> ExitCode {
    // Before anything else, so that the process that only waits stays small.
    let leash = if detach::is_wanted(std::env::args_os().skip(1)) { detached() } else { None };
    let (code, leash) = match parse() {
        Ok(cli) => start(cli, leash),
        Err(error) => {
            let _ = error.print();
            (u8::try_from(error.exit_code()).unwrap_or(1), leash)
        }
    };
    if let Some(leash) = leash {
        leash.release(code);
    }
    code.into()
}

fn detached() -> Option<Leash> {
    detach::detach()
        .inspect_err(|error| eprintln!("meanwhile: cannot detach, so jobs end with this session: {error}"))
        .ok()
}

/// The arguments, and what the environment says. A variable that is set and empty is not set: that is how many a client's
/// configuration leaves one out.
fn parse() -> Result<Cli, clap::Error> {
    let given = |arg: clap::Arg| {
        let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(Resettable::Reset) } else { arg }
    };
    let command = Cli::command().mut_subcommands(move |command| command.mut_args(given));
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// Runs the command, and returns its exit code, with the leash if it still holds.
fn start(cli: Cli, mut leash: Option<Leash>) -> (u8, Option<Leash>) {
    log_to_stderr(cli.verbose);
    let code = run(cli.command, &mut leash).unwrap_or_else(|error| {
        if let Some(wrong) = error.downcast_ref::<clap::Error>() {
            let _ = wrong.print();
            return u8::try_from(wrong.exit_code()).unwrap_or(2);
        }
        if cli.verbose > 0 {
            let _ = writeln!(std::io::stderr(), "meanwhile: {error:?}");
        } else {
            let _ = writeln!(std::io::stderr(), "meanwhile: {error:#}");
        }
        1
    });
    (code, leash)
}

/// What is wrong with the command line, where that is known only once it has been read as a whole, or where the value, which may
/// hold a secret, is not to be shown.
fn wrong_usage(why: &str) -> anyhow::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n\nFor more information, try '--help'.\n"))
        .into()
}

/// One thread is enough for one client and one server, and keeps a call from crossing between cores.
fn run(command: Command, leash: &mut Option<Leash>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the system gives no event loop")?;
    let code = runtime.block_on(async {
        match command {
            Command::Wrap(wrap) => wrap.run(leash).await,
            Command::Serve(serve) => serve.run().await,
            Command::Login(login) => login.run().await,
            Command::Logout(logout) => logout.run().await,
            Command::Jobs(jobs) => jobs.run().await,
            Command::Demo(demo) => demo.run().await,
            Command::DemoServer => demo::serve().await,
        }
    });
    // To drop it would wait for whoever sits at a terminal to type one more line: that stdin is read in a thread of its own.
    runtime.shutdown_background();
    code
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "meanwhile=info,meanwhile_core=info,meanwhile_mcp=info,meanwhile_sqlite=info,warn",
        _ => "debug",
    };
    let wanted = std::env::var("MEANWHILE_LOG").unwrap_or_default();
    // Alone, the name of something that does not exist would silence everything, errors too.
    let (filter, wrong) = match EnvFilter::builder().parse(format!("{default},{wanted}")) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default), Some(error)),
    };
    let unknown = wanted.split(',').map(str::trim).find(|directive| !is_understood(directive));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(
            std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .with_target(false)
        // A client that has gone takes its end of our stderr with it; to complain of that there would be to panic.
        .log_internal_errors(false)
        .init();
    if let Some(error) = wrong {
        tracing::warn!("MEANWHILE_LOG=`{wanted}` is ignored: {error}; write for example debug");
    } else if let Some(unknown) = unknown {
        tracing::warn!(
            "MEANWHILE_LOG: `{unknown}` is no level, and is taken for a module's name; levels are off, error, warn, info, debug and trace"
        );
    }
}

/// Whether a bare word says how much to log. What names a module says so with its level, or by its beginning.
fn is_understood(directive: &str) -> bool {
    let is_word = !directive.is_empty() && directive.chars().all(|c| c.is_ascii_alphabetic());
    !is_word || directive.starts_with("meanwhile") || directive.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_defined() {
        Cli::command().debug_assert();
    }

    #[test]
    fn behind_a_servers_command_every_argument_is_its_own() {
        for line in ["wrap npx -y foo --name x -v", "wrap --mode auto -- npx -y foo --name x -v"] {
            let words = std::iter::once("meanwhile").chain(line.split(' '));
            let Command::Wrap(wrap) = Cli::try_parse_from(words).unwrap().command else { panic!("{line}") };
            assert_eq!(wrap.command, ["npx", "-y", "foo", "--name", "x", "-v"]);
        }
        let mistyped = Cli::try_parse_from(["meanwhile", "wrap", "--inline-budgett", "5s", "npx"]);
        assert!(mistyped.unwrap_err().to_string().contains("--inline-budget'"));
    }

    #[test]
    fn a_word_that_is_no_level_is_noticed() {
        for (directive, is_right) in [
            ("loud", false),
            ("debug", true),
            ("WARN", true),
            ("off", true),
            ("", true),
            ("meanwhile", true),
            ("meanwhile_mcp", true),
            ("hyper=info", true),
        ] {
            assert_eq!(is_understood(directive), is_right, "{directive}");
        }
    }

    #[test]
    fn the_help_of_every_command_has_examples() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n"), "{}", command.get_name());
            command.get_subcommands().filter(|command| !command.is_hide_set()).for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn what_a_value_should_look_like_is_said() {
        let host = "write HOST or HOST:PORT";
        let origin = "write SCHEME://HOST or SCHEME://HOST:PORT";
        for (option, value, form) in [
            ("--allow-host", "http://x", host),
            ("--allow-host", "*", host),
            ("--allow-origin", "foo", origin),
            ("--allow-origin", "https://x/", origin),
            ("--max-message", "lots", "write for example 512KiB, 64MiB or 1GiB"),
            ("--max-requests", "lots", "write a whole number from 1 to 1000000"),
            ("--max-sessions", "0", "write a whole number from 1 to 1000000"),
            ("--max-running", "0", "write a whole number from 1 to 65535"),
            ("--wait-max", "lots", "write for example 500ms, 2s, 10m or 24h"),
        ] {
            let words = ["meanwhile", "serve", "--config", "mcp.json", option, value];
            let error = Cli::try_parse_from(words).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(form), "{error}");
        }
    }
}
