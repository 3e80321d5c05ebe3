//! Where jobs are kept: one folder of the user, shared by every process of theirs.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
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

    /// If there is no store yet: where it would be, and where there is one that may have been meant.
    ///
    /// # Errors
    /// There can be none.
    pub(crate) fn missing(&self) -> anyhow::Result<Option<String>> {
        let folder = self.folder()?;
        let file = folder.join(FILE);
        ensure!(
            !folder.is_file(),
            "--state-dir {}: is a file; name the folder that holds {FILE}",
            folder.display()
        );
        match file.metadata() {
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => bail!("--state-dir {}: {error}", folder.display()),
        }
        let mut note = format!("there is no job store yet: {}", file.display());
        let is_other = |other: &PathBuf| *other != folder && other.join(FILE).is_file();
        if let Some(other) = usual_folders().find(is_other) {
            note += &format!("; there is one at {0}: use --state-dir {0}", other.display());
        }
        Ok(Some(note))
    }

    /// Where logins are kept.
    pub(crate) fn vault(&self) -> anyhow::Result<Vault> {
        Ok(Vault::new(self.folder()?.join("credentials")))
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.state_dir {
            return Ok(folder.clone());
        }
        usual_folders().next().context("there is no home folder to keep jobs in: set MEANWHILE_STATE_DIR")
    }
}

/// Where jobs are kept if nobody says where, and where they would be without XDG_STATE_HOME, which many a client does not pass on.
fn usual_folders() -> impl Iterator<Item = PathBuf> {
    // The XDG base directory specification has relative paths ignored.
    let xdg = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::home_dir().map(|home| home.join(".local/state"));
    xdg.into_iter().chain(home).map(|base| base.join("meanwhile"))
}
