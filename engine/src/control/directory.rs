//! Where the socket is: a folder of its own for each engine, locked as long as the engine runs.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The socket's name in the folder.
const SOCKET: &str = "control.sock";

/// The file that is locked as long as the engine runs.
const LOCK: &str = "lock";

/// The longest name.
const MAX_NAME_BYTES: usize = 64;

/// How often a folder that vanishes while it is locked is made anew.
const TRIES: usize = 16;

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody has said where run-time files go.
    #[error(
        "no folder for run-time files: XDG_RUNTIME_DIR is not set (log in with a session, or set BYWASH_RUNTIME_DIR)"
    )]
    NoFolder,
    /// A name that is no file name.
    #[error(
        "an engine cannot be called {name:?}; use 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` and `.`"
    )]
    BadName {
        /// What was asked for.
        name: String,
    },
    /// An engine of this name runs.
    #[error("an engine called {name} is running ({folder}); choose another --name, or stop it")]
    NameTaken {
        /// The name.
        name: String,
        /// Its folder.
        folder: PathBuf,
    },
    /// No telemetry socket.
    #[error("cannot make DPDK's telemetry socket in {}; if another process of that prefix runs, choose another", folder.display())]
    Telemetry {
        /// Where.
        folder: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// No metrics.
    #[error("cannot serve metrics on {address}; is the port free, and the address one of this machine's?")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// errno.
        source: io::Error,
    },
    /// The system refuses.
    #[error(
        "cannot make the control socket in {folder}; is it yours, or is BYWASH_RUNTIME_DIR to name another folder?"
    )]
    System {
        /// Where.
        folder: PathBuf,
        /// errno.
        source: io::Error,
    },
}

/// The folder in which the engines of this user have theirs: `$BYWASH_RUNTIME_DIR`, `/run/bywash` for root, else
/// `$XDG_RUNTIME_DIR/bywash`.
///
/// # Errors
/// [`ControlError::NoFolder`].
pub fn runtime_folder() -> Result<PathBuf, ControlError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("BYWASH_RUNTIME_DIR") {
        return Ok(folder);
    }
    // The owner of our own entry there is our effective user.
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    if is_root {
        return Ok("/run/bywash".into());
    }
    variable("XDG_RUNTIME_DIR").map(|folder| folder.join("bywash")).ok_or(ControlError::NoFolder)
}

/// An engine's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    name: String,
    path: PathBuf,
}

impl Folder {
    /// Of the engine called `name`, below `parent`.
    ///
    /// # Errors
    /// [`ControlError::BadName`].
    pub fn new(parent: &Path, name: &str) -> Result<Self, ControlError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with('.') || !name.chars().all(good)
        {
            return Err(ControlError::BadName { name: name.to_owned() });
        }
        Ok(Self { name: name.to_owned(), path: parent.join(name) })
    }

    /// All below `parent`, running or not, by name.
    #[must_use]
    pub fn all(parent: &Path) -> Vec<Folder> {
        let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut folders: Vec<_> = names.filter_map(|name| Folder::new(parent, &name).ok()).collect();
        folders.sort_by(|a, b| a.name.cmp(&b.name));
        folders
    }

    /// The engine's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Makes the folder ours: what a dead engine left there goes.
    pub(super) fn claim(&self) -> Result<Claim, ControlError> {
        let failed = |source| ControlError::System { folder: self.path.clone(), source };
        if let Some(parent) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        }
        for _ in 0..TRIES {
            match DirBuilder::new().mode(0o750).create(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            let path = self.path.join(LOCK);
            let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let lock = match lock {
                // Its last owner took it away between the two steps.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock.map_err(failed)?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let (name, folder) = (self.name.clone(), self.path.clone());
                    return Err(ControlError::NameTaken { name, folder });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // A lock on a file that is there no more keeps nobody out.
            let ours = lock.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours.ino()) {
                let _ = fs::remove_file(self.socket());
                return Ok(Claim { folder: self.clone(), _lock: lock });
            }
        }
        Err(failed(io::Error::other("the folder vanishes while it is made")))
    }
}

/// A folder that is ours. Dropping it takes it away.
#[derive(Debug)]
pub(super) struct Claim {
    folder: Folder,
    _lock: File,
}

impl Claim {
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.socket()
    }

    /// Lets the owner and their group use the socket, and nobody else.
    pub(super) fn protect(&self) -> io::Result<()> {
        fs::set_permissions(self.socket(), Permissions::from_mode(0o660))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What is not there need not be taken away. The lock goes last, with the file that it is on.
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_file(self.folder.path.join(LOCK));
        let _ = fs::remove_dir(&self.folder.path);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_engine_until_it_goes() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(parent.path(), "a.b-c_1").unwrap();
        let claim = folder.claim().unwrap();
        assert!(matches!(folder.claim(), Err(ControlError::NameTaken { .. })));
        assert_eq!(Folder::all(parent.path()).len(), 1);
        fs::write(folder.socket(), "").unwrap();
        drop(claim);
        assert_eq!(Folder::all(parent.path()), []);
        // What somebody left who was killed.
        fs::create_dir(parent.path().join("a.b-c_1")).unwrap();
        fs::write(folder.socket(), "").unwrap();
        let claim = folder.claim().unwrap();
        assert!(!folder.socket().exists());
        drop(claim);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", ".x", "a/b", "a b", "\u{e4}", &"x".repeat(65)] {
            let refused = Folder::new(Path::new("/run/bywash"), name);
            assert!(matches!(refused, Err(ControlError::BadName { .. })), "{name:?}");
        }
    }
}
