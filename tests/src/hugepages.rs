//! 2 MiB hugepages for the processes of one test, and nothing left behind.
//!
//! [`Hugepages::reserve`] raises `/proc/sys/vm/nr_hugepages` by what is missing and mounts a private
//! hugetlbfs in a temporary directory. Dropping it unmounts, which frees every page whose processes
//! have gone, and takes the added pages away again, also while a test panics.
//!
//! Reservations are taken one after the other on the whole machine: a lock file is held as long as
//! the [`Hugepages`] live. Two suites that counted the same free pages would both fail; two that
//! load the same cores would both measure nonsense.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The kernel's count of 2 MiB pages; on machines whose default hugepage is larger it is another's.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// Held by whoever has pages reserved.
const LOCK: &str = "/run/bywash-peers.lock";
/// How long to wait for another suite to give its pages back.
const LOCK_LIMIT: Duration = Duration::from_secs(240);

/// Why no hugepages could be had.
#[derive(Debug, thiserror::Error)]
pub enum HugepagesError {
    /// A file of the kernel or the lock file cannot be used.
    #[error("cannot use {path}; hugepages are reserved by root on a kernel that has them")]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel found fewer free pages than asked for.
    #[error("only {free} of {wanted} hugepages of 2 MiB can be had; free memory, then try again")]
    Short {
        /// Free after the attempt.
        free: u64,
        /// Asked for.
        wanted: u64,
    },
    /// Another suite holds its reservation and does not end.
    #[error("another suite has held {path} for {limit:?}; wait for it to end")]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// `mount` refused.
    #[error("cannot mount hugetlbfs: {told}")]
    Mount {
        /// What it printed.
        told: String,
    },
}

/// A reservation of hugepages and a hugetlbfs of its own.
#[derive(Debug)]
pub struct Hugepages {
    // Dropped in this order, after `drop` has unmounted: the directory, then the lock.
    dir: tempfile::TempDir,
    added: u64,
    _lock: File,
}

impl Hugepages {
    /// Makes sure that `pages` pages of 2 MiB are free, and mounts a hugetlbfs.
    ///
    /// Blocks while another reservation of this machine is alive, at most four minutes.
    ///
    /// # Errors
    /// See [`HugepagesError`]; what was reserved until then is given back.
    pub fn reserve(pages: u64) -> Result<Self, HugepagesError> {
        let lock = take_lock()?;
        let dir = tempfile::Builder::new()
            .prefix("bywash-huge-")
            .tempdir()
            .map_err(|source| HugepagesError::File { path: std::env::temp_dir(), source })?;
        let free = count("free_hugepages")?;
        let mut added = 0;
        if free < pages {
            let before = count("nr_hugepages")?;
            set_count(before + pages - free)?;
            added = count("nr_hugepages")?.saturating_sub(before);
        }
        // From here on `drop` undoes it all.
        let this = Self { dir, added, _lock: lock };
        let free = count("free_hugepages")?;
        if free < pages {
            return Err(HugepagesError::Short { free, wanted: pages });
        }
        let mount = Command::new("mount")
            .args(["-t", "hugetlbfs", "-o", "pagesize=2M", "bywash-huge"])
            .arg(this.dir.path())
            .output()
            .map_err(|source| HugepagesError::File { path: "mount".into(), source })?;
        if !mount.status.success() {
            let told = String::from_utf8_lossy(&mount.stderr).trim().to_owned();
            return Err(HugepagesError::Mount { told });
        }
        Ok(this)
    }

    /// Where the hugetlbfs is mounted; for `--huge-dir`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        // Lazily, so that a process which still has a page mapped cannot make it fail. Where nothing
        // was mounted the command fails and there is nothing to do.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).output();
        if self.added > 0 {
            // Relative to the present count: another program may have changed it meanwhile.
            let undone = count("nr_hugepages").and_then(|n| set_count(n.saturating_sub(self.added)));
            if let Err(e) = undone {
                eprintln!("cannot give {} hugepages back: {e}", self.added);
            }
        }
    }
}

fn take_lock() -> Result<File, HugepagesError> {
    let file_error = |source| HugepagesError::File { path: LOCK.into(), source };
    let lock = File::options().create(true).append(true).open(LOCK).map_err(file_error)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(fs::TryLockError::Error(source)) => return Err(file_error(source)),
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(HugepagesError::Busy { path: LOCK.into(), limit: LOCK_LIMIT });
            }
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn count(what: &str) -> Result<u64, HugepagesError> {
    let path = Path::new(POOL).join(what);
    let parsed = fs::read_to_string(&path)
        .and_then(|text| text.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)));
    parsed.map_err(|source| HugepagesError::File { path, source })
}

fn set_count(pages: u64) -> Result<(), HugepagesError> {
    let path = Path::new(POOL).join("nr_hugepages");
    fs::write(&path, pages.to_string()).map_err(|source| HugepagesError::File { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require::{Suite, skip};

    #[test]
    fn a_panic_gives_pages_and_mount_back() {
        let pages = count("free_hugepages").unwrap_or(0) + 4;
        let pages = match Hugepages::reserve(pages) {
            Ok(reserved) => reserved,
            Err(e) => return skip(Suite::Dpdk, format!("{e}")),
        };
        let dir = pages.dir().to_owned();
        let (added, during) = (pages.added, count("nr_hugepages").unwrap());
        assert!(added >= 4, "{added} added");
        assert!(fs::read_to_string("/proc/mounts").unwrap().contains(dir.to_str().unwrap()));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            fs::write(pages.dir().join("left-behind"), "").unwrap();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(!dir.exists());
        assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(dir.to_str().unwrap()));
        assert_eq!(count("nr_hugepages").unwrap(), during - added);
    }
}
