//! `meanwhile demo`: what Meanwhile does, told in a quarter of a minute by a real client and a real slow server.
//!
//! Nothing is staged. The client knows only `tools/call`, both servers are processes of their own, and every promise that is
//! told is checked first: a step that does not keep it ends the demo with an error.
//!
//! | module | question it answers |
//! |---|---|
//! | [`story`] | what happens, and why does it matter? |
//! | [`client`] | how does an agent speak to a server? |
//! | [`server`], [`report`] | what is slow here? |
//! | [`stage`] | how does it look? |
//! | [`folder`] | where are the demo's jobs kept? |

mod client;
mod folder;
mod report;
mod server;
mod stage;
mod story;

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

pub(crate) use self::server::serve;

use self::client::Client;
use self::folder::Folder;
use self::stage::Stage;

/// What a shell reports of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// `meanwhile demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  meanwhile demo")]
pub(crate) struct Demo {}

/// All that has to be ended with the demo.
struct Players {
    program: PathBuf,
    folder: Folder,
    bare: Option<Client>,
    wrapped: Option<Client>,
}

impl Demo {
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let folder = Folder::new().context("cannot make a temporary folder")?;
        let mut players = Players { program, folder, bare: None, wrapped: None };
        let stage = Stage::stdout();
        let told = tokio::select! {
            told = story::tell(&stage, &mut players) => told,
            _ = crate::wrap::asked_to_end() => {
                players.kill().await;
                return Ok(INTERRUPTED);
            }
        };
        match told {
            Ok(()) => {
                players.end().await;
                Ok(0)
            }
            Err(error) => {
                let log = players.kill().await;
                if nobody_reads(&error) {
                    return Ok(0);
                }
                log.iter().for_each(|line| eprintln!("meanwhile: a server's log: {line}"));
                Err(error.context("the demo did not go as promised"))
            }
        }
    }
}

impl Players {
    async fn end(self) {
        for client in [self.bare, self.wrapped].into_iter().flatten() {
            client.end().await;
        }
    }

    /// Ends them in the middle of something, and returns what they have logged. The server behind a wrapper ends with it.
    async fn kill(self) -> Vec<String> {
        let mut log = Vec::new();
        for client in [self.bare, self.wrapped].into_iter().flatten() {
            log.extend(client.kill().await);
        }
        log
    }
}

/// Whether the story has lost its reader, as with `meanwhile demo | head`. That is no failure of its own.
fn nobody_reads(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
