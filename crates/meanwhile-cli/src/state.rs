//! Where jobs are kept: one folder of the user, shared by every process of theirs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use meanwhile_core::artifact::Artifacts;
use meanwhile_core::{Store, SystemClock};
use meanwhile_mcp::login::Vault;
use meanwhile_sqlite::SqliteStore;

/// The store's file.
const FILE: &str = "meanwhile.db";

/// Where jobs are kept.
#[derive(Debug, Args)]
pub(crate) struct State {
    /// Folder of the job store [default: $XDG_STATE_HOME/meanwhile, else ~/.local/state/meanwhile]
    #[arg(long, env = "MEANWHILE_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
}

impl State {
    /// The store and the artifacts. Nothing is opened, or made, before it is used.
    pub(crate) fn open(&self) -> anyhow::Result<(Arc<dyn Store>, Artifacts)> {
        let folder = self.folder()?;
        let store = SqliteStore::new(folder.join(FILE), Arc::new(SystemClock));
        Ok((Arc::new(store), Artifacts::new(folder.join("artifacts"))))
    }

    /// The store's file, if it is not there.
    pub(crate) fn missing(&self) -> anyhow::Result<Option<PathBuf>> {
        let file = self.folder()?.join(FILE);
        Ok(if file.exists() { None } else { Some(file) })
    }

    /// Where logins are kept.
    pub(crate) fn vault(&self) -> anyhow::Result<Vault> {
        Ok(Vault::new(self.folder()?.join("credentials")))
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.state_dir {
            return Ok(folder.clone());
        }
        // The XDG base directory specification has relative paths ignored.
        let xdg = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let base = xdg.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
        let base = base.context("there is no home folder to keep jobs in: set MEANWHILE_STATE_DIR")?;
        Ok(base.join("meanwhile"))
    }
}
