//! The thread that writes what was sent.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{PcapError, Shared};
use crate::pcap::{FrameConsumer, FrameProducer, Writer, frame_ring};

/// Bytes that wait for the file at most.
const RING_BYTES: usize = 16 << 20;

/// Bytes of one write.
const BUFFER_BYTES: usize = 256 << 10;

/// How long the thread sleeps when there is nothing to write: the ring fills in 1.6 ms at 10 Gbyte/s.
const WAIT: Duration = Duration::from_millis(1);

/// How long at most, when there has been nothing for a while.
const LONG_WAIT: Duration = Duration::from_millis(16);

/// Makes the file, with its header, and starts the thread.
pub(super) fn start(
    path: &Path,
    port: &str,
    shared: Arc<Shared>,
) -> Result<(FrameProducer, JoinHandle<()>), PcapError> {
    let failed = |source| PcapError::Write { path: path.to_owned(), source };
    let (producer, consumer) = frame_ring(RING_BYTES);
    let file = create(path)?;
    let begin = || {
        let mut writer = Writer::new(BufWriter::with_capacity(BUFFER_BYTES, file))?;
        writer.interface(port, "sent by bywash", 0)?;
        writer.flush()?;
        Ok(writer)
    };
    let writer = begin().map_err(failed)?;
    let job = Job { path: path.to_owned(), writer, consumer, shared };
    let thread = thread::Builder::new()
        .name("pcap-out".to_owned())
        .spawn(move || job.run())
        .map_err(|source| PcapError::Thread { path: path.to_owned(), source })?;
    Ok((producer, thread))
}

/// An empty file that is ours alone.
fn create(path: &Path) -> Result<File, PcapError> {
    let failed = |source| PcapError::Write { path: path.to_owned(), source };
    // Not emptied before it is known that nobody else writes it.
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(PcapError::Busy { path: path.to_owned() }),
            // File systems without locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        file.set_len(0).map_err(failed)?;
    }
    Ok(file)
}

struct Job {
    path: PathBuf,
    writer: Writer<BufWriter<File>>,
    consumer: FrameConsumer,
    shared: Arc<Shared>,
}

impl Job {
    fn run(mut self) {
        if let Err(error) = self.write() {
            log::error!("cannot write {} any further: {error}", self.path.display());
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            // ORDERING: Relaxed. A number on its own; partners: the loads in `PcapQueue` and `PcapPort::halt`.
            self.shared.write_errno.store(errno, Ordering::Relaxed);
        }
    }

    /// Until the port is stopped or the queue pair gone, and everything before that is written.
    fn write(&mut self) -> io::Result<()> {
        let mut wait = WAIT;
        loop {
            // Looked at before the ring: what was put in before is found in it.
            let last = self.shared.is_stopped() || self.consumer.is_abandoned();
            let mut wrote = false;
            while let Some(frame) = self.consumer.pop(|frame, first, second| {
                self.writer.frame(0, frame.stamp, frame.original_len, &[first, second], None)
            }) {
                frame?;
                wrote = true;
            }
            if wrote {
                wait = WAIT;
            } else {
                // A pause: somebody may be looking at the file.
                self.writer.flush()?;
                if last {
                    return Ok(());
                }
                thread::park_timeout(wait);
                wait = (wait * 2).min(LONG_WAIT);
            }
        }
    }
}
