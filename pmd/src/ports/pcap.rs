//! Files as a port: what is received comes from a capture, what is sent goes into one.
//!
//! ```text
//!   in=a.pcap    ─► thread pcap-in ──► frame ring ─► rx_burst ─► mbufs     as fast as they are taken, or at their times
//!   out=b.pcapng ◄─ thread pcap-out ◄─ frame ring ◄─ tx_burst              stamped with the wall clock, in nanoseconds
//! ```
//!
//! The core touches no file: it copies frames out of and into bounded rings. A ring of the reader that runs empty looks
//! like a link without traffic; a ring of the writer that is full like a transmit queue that is full, so a disk that
//! cannot follow shows as `tx_dropped`. Frames sent by a port without `out=` count as `tx_errors`.
//!
//! A capture that ends within its last record is read up to there, and a warning says so. One that makes no sense
//! further on delivers what is before, and then the queue pair has a [`FileDamaged`](crate::port::QueueFault::FileDamaged).

mod input;
mod output;
mod queue;
mod spec;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use thiserror::Error;

use crate::pcap::ReadError;
use crate::port::{Input, Link, Offloads, OpenConfig, Port, PortEvent, PortInfo, QueuePair};
use crate::virtio::transport::TransportError;
use queue::PcapQueue;
pub(crate) use spec::PcapSpec;

/// The longest frame, Ethernet header and VLAN tag included: what segmentation offload may have left in a capture.
const MAX_FRAME_BYTES: usize = 65_535 + 18;

/// Why a capture cannot be opened.
#[derive(Debug, Error)]
pub enum PcapError {
    /// The capture to read cannot be opened.
    #[error("cannot read capture {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// It is none, or damaged at its very beginning.
    #[error("capture {path}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: ReadError,
    },
    /// Its first frame is not Ethernet.
    #[error(
        "capture {path} has frames of link type {link_type}, not Ethernet (1); capture on an Ethernet interface \
         (`tcpdump -i eth1`, not `-i any`)"
    )]
    NotEthernet {
        /// The file.
        path: PathBuf,
        /// By tcpdump.org's registry.
        link_type: i32,
    },
    /// The capture to write cannot be made.
    #[error("cannot write capture {path}; is the folder there, writable and not full?")]
    Write {
        /// The file.
        path: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// Reading and writing one file would empty it before it is read.
    #[error("{path} is to be read and written at once; give `out=` another name")]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// Somebody writes it.
    #[error("another port or process writes {path}; give each its own file")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// No thread.
    #[error("cannot start the thread for {path}")]
    Thread {
        /// The file.
        path: PathBuf,
        /// errno.
        source: io::Error,
    },
}

/// What the port, its queue pair and its threads tell each other. Frames go through the rings, which order themselves.
#[derive(Debug, Default)]
struct Shared {
    /// The port was stopped: the queue pair moves nothing more, the threads come to their end.
    stopped: AtomicBool,
    /// The reader has put in its last frame.
    read: AtomicBool,
    /// The queue pair has taken it out.
    ended: AtomicBool,
    /// One more than the offset at which the input is damaged.
    damage: AtomicU64,
    /// errno of what the writer could not write.
    write_errno: AtomicI32,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        // ORDERING: Relaxed. A flag on its own; partner: the store in `PcapPort::halt`.
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Files, open.
pub(crate) struct PcapPort {
    text: String,
    info: PortInfo,
    has_input: bool,
    has_output: bool,
    told_of_the_end: bool,
    shared: Arc<Shared>,
    pair: Option<PcapQueue>,
    threads: Vec<JoinHandle<()>>,
}

impl PcapPort {
    /// Opens the files and reads the first frame.
    pub(crate) fn open(
        text: String,
        spec: &PcapSpec,
        mac: [u8; 6],
        config: &OpenConfig<'_>,
    ) -> Result<Self, PcapError> {
        let shared = Arc::new(Shared::default());
        if let (Some(input), Some(output)) = (&spec.input, &spec.output)
            && is_same(input, output)
        {
            return Err(PcapError::SameFile { path: output.clone() });
        }
        let mut port = Self {
            text,
            info: PortInfo {
                driver: "pcap",
                mac,
                mtu: 1500,
                rx_descriptors: config.rx_descriptors,
                tx_descriptors: config.tx_descriptors,
                queue_pairs: 1,
                features: 0,
                offloads: Offloads::default(),
            },
            has_input: spec.input.is_some(),
            has_output: spec.output.is_some(),
            told_of_the_end: false,
            shared: Arc::clone(&shared),
            pair: None,
            threads: Vec::new(),
        };
        // The input first: a mistake there should not empty the output.
        let input = match &spec.input {
            None => None,
            Some(path) => {
                let (frames, thread) = input::start(path, spec.passes, Arc::clone(&shared))?;
                port.threads.push(thread);
                Some(frames)
            }
        };
        let output = match &spec.output {
            None => None,
            Some(path) => {
                let (frames, thread) = output::start(path, &port.text, Arc::clone(&shared))?;
                port.threads.push(thread);
                Some(frames)
            }
        };
        port.pair = Some(PcapQueue::new(input, output, spec.speed, shared, config));
        Ok(port)
    }

    /// Ends the threads; what was sent before is written.
    fn halt(&mut self) -> Result<(), TransportError> {
        // ORDERING: Relaxed. The threads are joined, and the rings carry the frames. Partner: `Shared::is_stopped`.
        self.shared.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A file takes as long as it takes, a pipe that nobody reads two seconds.
            let _ = thread.join();
        }
        // ORDERING: Relaxed. The thread that wrote it is joined.
        match self.shared.write_errno.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            errno => {
                let source = io::Error::from_raw_os_error(errno);
                Err(TransportError::Io { what: "write the capture to its end", source })
            }
        }
    }
}

fn is_same(input: &Path, output: &Path) -> bool {
    matches!((input.canonicalize(), output.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Port for PcapPort {
    fn name(&self) -> &str {
        &self.text
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Down when stopped, and at the end of the input where nothing is written either.
    fn link(&self) -> Link {
        let reads = matches!(self.input(), Input::Left);
        if (reads || self.has_output) && !self.shared.is_stopped() { Link::Up } else { Link::Down }
    }

    /// The end of an input is one of the port where nothing is written either.
    fn events(&mut self, visit: &mut dyn FnMut(PortEvent)) {
        if self.has_output || self.told_of_the_end || self.input() != Input::Ended {
            return;
        }
        self.told_of_the_end = true;
        // ORDERING: Relaxed. Stored before what made `input` say that it has ended.
        let why = match self.shared.damage.load(Ordering::Relaxed).checked_sub(1) {
            None => "its capture is at its end".to_owned(),
            Some(offset) => format!("its capture is damaged at offset {offset}"),
        };
        visit(PortEvent::Gone { why });
    }

    fn input(&self) -> Input {
        match self.has_input {
            false => Input::None,
            // ORDERING: Relaxed. A flag on its own; partner: the store in `PcapQueue`.
            true if self.shared.ended.load(Ordering::Relaxed) => Input::Ended,
            true => Input::Left,
        }
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        self.pair.take().into_iter().map(|pair| -> Box<dyn QueuePair> { Box::new(pair) }).collect()
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.halt()
    }
}

impl Drop for PcapPort {
    fn drop(&mut self) {
        if let Err(error) = self.halt() {
            log::error!("{}: {error}", self.text);
        }
    }
}

#[cfg(test)]
mod tests;
