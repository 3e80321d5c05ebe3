//! Answers too large for a row: plain files named by the hash of what they hold.
//!
//! A file is complete and on the disk before a row names it, so no row ever points at nothing. A file that no row names is
//! left over from a crash; it does no harm, and goes with the next answer of the same content that expires. One that nobody
//! refers to any more, but that is too young to be removed, is marked, and goes at a later sweep.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Json;

/// Answers up to this size, in bytes, live in the job's row.
pub const ROW_MAX: usize = 64 * 1024;

/// A file younger than this is never removed: a job that will name it may be about to commit.
const YOUNG: Duration = Duration::from_secs(300);

/// The folder of marks: empty files, named as the artifacts that are to go once they are old enough.
const MARKS: &str = "leaving";
/// So many marks are looked at in one sweep.
const MARKS_MAX: usize = 1000;

/// The folder of artifacts.
#[derive(Debug, Clone)]
pub struct Artifacts {
    root: PathBuf,
}

impl Artifacts {
    /// The artifacts under `root`, which is made when the first one is written.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Artifacts {
        Artifacts { root: root.into() }
    }

    /// Keeps a text and returns its name. Returns only after the file and its name are on the disk.
    ///
    /// # Errors
    /// Whatever the file system says; then nothing is kept.
    pub async fn keep(&self, text: Json) -> io::Result<String> {
        let artifacts = self.clone();
        unblock(move || artifacts.keep_now(text.get().as_bytes())).await
    }

    /// The text of this name.
    ///
    /// # Errors
    /// Whatever the file system says, or `InvalidData` if the file is not what was kept.
    pub async fn read(&self, digest: &str) -> io::Result<Json> {
        let path = self.path(digest)?;
        let digest = digest.to_owned();
        unblock(move || {
            let text = fs::read_to_string(&path)?;
            if blake3::hash(text.as_bytes()).to_hex().as_str() != digest {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is damaged", path.display()),
                ));
            }
            serde_json::value::RawValue::from_string(text).map_err(io::Error::from)
        })
        .await
    }

    /// Removes what no job refers to any more, or marks it, if it is too young. What cannot be removed is left, for it does no
    /// harm.
    pub async fn remove(&self, digest: &str) {
        let (artifacts, digest) = (self.clone(), digest.to_owned());
        let _ = unblock(move || {
            let path = artifacts.path(&digest)?;
            if is_old(&path)? {
                return fs::remove_file(&path);
            }
            let marks = artifacts.root.join(MARKS);
            make_private_folder(&marks)?;
            private_file().create_new(true).open(marks.join(digest)).map(drop)
        })
        .await;
    }

    /// The marked artifacts that are old enough by now. [`Artifacts::forget`] settles each: by then a job may refer to it again.
    pub async fn leaving(&self) -> Vec<String> {
        let artifacts = self.clone();
        let marked = move || {
            let names = fs::read_dir(artifacts.root.join(MARKS))?
                .filter_map(|mark| mark.ok()?.file_name().into_string().ok());
            let is_due =
                |digest: &String| artifacts.path(digest).and_then(|path| is_old(&path)).unwrap_or(true);
            Ok(names.take(MARKS_MAX).filter(is_due).collect())
        };
        unblock(marked).await.unwrap_or_default()
    }

    /// Removes a marked artifact, unless a job refers to it (`is_held`), and its mark.
    pub async fn forget(&self, digest: &str, is_held: bool) {
        let (artifacts, digest) = (self.clone(), digest.to_owned());
        let _ = unblock(move || {
            if !is_held && let Ok(path) = artifacts.path(&digest) {
                let _ = fs::remove_file(path);
            }
            fs::remove_file(artifacts.root.join(MARKS).join(digest))
        })
        .await;
    }

    fn path(&self, digest: &str) -> io::Result<PathBuf> {
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{digest}` names no artifact")));
        }
        let (shelf, name) = digest.split_at(2);
        Ok(self.root.join(shelf).join(name))
    }

    /// Written again even if it is there: the new age of the file protects it from being removed meanwhile.
    fn keep_now(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = blake3::hash(bytes).to_hex().to_string();
        let path = self.path(&digest)?;
        let shelf = path.parent().unwrap_or(&self.root);
        make_private_folder(shelf)?;
        let draft = shelf.join(format!(".{}-{}", &digest[2..18], crate::Handle::random()));
        let written = write_and_sync(&draft, bytes).and_then(|()| fs::rename(&draft, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        sync_folder(shelf)?;
        Ok(digest)
    }
}

/// Whether a file has been there for so long that whoever wrote it has committed, or is gone.
fn is_old(path: &Path) -> io::Result<bool> {
    let written = fs::metadata(path)?.modified()?;
    Ok(SystemTime::now().duration_since(written).is_ok_and(|age| age > YOUNG))
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = private_file().create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a folder for this user alone, and those above it, each with its name on the disk. For stores too. A folder that is
/// there already is synced as well: whoever made it may not have come as far.
///
/// # Errors
/// Whatever the file system says. A folder around it that may not be read is left to the file system to sync.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return if path.as_os_str().is_empty() || path.is_dir() {
            Ok(())
        } else {
            private_folder().create(path)
        };
    };
    if !path.is_dir() {
        make_private_folder(parent)?;
        match private_folder().create(path) {
            Err(error) if !path.is_dir() => return Err(error),
            _ => {}
        }
    }
    match sync_folder(parent) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

fn private_folder() -> fs::DirBuilder {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there are no modes to set"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

async fn unblock<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

#[cfg(test)]
impl Artifacts {
    /// Makes a file old enough to be removed.
    pub(crate) fn make_old(&self, digest: &str) {
        let file = OpenOptions::new().write(true).open(self.path(digest).unwrap()).unwrap();
        file.set_modified(SystemTime::now() - 2 * YOUNG).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::suite::json;

    #[tokio::test]
    async fn what_is_kept_is_read_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(folder.path().join("artifacts"));
        let digest = artifacts.keep(json(r#"{"a": 1.0}"#)).await.unwrap();
        assert_eq!(artifacts.keep(json(r#"{"a": 1.0}"#)).await.unwrap(), digest);
        assert_eq!(artifacts.read(&digest).await.unwrap().get(), r#"{"a": 1.0}"#);
        artifacts.remove(&digest).await;
        assert!(artifacts.read(&digest).await.is_ok(), "a young file stays");
        fs::write(artifacts.path(&digest).unwrap(), "[]").unwrap();
        assert_eq!(artifacts.read(&digest).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(artifacts.read("../../etc/passwd").await.is_err());
    }

    #[tokio::test]
    async fn what_is_too_young_to_be_removed_goes_later_unless_it_is_in_use_again() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(folder.path().join("artifacts"));
        let old = artifacts.keep(json("1")).await.unwrap();
        artifacts.make_old(&old);
        artifacts.remove(&old).await;
        assert!(
            artifacts.read(&old).await.is_err() && artifacts.leaving().await.is_empty(),
            "it goes at once"
        );
        for is_held in [false, true] {
            let digest = artifacts.keep(json("2")).await.unwrap();
            artifacts.remove(&digest).await;
            assert!(artifacts.leaving().await.is_empty(), "it is young");
            artifacts.make_old(&digest);
            assert_eq!(artifacts.leaving().await, std::slice::from_ref(&digest));
            artifacts.forget(&digest, is_held).await;
            assert_eq!(artifacts.read(&digest).await.is_ok(), is_held);
            assert!(artifacts.leaving().await.is_empty(), "it is settled");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn files_are_private_and_no_draft_stays() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(folder.path().join("artifacts"));
        let digest = artifacts.keep(json("1")).await.unwrap();
        let path = artifacts.path(&digest).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let shelf = path.parent().unwrap();
        assert_eq!(fs::metadata(shelf).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(shelf).unwrap().count(), 1);
    }
}
