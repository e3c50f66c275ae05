//! The thread that reads a capture, pass after pass, into the ring.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{MAX_FRAME_BYTES, PcapError, Shared};
use crate::pcap::{ETHERNET, FrameConsumer, FrameProducer, ReadError, Reader, Stamped, frame_ring};
use crate::virtio::transport::poll::poll;

/// Bytes that wait for the core at most.
const RING_BYTES: usize = 4 << 20;

/// How long the thread waits for room in the ring: half of it, at 10 Gbyte/s, is 0.2 ms.
const WAIT: Duration = Duration::from_micros(200);

/// How often a thread that waits for a pipe looks whether the port was stopped.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Opens the capture, puts its first frame into the ring and starts the thread that reads the rest. A pipe is left to
/// the thread from its beginning: it may be long until somebody writes it.
pub(super) fn start(
    path: &Path,
    passes: Option<u64>,
    shared: Arc<Shared>,
) -> Result<(FrameConsumer, JoinHandle<()>), PcapError> {
    let (producer, consumer) = frame_ring(RING_BYTES);
    let source = Source::open(path, &shared)?;
    let mut pass = Pass { path: path.to_owned(), passes, shared, producer, clock: Clock::default(), cut: 0 };
    let begin = if source.waits { Begin::Pipe(source) } else { Begin::File(pass.first(source)?) };
    let thread = thread::Builder::new()
        .name("pcap-in".to_owned())
        .spawn(move || {
            let reader = match begin {
                Begin::File(reader) => reader,
                Begin::Pipe(source) => pass.begin(source),
            };
            pass.run(reader);
        })
        .map_err(|source| PcapError::Thread { path: path.to_owned(), source })?;
    Ok((consumer, thread))
}

/// What the thread starts with.
enum Begin {
    /// A file, read as far as its first frame; `None`: it has no more.
    File(Option<Reader>),
    /// A pipe, of which nothing was read.
    Pipe(Source),
}

/// A file; or a pipe, whose end is also that the port is stopped.
struct Source {
    file: File,
    waits: bool,
    shared: Arc<Shared>,
}

