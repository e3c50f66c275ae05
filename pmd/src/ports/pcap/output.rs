//! The thread that writes what was sent.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{PcapError, Shared};
use crate::pcap::{FrameConsumer, FrameProducer, Pipe, Writer, frame_ring};

/// Bytes that wait for the file at most.
const RING_BYTES: usize = 16 << 20;

/// Bytes of one write.
const BUFFER_BYTES: usize = 256 << 10;

/// How long the thread sleeps when there is nothing to write: the ring fills in 1.6 ms at 10 Gbyte/s.
const WAIT: Duration = Duration::from_millis(1);

/// How long at most, when there has been nothing for a while.
const LONG_WAIT: Duration = Duration::from_millis(16);

/// Where a capture goes.
type Out = Writer<BufWriter<Box<dyn Write + Send>>>;

/// Makes the file, with its header, and starts the thread, which waits for the reader of a pipe that has none yet.
pub(super) fn start(
    path: &Path,
    port: &str,
    shared: Arc<Shared>,
) -> Result<(FrameProducer, JoinHandle<()>), PcapError> {
    let (producer, consumer) = frame_ring(RING_BYTES);
    let out: Option<Box<dyn Write + Send>> = match Pipe::is_at(path) {
        true => {
            let shared = Arc::clone(&shared);
            let pipe =
                Pipe::open(path, move || shared.is_stopped()).map_err(|source| failed(path, source))?;
            pipe.map(|pipe| -> Box<dyn Write + Send> { Box::new(pipe) })
        }
        false => Some(Box::new(create(path)?)),
    };
    let out = match out {
        Some(out) => Some(begin(out, port).map_err(|source| failed(path, source))?),
        None => {
            log::warn!("{port} waits for somebody who reads the pipe");
            None
        }
    };
    let job = Job { path: path.to_owned(), port: port.to_owned(), consumer, shared };
    let thread = thread::Builder::new()
        .name("pcap-out".to_owned())
        .spawn(move || job.run(out))
        .map_err(|source| PcapError::Thread { path: path.to_owned(), source })?;
    Ok((producer, thread))
}

fn failed(path: &Path, source: io::Error) -> PcapError {
    PcapError::Write { path: path.to_owned(), source }
}

/// Writes the header.
fn begin(out: Box<dyn Write + Send>, port: &str) -> io::Result<Out> {
    let mut writer = Writer::new(BufWriter::with_capacity(BUFFER_BYTES, out))?;
    writer.interface(port, "sent by bywash", 0)?;
    writer.flush()?;
    Ok(writer)
}

/// An empty file that is ours alone.
fn create(path: &Path) -> Result<File, PcapError> {
    let failed = |source| failed(path, source);
    // Not emptied before it is known that nobody else writes it.
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(PcapError::Busy { path: path.to_owned() }),
        // File systems without locks.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    file.set_len(0).map_err(failed)?;
    Ok(file)
}

struct Job {
    path: PathBuf,
    port: String,
    consumer: FrameConsumer,
    shared: Arc<Shared>,
}

impl Job {
    fn run(mut self, out: Option<Out>) {
        let done = match out {
            Some(out) => self.write(out),
            None => self.wait().and_then(|out| self.write(out)),
        };
        let Err(error) = done else { return };
        let path = self.path.display();
        if error.kind() == io::ErrorKind::TimedOut {
            log::warn!("{path}: nobody reads the pipe; what is left is not written");
            return;
        }
        log::error!("cannot write {path} any further: {error}");
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        // ORDERING: Relaxed. A number on its own; partners: the loads in `PcapQueue` and `PcapPort::halt`.
        self.shared.write_errno.store(errno, Ordering::Relaxed);
    }

    /// Waits for a reader of the pipe; what is sent before waits in the ring.
    fn wait(&self) -> io::Result<Out> {
        let shared = Arc::clone(&self.shared);
        let pipe = Pipe::wait(&self.path, move || shared.is_stopped())?;
        begin(Box::new(pipe.ok_or(io::ErrorKind::TimedOut)?), &self.port)
    }

    /// Until the port is stopped or the queue pair gone, and everything before that is written.
    fn write(&mut self, mut writer: Out) -> io::Result<()> {
        let mut wait = WAIT;
        loop {
            // Looked at before the ring: what was put in before is found in it.
            let last = self.shared.is_stopped() || self.consumer.is_abandoned();
            let mut wrote = false;
            while let Some(frame) = self.consumer.pop(|frame, first, second| {
                writer.frame(0, frame.stamp, frame.original_len, &[first, second], None)
            }) {
                frame?;
                wrote = true;
            }
            if wrote {
                wait = WAIT;
            } else {
                // A pause: somebody may be looking at the file.
                writer.flush()?;
                if last {
                    return Ok(());
                }
                thread::park_timeout(wait);
                wait = (wait * 2).min(LONG_WAIT);
            }
        }
    }
}
