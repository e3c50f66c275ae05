//! Frames of a capture file, read into memory before anything is sent.
//!
//! Classic pcap (microseconds and nanoseconds, either byte order) and pcapng; the parser is the crate
//! `pcap-parser`. The whole capture is held in one block, so replay costs one copy a frame and no system call.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};
use thiserror::Error;

/// Largest capture that is taken into memory.
const MAX_CAPTURE_BYTES: u64 = 1 << 30;

/// The reader's buffer, which a block must fit: the largest snapshot length that tcpdump writes, and room.
const READ_BUFFER_BYTES: usize = 512 * 1024;

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
    /// It ends within a record.
    #[error(
        "{path} ends in the middle of a record behind frame {frames}: it was cut off, or is still being written; `editcap {path} whole.pcap` keeps the whole frames"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Whole frames before the end.
        frames: usize,
    },
    /// A record makes no sense.
    #[error("{path} is damaged behind frame {frames}: {cause}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Whole frames before the damage.
        frames: usize,
        /// What the parser says.
        cause: String,
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
        let mut reader =
            create_reader(READ_BUFFER_BYTES, file).map_err(|_| CaptureError::Format { path: owned() })?;
        let mut capture = Capture::default();
        let mut clock = Clock::default();
        let mut first_ns = None;
        loop {
            let frames = capture.frames.len();
            match reader.next() {
                Ok((consumed, block)) => {
                    if let Some(seen) = clock.frame(&block) {
                        let number = frames + 1;
                        if seen.link_type != Linktype::ETHERNET {
                            return Err(CaptureError::NotEthernet {
                                path: owned(),
                                frame: number,
                                link_type: seen.link_type.0,
                            });
                        }
                        if !(14..=most_bytes).contains(&seen.bytes.len()) {
                            let fix = if seen.bytes.len() < 14 {
                                "`editcap` takes frames out"
                            } else {
                                "raise the MTU, or `editcap -s` shortens frames"
                            };
                            return Err(CaptureError::FrameLength {
                                path: owned(),
                                frame: number,
                                bytes: seen.bytes.len(),
                                most: most_bytes,
                                fix,
                            });
                        }
                        let start = capture.bytes.len();
                        capture.bytes.extend_from_slice(seen.bytes);
                        capture.cut_frames += u64::from(seen.bytes.len() < seen.original_len);
                        let first = *first_ns.get_or_insert(seen.time_ns);
                        let offset_ns = seen.time_ns.saturating_sub(first);
                        capture.frames.push(Record { start, len: seen.bytes.len(), offset_ns });
                    }
                    reader.consume(consumed);
                }
                Err(PcapError::Eof) => break,
                Err(PcapError::Incomplete(_)) => {
                    if reader.reader_exhausted() {
                        return Err(CaptureError::Truncated { path: owned(), frames });
                    }
                    reader.refill().map_err(|error| CaptureError::Damaged {
                        path: owned(),
                        frames,
                        cause: error.to_string(),
                    })?;
                }
                Err(PcapError::UnexpectedEof) => {
                    return Err(CaptureError::Truncated { path: owned(), frames });
                }
                Err(error) => {
                    return Err(CaptureError::Damaged { path: owned(), frames, cause: error.to_string() });
                }
            }
        }
        if capture.frames.is_empty() {
            return Err(CaptureError::Empty { path: owned() });
        }
        Ok(capture)
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

/// One frame as the file has it.
struct Seen<'a> {
    bytes: &'a [u8],
    original_len: usize,
    link_type: Linktype,
    time_ns: u64,
}

/// What must be remembered to read a frame's link type and time: the file's header, or pcapng's interfaces.
#[derive(Default)]
struct Clock {
    legacy: Option<(Linktype, bool)>,
    interfaces: HashMap<u32, Interface>,
}

#[derive(Clone, Copy)]
struct Interface {
    link_type: Linktype,
    units_per_second: u64,
    offset_seconds: i64,
    snaplen: u32,
}

impl Clock {
    fn frame<'a>(&mut self, block: &'a PcapBlockOwned) -> Option<Seen<'a>> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.legacy = Some((header.network, header.is_nanosecond_precision()));
                None
            }
            PcapBlockOwned::Legacy(record) => {
                let (link_type, nanoseconds) = self.legacy?;
                let fraction = u64::from(record.ts_usec) * if nanoseconds { 1 } else { 1000 };
                let time_ns = u64::from(record.ts_sec) * 1_000_000_000 + fraction;
                Some(Seen { bytes: record.data, original_len: record.origlen as usize, link_type, time_ns })
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.interfaces.clear();
                None
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                let id = u32::try_from(self.interfaces.len()).ok()?;
                let known = Interface {
                    link_type: interface.linktype,
                    units_per_second: units_per_second(interface.if_tsresol),
                    offset_seconds: interface.ts_offset(),
                    snaplen: interface.snaplen,
                };
                self.interfaces.insert(id, known);
                None
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = self.interfaces.get(&packet.if_id)?;
                let units = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
                let ns = units * 1_000_000_000 / u128::from(interface.units_per_second);
                let offset_ns = i128::from(interface.offset_seconds) * 1_000_000_000;
                let time_ns = u64::try_from(i128::try_from(ns).unwrap_or(0) + offset_ns).unwrap_or(0);
                let bytes = packet.data.get(..packet.caplen as usize)?;
                Some(Seen {
                    bytes,
                    original_len: packet.origlen as usize,
                    link_type: interface.link_type,
                    time_ns,
                })
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let interface = self.interfaces.get(&0)?;
                // Its length is the original one, cut at the interface's snapshot length (0: none).
                let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
                let len = packet.origlen.min(limit) as usize;
                let bytes = packet.data.get(..len)?;
                Some(Seen {
                    bytes,
                    original_len: packet.origlen as usize,
                    link_type: interface.link_type,
                    time_ns: 0,
                })
            }
            PcapBlockOwned::NG(_) => None,
        }
    }
}

/// Time units in a second by option `if_tsresol`: a power of ten, or of two with the top bit set; microseconds,
/// the format's default, for one that no 64-bit time can have. Source: pcapng §4.2. The parser's own
/// `ts_resolution` (0.17) knows no powers of two.
fn units_per_second(if_tsresol: u8) -> u64 {
    let exponent = u32::from(if_tsresol & 0x7f);
    let units = if if_tsresol & 0x80 == 0 { 10u64.checked_pow(exponent) } else { 1u64.checked_shl(exponent) };
    units.unwrap_or(1_000_000)
}

#[cfg(test)]
mod tests;
