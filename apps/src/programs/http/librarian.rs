//! The thread that reads files, so that no loop ever waits for a disk.
//!
//! ```text
//!   root ─► walk, stat, read what is new ─► Site ─► a slot for each core ─► taken by its loop, between two turns
//!    every --rescan seconds                  │
//!                                            └─► old files wait here until no loop uses them: loops free nothing large
//! ```
//!
//! Supported: regular files below the root, 65,536 at most, read whole into memory, `--root-limit` bytes in all (old
//! versions that are still being sent count too). What lies beyond a limit is answered 503 and warned of. Left out, and
//! so answered 404: names that begin with `.` (but `.well-known`), symbolic links that lead out of the root, devices,
//! sockets, pipes, directories deeper than 32.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crossbeam_queue::ArrayQueue;

use super::head::MAX_ANSWER_BYTES;
use super::site::{Entry, File, Site};
use super::target;

/// Most files, and most directories.
const MAX_FILES: usize = 65_536;
/// Deepest directory.
const MAX_DEPTH: usize = 32;
/// Longest `Location`; a directory with a longer one is found with its `/` only.
const MAX_LOCATION_BYTES: usize = MAX_ANSWER_BYTES / 2;
/// What directories answer with.
const INDEX: &str = "index.html";
/// Opening a pipe would wait for its writer, should one take a file's place between two looks.
const O_NONBLOCK: i32 = 0o4000;

/// Where a loop finds the newest site: a slot of one, overwritten while nobody takes it.
pub type Shelf = Arc<ArrayQueue<Arc<Site>>>;

/// Files of a root as a thread of its own keeps them. Dropping it ends the thread.
#[derive(Debug)]
pub struct Librarian {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Librarian {
    /// Reads everything below `root` once, then keeps looking for changes every `rescan`, if given. Fills a slot for
    /// each of `loops` before it returns.
    ///
    /// # Errors
    /// If `root` is no directory that can be read.
    pub fn start(
        root: &Path,
        limit_bytes: u64,
        rescan: Option<Duration>,
        loops: usize,
    ) -> io::Result<(Librarian, Vec<Shelf>)> {
        let shelves: Vec<Shelf> = (0..loops).map(|_| Arc::new(ArrayQueue::new(1))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut stock = Stock::new(root, limit_bytes, Arc::clone(&stop))?;
        stock.scan()?;
        stock.publish(&shelves);
        let mut librarian = Librarian { stop: Arc::clone(&stop), thread: None };
        if let Some(rescan) = rescan {
            let shelves = shelves.clone();
            let keep = move || {
                // ORDERING: Relaxed. A flag alone; the unpark that follows it ends the wait.
                while !stop.load(Ordering::Relaxed) {
                    thread::park_timeout(rescan);
                    match stock.scan() {
                        Ok(true) => stock.publish(&shelves),
                        Ok(false) => {}
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            log::warn!(
                                "{} cannot be read, so it stays as it was: {error}",
                                stock.root.display()
                            );
                        }
                    }
                    stock.free_unused();
                }
            };
            librarian.thread = Some(thread::Builder::new().name("bywash-files".into()).spawn(keep)?);
        }
        Ok((librarian, shelves))
    }
}

impl Drop for Librarian {
    fn drop(&mut self) {
        // ORDERING: Relaxed. See the loop above.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has no way to panic that would be worth more than its own message.
            let _ = thread.join();
        }
    }
}

