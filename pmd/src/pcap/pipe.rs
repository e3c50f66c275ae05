//! Writing into a pipe that somebody may read later, slowly, or never.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::virtio::transport::poll::poll_writable;

/// How often a wait looks whether it is over, and a pipe without a reader whether it has one.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a reader may take for what is left once it is over.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// A pipe, open for writing; or another thing that is not a file on a disk.
///
/// open(2) waits for a pipe's reader, and write(2) for room, without end and without regard to anything but signals. This
/// waits as well, but only until it is told that it is over.
pub struct Pipe {
    file: File,
    is_over: Box<dyn Fn() -> bool + Send>,
    /// Since when it is.
    over: Option<Instant>,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Pipe {
    /// Whether `path` is there and is none of a file and a folder.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
    }

    /// Opens it for writing; `None` if nobody reads it. `is_over` is asked in each [`write`](Write::write) that has to wait.
    ///
    /// # Errors
    /// errno.
    pub fn open(path: &Path, is_over: impl Fn() -> bool + Send + 'static) -> io::Result<Option<Self>> {
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(file) => Ok(Some(Self { file, is_over: Box::new(is_over), over: None })),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) && is_fifo(path) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`open`](Self::open), but looks every 20 ms whether somebody reads it; `None` if it is over before that.
    ///
    /// # Errors
    /// errno.
    pub fn wait(
        path: &Path,
        is_over: impl Fn() -> bool + Clone + Send + 'static,
    ) -> io::Result<Option<Self>> {
        loop {
            match Self::open(path, is_over.clone())? {
                None if !is_over() => thread::sleep(LOOK_EVERY),
                done => return Ok(done),
            }
        }
    }
}

/// A socket says the same (`ENXIO`), and will say so for ever.
fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| there.file_type().is_fifo())
}

impl Write for Pipe {
    /// Waits for room, at most two seconds once it is over.
    ///
    /// # Errors
    /// `TimedOut` after these; `BrokenPipe` when the reader has gone; otherwise errno.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if (self.is_over)() && self.over.get_or_insert_with(Instant::now).elapsed() > LAST_WITHIN {
                return Err(io::ErrorKind::TimedOut.into());
            }
            poll_writable(self.file.as_fd(), LOOK_EVERY)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A pipe with a name, and a flag that says that it is over.
    struct Bed {
        folder: tempfile::TempDir,
        over: Arc<AtomicBool>,
    }

    impl Bed {
        fn new() -> Self {
            let bed = Self { folder: tempfile::tempdir().unwrap(), over: Arc::default() };
            assert!(Command::new("mkfifo").arg(bed.path()).status().unwrap().success());
            bed
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("pipe")
        }

        fn wait(&self) -> io::Result<Option<Pipe>> {
            let over = Arc::clone(&self.over);
            Pipe::wait(&self.path(), move || over.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_reader_that_comes_later_gets_all_and_its_end_is_a_broken_pipe() {
        let bed = Bed::new();
        assert!(Pipe::is_at(&bed.path()) && !Pipe::is_at(bed.folder.path()));
        assert!(Pipe::open(&bed.path(), || false).unwrap().is_none());
        let path = bed.path();
        // More than a pipe holds, so that the writer waits for room.
        let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                thread::sleep(3 * LOOK_EVERY);
                let mut got = vec![0; 1 << 20];
                File::open(path).unwrap().read_exact(&mut got).unwrap();
                got
            });
            let mut pipe = bed.wait().unwrap().unwrap();
            pipe.write_all(&bytes).unwrap();
            assert!(reader.join().unwrap() == bytes);
            assert_eq!(pipe.write(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn nobody_is_waited_for_once_it_is_over() {
        let bed = Bed::new();
        bed.over.store(true, Ordering::Relaxed);
        assert!(bed.wait().unwrap().is_none());
        // A reader that takes nothing.
        let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(bed.path()).unwrap();
        let mut pipe = bed.wait().unwrap().unwrap();
        assert_eq!(pipe.write_all(&vec![0; 1 << 20]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_is_no_pipe_is_opened_or_an_error_at_once() {
        let bed = Bed::new();
        let open = |path: &Path| Pipe::wait(path, || false);
        open(Path::new("/dev/null")).unwrap().unwrap().write_all(b"gone").unwrap();
        let socket = bed.folder.path().join("socket");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(open(&socket).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let nothing = open(&bed.folder.path().join("nothing")).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
    }
}