impl Source {
    /// Does not wait for somebody to write a pipe.
    fn open(path: &Path, shared: &Arc<Shared>) -> Result<Self, PcapError> {
        let failed = |source| PcapError::Read { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?;
        if kind.is_dir() {
            return Err(failed(io::Error::from_raw_os_error(libc::EISDIR)));
        }
        Ok(Self { file, waits: !kind.is_file(), shared: Arc::clone(shared) })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.waits {
            return self.file.read(buffer);
        }
        loop {
            let [ready] = poll([self.file.as_fd()], Some(LOOK_EVERY))?;
            if ready.readable || ready.gone {
                match self.file.read(buffer) {
                    // Another reader of the pipe was faster.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            }
            if self.shared.is_stopped() {
                return Ok(0);
            }
        }
    }
}

/// Why no more frames come from a capture.
enum Stop {
    Capture(ReadError),
    NotEthernet(i32),
    /// The port was stopped.
    Told,
}

/// Makes times of all passes one line that never runs backwards.
#[derive(Default)]
struct Clock {
    first_ns: Option<u64>,
    /// Where this pass began.
    begin_ns: u64,
    last_ns: u64,
}

impl Clock {
    fn at(&mut self, time_ns: u64) -> u64 {
        let first = *self.first_ns.get_or_insert(time_ns);
        self.last_ns = self.last_ns.max(self.begin_ns + time_ns.saturating_sub(first));
        self.last_ns
    }

    fn next_pass(&mut self) {
        (self.first_ns, self.begin_ns) = (None, self.last_ns);
    }
}

struct Pass {
    path: PathBuf,
    passes: Option<u64>,
    shared: Arc<Shared>,
    producer: FrameProducer,
    clock: Clock,
    /// Frames of which the capture has only a part.
    cut: u64,
}

impl Pass {
    /// Puts a file's first frame into the ring, so that mistakes in naming it are told at once.
    fn first(&mut self, source: Source) -> Result<Option<Reader>, PcapError> {
        let content = |source| PcapError::Content { path: self.path.clone(), source };
        let mut reader = Reader::new(source).map_err(content)?;
        match self.one(&mut reader) {
            Ok(true) => Ok(Some(reader)),
            // An empty capture: nothing to repeat either.
            Ok(false) | Err(Stop::Told) => Ok(None),
            Err(Stop::Capture(error @ ReadError::Truncated { .. })) => {
                log::warn!("{}: {error}", self.path.display());
                Ok(None)
            }
            Err(Stop::Capture(source)) => Err(PcapError::Content { path: self.path.clone(), source }),
            Err(Stop::NotEthernet(link_type)) => {
                Err(PcapError::NotEthernet { path: self.path.clone(), link_type })
            }
        }
    }

    /// Waits for the beginning of a pipe; `None` if it is none of a capture, or the port was stopped.
    fn begin(&self, source: Source) -> Option<Reader> {
        match Reader::new(source) {
            Ok(reader) => Some(reader),
            Err(_) if self.shared.is_stopped() => None,
            Err(error) => {
                log::error!("{}: {error}", self.path.display());
                self.damaged(0);
                None
            }
        }
    }

    /// Reads the first pass to its end, and the others.
    fn run(mut self, mut reader: Option<Reader>) {
        let mut left = self.passes;
        while let Some(reading) = &mut reader {
            match self.read_on(reading) {
                Ok(()) => {}
                Err(Stop::Told) => break,
                // A pipe of which more might have come.
                Err(_) if self.shared.is_stopped() => break,
                Err(Stop::NotEthernet(link_type)) => {
                    let frame = reading.frames();
                    let path = self.path.display();
                    log::error!("{path}: frame {frame} has link type {link_type}, not Ethernet (1)");
                    self.damaged(reading.offset());
                    break;
                }
                Err(Stop::Capture(error @ ReadError::Truncated { .. })) => {
                    log::warn!("{}: {error}; its whole frames were read", self.path.display());
                }
                Err(Stop::Capture(error)) => {
                    log::error!("{}: {error}", self.path.display());
                    self.damaged(reading.offset());
                    break;
                }
            }
            if self.cut > 0 {
                log::warn!(
                    "{}: {} frames are there only in part (snapshot length), and were received as they are",
                    self.path.display(),
                    self.cut
                );
                self.cut = 0;
            }
            left = left.map(|left| left - 1);
            if left == Some(0) || reading.frames() == 0 {
                break;
            }
            self.clock.next_pass();
            reader = match Source::open(&self.path, &self.shared) {
                Ok(source) => self.begin(source),
                Err(error) => {
                    log::error!("{error}, which was there before");
                    None
                }
            };
        }
        // ORDERING: Release. All frames were put in before. Partner: the Acquire in `PcapQueue::look_for_the_end`.
        self.shared.read.store(true, Ordering::Release);
    }

    fn damaged(&self, offset: u64) {
        // ORDERING: Relaxed. Comes before the Release of `read`, after which it is looked at.
        self.shared.damage.store(offset.saturating_add(1), Ordering::Relaxed);
    }

    fn read_on(&mut self, reader: &mut Reader) -> Result<(), Stop> {
        while self.one(reader)? {}
        Ok(())
    }

    /// Puts one frame into the ring, once there is room; false at the end.
    fn one(&mut self, reader: &mut Reader) -> Result<bool, Stop> {
        let Self { producer, shared, clock, cut, .. } = self;
        let put = reader.next(|frame| {
            if frame.link_type != ETHERNET {
                return Err(Stop::NotEthernet(frame.link_type));
            }
            let bytes = frame.bytes;
            *cut += u64::from(bytes.len() < frame.original_len);
            // Longer ones travel without their bytes, to be counted where errors are.
            let sent = if bytes.len() > MAX_FRAME_BYTES { &[] } else { bytes };
            let stamped = Stamped {
                stamp: clock.at(frame.time_ns),
                len: u32::try_from(sent.len()).unwrap_or_default(),
                original_len: u32::try_from(frame.original_len).unwrap_or(u32::MAX),
                tag: 0,
            };
            while !producer.push(stamped, std::iter::once(sent)) {
                if shared.is_stopped() || producer.is_abandoned() {
                    return Err(Stop::Told);
                }
                thread::park_timeout(WAIT);
            }
            Ok(())
        });
        match put {
            Ok(Some(Ok(()))) if shared.is_stopped() => Err(Stop::Told),
            Ok(Some(Ok(()))) => Ok(true),
            Ok(Some(Err(stop))) => Err(stop),
            Ok(None) => Ok(false),
            Err(error) => Err(Stop::Capture(error)),
        }
    }
}