/// What tells one version of a file from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    inode: (u64, u64),
    bytes: u64,
    modified: SystemTime,
    /// Change of the inode: a file put back with its old time shows here.
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &fs::Metadata) -> Version {
        Version {
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Everything read, by the files' true paths: two ways to one file share it.
struct Stock {
    root: PathBuf,
    limit_bytes: u64,
    files: HashMap<PathBuf, (Version, Arc<File>)>,
    /// Files and sites that loops may still use.
    old_files: Vec<Arc<File>>,
    old_sites: Vec<Arc<Site>>,
    site: Arc<Site>,
    /// What keys stood for at the last scan, to see whether anything changed.
    keys: Vec<(Vec<u8>, Option<Version>)>,
    /// Whether a limit has been warned of.
    has_warned: bool,
    stop: Arc<AtomicBool>,
}

/// One walk in progress.
#[derive(Default)]
struct Walk {
    site: Site,
    files: HashMap<PathBuf, (Version, Arc<File>)>,
    keys: Vec<(Vec<u8>, Option<Version>)>,
    /// True paths of the directories above, against links in circles.
    above: Vec<PathBuf>,
    directories: usize,
    /// In memory: what was read before, as loops may still use it, and what this walk has read.
    held_bytes: u64,
}

impl Stock {
    fn new(root: &Path, limit_bytes: u64, stop: Arc<AtomicBool>) -> io::Result<Stock> {
        let root = fs::canonicalize(root)?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Stock {
            root,
            limit_bytes,
            files: HashMap::new(),
            old_files: Vec::new(),
            old_sites: Vec::new(),
            site: Arc::default(),
            keys: Vec::new(),
            has_warned: false,
            stop,
        })
    }

    /// Walks the root and reads what is new. Returns whether anything changed.
    fn scan(&mut self) -> io::Result<bool> {
        let files = self.files.values().map(|(_, file)| file).chain(&self.old_files);
        let mut walk = Walk { held_bytes: files.map(|file| file.bytes()).sum(), ..Walk::default() };
        self.directory(&mut walk, &self.root.clone(), &mut Vec::new())?;
        walk.keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let has_changed = walk.keys != self.keys;
        if has_changed {
            let gone = std::mem::replace(&mut self.files, walk.files);
            let kept: HashSet<*const File> = self.files.values().map(|(_, file)| Arc::as_ptr(file)).collect();
            let is_old = |file: &Arc<File>| !kept.contains(&Arc::as_ptr(file));
            self.old_files.extend(gone.into_values().map(|(_, file)| file).filter(is_old));
            self.old_sites.push(std::mem::replace(&mut self.site, Arc::new(walk.site)));
            self.keys = walk.keys;
        }
        Ok(has_changed)
    }

    /// Puts the newest site into every slot. What is displaced is still held here.
    fn publish(&mut self, shelves: &[Shelf]) {
        for shelf in shelves {
            drop(shelf.force_push(Arc::clone(&self.site)));
        }
    }

    /// Frees what no loop uses any more.
    fn free_unused(&mut self) {
        self.old_sites.retain(|site| Arc::strong_count(site) > 1);
        self.old_files.retain(|file| Arc::strong_count(file) > 1);
    }

    fn directory(&mut self, walk: &mut Walk, path: &Path, key: &mut Vec<u8>) -> io::Result<()> {
        walk.directories += 1;
        if walk.above.len() >= MAX_DEPTH || walk.directories > MAX_FILES {
            self.warn(&format!("{} is one directory too many or too deep", path.display()));
            return Ok(());
        }
        let entries = fs::read_dir(path)?;
        walk.above.push(path.to_path_buf());
        for entry in entries {
            // ORDERING: Relaxed. See `Librarian::start`.
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            if name.as_bytes().starts_with(b".") && name != ".well-known" {
                continue;
            }
            // The true path: links are followed here, and judged by where they end.
            let Ok(path) = fs::canonicalize(entry.path()) else { continue };
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if !path.starts_with(&self.root) {
                continue;
            }
            let begin = key.len();
            key.extend_from_slice(name.as_bytes());
            if metadata.is_file() {
                self.file(walk, path, &metadata, key);
            } else if metadata.is_dir() && !walk.above.contains(&path) {
                let location = target::encode(key) + "/";
                if location.len() <= MAX_LOCATION_BYTES {
                    walk.keys.push((key.clone(), None));
                    walk.site.add(key, Entry::Directory(location.into()));
                }
                key.push(b'/');
                // A directory that cannot be read hides itself, not its neighbours.
                match self.directory(walk, &path, key) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                    Err(error) => log::debug!("{} is left out: {error}", path.display()),
                    Ok(()) => {}
                }
            }
            key.truncate(begin);
        }
        walk.above.pop();
        Ok(())
    }

    fn file(&mut self, walk: &mut Walk, path: PathBuf, metadata: &fs::Metadata, key: &[u8]) {
        if walk.keys.len() >= MAX_FILES {
            return self
                .warn(&format!("there are more than {MAX_FILES} files; {} is left out", path.display()));
        }
        let loaded = match walk.files.get(&path) {
            Some((version, file)) => Some((version.clone(), Arc::clone(file))),
            None => self.load(walk, &path, metadata),
        };
        let (version, entry) = match &loaded {
            Some((version, file)) => (Some(version.clone()), Entry::File(Arc::clone(file))),
            None => (None, Entry::NotLoaded),
        };
        if let Some(directory) = key.strip_suffix(INDEX.as_bytes())
            && (directory.is_empty() || directory.ends_with(b"/"))
        {
            walk.site.add(directory, entry.clone());
        }
        walk.keys.push((key.to_vec(), version));
        walk.site.add(key, entry);
        walk.files.extend(loaded.map(|loaded| (path, loaded)));
    }

    /// The file as last read, or read anew. `None` if it cannot be: gone, growing, not allowed, too large.
    fn load(
        &mut self,
        walk: &mut Walk,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Option<(Version, Arc<File>)> {
        let version = Version::of(metadata);
        if let Some((known, file)) = self.files.get(path)
            && *known == version
        {
            return Some((version, Arc::clone(file)));
        }
        if walk.held_bytes.saturating_add(version.bytes) > self.limit_bytes {
            let (name, limit) = (path.display(), self.limit_bytes);
            self.warn(&format!(
                "{name} ({} bytes) goes beyond --root-limit {limit} and is answered 503",
                version.bytes
            ));
            return None;
        }
        match read(path, &self.root, &version) {
            Ok(body) => {
                let name = path.file_name().unwrap_or_default();
                let file = File::new(name.as_bytes(), body, version.modified);
                walk.held_bytes += file.bytes();
                Some((version, Arc::new(file)))
            }
            Err(error) => {
                log::debug!("{} is left out for now: {error}", path.display());
                // What was there before is better than nothing while a file is being written.
                self.files.get(path).cloned()
            }
        }
    }

    /// Says the first of a kind aloud; a site beyond its limits stays so at every scan.
    fn warn(&mut self, words: &str) {
        if self.has_warned {
            log::debug!("{words}");
        } else {
            log::warn!("{words}");
            self.has_warned = true;
        }
    }
}

/// The bytes of the file at `path`, if it is still that `version` afterwards and still lies below `root`.
fn read(path: &Path, root: &Path, version: &Version) -> io::Result<Box<[u8]>> {
    let changing = || io::Error::other("it is being changed");
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    // A directory on the way may have become a link meanwhile; what was opened has one true path.
    let opened = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)))?;
    if !opened.starts_with(root) || Version::of(&file.metadata()?) != *version {
        return Err(changing());
    }
    let bytes = usize::try_from(version.bytes).map_err(io::Error::other)?;
    let mut body = Vec::new();
    // One byte more, to see that there is none; and no abort if the memory is not there.
    body.try_reserve_exact(bytes + 1).map_err(io::Error::other)?;
    (&file).take(version.bytes + 1).read_to_end(&mut body)?;
    if body.len() != bytes || Version::of(&file.metadata()?) != *version {
        return Err(changing());
    }
    Ok(body.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn stock(root: &Path, limit: u64) -> Stock {
        Stock::new(root, limit, Arc::default()).unwrap()
    }

    fn body(site: &Site, key: &str) -> Option<Vec<u8>> {
        match site.find(key.as_bytes())? {
            Entry::File(file) => Some(file.body.to_vec()),
            _ => None,
        }
    }

    fn site_of(root: &Path) -> Arc<Site> {
        let mut stock = stock(root, 1 << 20);
        assert!(stock.scan().unwrap());
        stock.site
    }

    #[test]
    fn files_directories_and_their_index_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a b/c")).unwrap();
        fs::write(root.join("index.html"), "top").unwrap();
        fs::write(root.join("a b/c/index.html"), "deep").unwrap();
        fs::write(root.join("empty.txt"), "").unwrap();
        let site = site_of(root);
        assert_eq!(body(&site, "").unwrap(), b"top");
        assert_eq!(body(&site, "index.html").unwrap(), b"top");
        assert_eq!(body(&site, "a b/c/").unwrap(), b"deep");
        assert_eq!(body(&site, "empty.txt").unwrap(), b"");
        assert!(matches!(site.find(b"a b/c"), Some(Entry::Directory(to)) if &**to == "/a%20b/c/"));
        assert!(site.find(b"a b/").is_none(), "a directory without index has nothing to show");
    }

    #[test]
    fn nothing_outside_the_root_and_no_hidden_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "s").unwrap();
        fs::write(root.join(".git/config"), "s").unwrap();
        fs::write(root.join("sub/here"), "h").unwrap();
        symlink(outside.join("secret"), root.join("file-link")).unwrap();
        symlink(&outside, root.join("folder-link")).unwrap();
        symlink("../outside/secret", root.join("relative")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        symlink("sub/here", root.join("inside")).unwrap();
        symlink("..", root.join("sub/circle")).unwrap();
        symlink("/dev/zero", root.join("device")).unwrap();
        let site = site_of(&root);
        assert_eq!(body(&site, "inside").unwrap(), b"h");
        assert_eq!(body(&site, "sub/here").unwrap(), b"h");
        let keys = [
            "file-link",
            "folder-link/secret",
            "relative",
            "dangling",
            ".git/config",
            "device",
            "sub/circle/inside",
        ];
        for key in keys {
            assert!(site.find(key.as_bytes()).is_none(), "{key}");
        }
        assert!(body(&site, "inside").is_some() && site.len() == 3, "{:?}", site);
    }

    #[test]
    fn changes_are_seen_and_what_stayed_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, changed) = (folder.path().join("kept"), folder.path().join("changed"));
        fs::write(&kept, "k").unwrap();
        fs::write(&changed, "before").unwrap();
        let mut stock = stock(folder.path(), 1 << 20);
        assert!(stock.scan().unwrap());
        assert!(!stock.scan().unwrap(), "nothing changed");
        let before = Arc::clone(&stock.site);
        fs::write(&changed, "and after").unwrap();
        assert!(stock.scan().unwrap());
        assert_eq!(body(&stock.site, "changed").unwrap(), b"and after");
        assert_eq!(body(&before, "changed").unwrap(), b"before", "who still sends it sends it whole");
        let same = |site: &Site| match site.find(b"kept") {
            Some(Entry::File(file)) => Arc::as_ptr(file),
            _ => panic!("kept is gone"),
        };
        assert_eq!(same(&before), same(&stock.site));
        stock.free_unused();
        assert_eq!((stock.old_sites.len(), stock.old_files.len()), (1, 1), "still in use");
        drop(before);
        stock.free_unused();
        stock.free_unused();
        assert_eq!((stock.old_sites.len(), stock.old_files.len()), (0, 0));
        fs::remove_file(&kept).unwrap();
        assert!(stock.scan().unwrap());
        assert!(stock.site.find(b"kept").is_none());
    }

    #[test]
    fn memory_is_bounded_and_what_does_not_fit_is_known_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("large"), vec![7; 600]).unwrap();
        let mut stock = stock(folder.path(), 1000);
        stock.scan().unwrap();
        assert!(body(&stock.site, "large").is_some());
        // The new version would fit alone, but a loop may still send the old one.
        let in_use = Arc::clone(&stock.site);
        fs::write(folder.path().join("large"), vec![8; 601]).unwrap();
        assert!(stock.scan().unwrap());
        assert!(matches!(stock.site.find(b"large"), Some(Entry::NotLoaded)));
        drop(in_use);
        stock.free_unused();
        stock.free_unused();
        assert!(stock.scan().unwrap());
        assert_eq!(body(&stock.site, "large").unwrap().len(), 601);
    }

    #[test]
    fn a_thread_brings_changes_to_every_loop_and_ends_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (librarian, shelves) =
            Librarian::start(folder.path(), 1 << 20, Some(Duration::from_millis(5)), 2).unwrap();
        assert!(shelves.iter().all(|shelf| shelf.pop().unwrap().is_empty()));
        fs::write(folder.path().join("new"), "n").unwrap();
        let begin = std::time::Instant::now();
        for shelf in &shelves {
            let site = loop {
                assert!(begin.elapsed() < Duration::from_secs(20), "no new site");
                match shelf.pop() {
                    Some(site) if body(&site, "new").is_some() => break site,
                    _ => thread::sleep(Duration::from_millis(1)),
                }
            };
            assert_eq!(body(&site, "new").unwrap(), b"n");
        }
        drop(librarian);
        assert!(Librarian::start(Path::new("/nonexistent"), 1, None, 1).is_err());
    }
}
