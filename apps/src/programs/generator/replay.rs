//! Frames of a capture file, read into memory before anything is sent.
//!
//! Read as `pcap:` ports read them ([`pmd::pcap`]). The whole capture is held in one block, so replay costs one copy a
//! frame and no system call.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use pmd::pcap::{ETHERNET, Frame, ReadError, Reader};
use thiserror::Error;

/// Largest capture that is taken into memory.
const MAX_CAPTURE_BYTES: u64 = 1 << 30;

/// Frames in memory, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    bytes: Vec<u8>,
    frames: Vec<Record>,
    /// Frames that the capture holds only in part (snapshot length); they are replayed as they are.
    pub cut_frames: u64,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    start: usize,
    len: usize,
    offset_ns: u64,
}

/// Why a capture cannot be replayed.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error("{path} is no pcap or pcapng file; `tcpdump -w` and Wireshark write them")]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// It ends within a record, or has one that makes no sense.
    #[error("{path}: {source}; `editcap {path} whole.pcap` keeps the whole frames")]
    Content {
        /// The file.
        path: PathBuf,
        /// What, and where.
        source: ReadError,
    },
    /// Its frames are not Ethernet.
    #[error(
        "frame {frame} of {path} has link type {link_type}, not Ethernet (1); capture on an Ethernet interface (`tcpdump -i eth1`, not `-i any`)"
    )]
    NotEthernet {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        frame: usize,
        /// As in the file.
        link_type: i32,
    },
    /// A frame does not fit what sends it.
    #[error("frame {frame} of {path} has {bytes} bytes, this port takes 14 to {most}; {fix}")]
    FrameLength {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        frame: usize,
        /// Its bytes, without FCS.
        bytes: usize,
        /// The most that fit.
        most: usize,
        /// What to change.
        fix: &'static str,
    },
    /// There is nothing to send.
    #[error("{path} holds no frames")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It does not fit in memory.
    #[error(
        "{path} has {bytes} bytes, at most {MAX_CAPTURE_BYTES} are taken into memory; `editcap -c` splits it"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

impl Capture {
    /// Reads all frames of `path`; none may be longer than `most_bytes`.
    ///
    /// # Errors
    /// [`CaptureError`], which names the file and the frame.
    pub fn read(path: &Path, most_bytes: usize) -> Result<Self, CaptureError> {
        let owned = || path.to_owned();
        let read_error = |source| CaptureError::Read { path: owned(), source };
        let file = File::open(path).map_err(read_error)?;
        let metadata = file.metadata().map_err(read_error)?;
        if metadata.len() > MAX_CAPTURE_BYTES {
            return Err(CaptureError::TooLarge { path: owned(), bytes: metadata.len() });
        }
        let failed = |error| match error {
            ReadError::Format => CaptureError::Format { path: owned() },
            error => CaptureError::Content { path: owned(), source: error },
        };
        let mut reader = Reader::new(file).map_err(failed)?;
        let mut capture = Capture::default();
        let mut first_ns = None;
        while reader
            .next(|frame| capture.take(frame, path, most_bytes, &mut first_ns))
            .map_err(failed)?
            .transpose()?
            .is_some()
        {}
        if capture.frames.is_empty() {
            return Err(CaptureError::Empty { path: owned() });
        }
        Ok(capture)
    }

    /// Copies one frame behind the others.
    fn take(
        &mut self,
        frame: Frame<'_>,
        path: &Path,
        most_bytes: usize,
        first_ns: &mut Option<u64>,
    ) -> Result<(), CaptureError> {
        let (owned, number, bytes) = (|| path.to_owned(), self.frames.len() + 1, frame.bytes);
        if frame.link_type != ETHERNET {
            return Err(CaptureError::NotEthernet {
                path: owned(),
                frame: number,
                link_type: frame.link_type,
            });
        }
        if !(14..=most_bytes).contains(&bytes.len()) {
            let fix = if bytes.len() < 14 {
                "`editcap` takes frames out"
            } else {
                "raise the MTU, or `editcap -s` shortens frames"
            };
            let bytes = bytes.len();
            return Err(CaptureError::FrameLength {
                path: owned(),
                frame: number,
                bytes,
                most: most_bytes,
                fix,
            });
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.cut_frames += u64::from(bytes.len() < frame.original_len);
        let first = *first_ns.get_or_insert(frame.time_ns);
        let offset_ns = frame.time_ns.saturating_sub(first);
        self.frames.push(Record { start, len: bytes.len(), offset_ns });
        Ok(())
    }

    /// Number of frames; never 0.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Frame `index` and its time after the first in nanoseconds. Times never run backwards further than 0.
    ///
    /// # Panics
    /// If there is no such frame.
    #[inline]
    pub fn frame(&self, index: usize) -> (&[u8], u64) {
        let Record { start, len, offset_ns } = self.frames[index];
        (&self.bytes[start..start + len], offset_ns)
    }

    /// Time of the last frame after the first, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.frames.iter().map(|record| record.offset_ns).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
