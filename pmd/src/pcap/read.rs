//! Reading capture files: classic pcap (microseconds and nanoseconds, either byte order) and pcapng. The parser is the
//! crate `pcap-parser`; here are its blocks made frames with a time.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use pcap_parser::pcapng::{EnhancedPacketBlock, OptionCode};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, LegacyPcapReader, Linktype, PcapBlockOwned, PcapError, PcapNGReader};
use thiserror::Error;

use super::write::Direction;
use super::write::option::{EPB_FLAGS, EPB_QUEUE};

/// Bytes of the buffer that a block must fit, to begin with.
const BUFFER_BYTES: usize = 128 << 10;

/// How far that grows for a longer block: frames of up to 256 KiB, name resolution and secrets of some captures.
const MAX_BUFFER_BYTES: usize = 16 << 20;

/// Type of a pcapng Section Header Block, the same in both byte orders. Source: pcapng §4.1.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Its byte-order magic, as a little-endian machine writes it.
const BYTE_ORDER_LE: [u8; 4] = 0x1a2b_3c4d_u32.to_le_bytes();

/// Type, length and byte-order magic.
const SECTION_START_BYTES: usize = 12;

/// The header of a classic capture. Source: draft-ietf-opsawg-pcap §4.
const CLASSIC_HEADER_BYTES: usize = 24;

/// Interfaces of one section that are remembered. Wireshark on `any` writes one a device; a file with more is hostile.
const MAX_INTERFACES: usize = 4096;

/// One frame as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its bytes, without FCS.
    pub bytes: &'a [u8],
    /// How long it was when it was captured: more than `bytes` if the capture's snapshot length cut it.
    pub original_len: usize,
    /// What kind of frame, by tcpdump.org's registry: [`ETHERNET`](super::ETHERNET) or another.
    pub link_type: i32,
    /// When, in nanoseconds since 1970; 0 where the file does not say.
    pub time_ns: u64,
    /// Number of the interface in the section, 0 in classic pcap.
    pub interface: u32,
    /// Which way it went, and through which queue (0 if that is not said), where the file says.
    pub way: Option<(Direction, u16)>,
}

/// Why a capture cannot be read, or not further. Offsets are bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Neither pcap nor pcapng.
    #[error("no pcap or pcapng file; `tcpdump -w` and Wireshark write them")]
    Format,
    /// It ends within a block.
    #[error(
        "ends in the middle of a record at offset {offset}, behind frame {frames}: it was cut off, or is still being \
         written"
    )]
    Truncated {
        /// Where the unfinished record begins.
        offset: u64,
        /// Whole frames before it.
        frames: u64,
    },
    /// A block makes no sense.
    #[error("damaged at offset {offset}, behind frame {frames}: {cause}")]
    Damaged {
        /// Where the block begins.
        offset: u64,
        /// Whole frames before it.
        frames: u64,
        /// What the parser says.
        cause: String,
    },
}

/// Frames of a capture, in order. Memory: the block in hand, at most 16 MiB, and what is known of 4,096 interfaces.
pub struct Reader {
    blocks: Box<dyn PcapReaderIterator + Send>,
    /// Bytes of the block that was shown last.
    shown: usize,
    clock: Clock,
    frames: u64,
    statistics: Vec<Statistics>,
}

/// What a capture says at its end of one interface: pcapng's Interface Statistics Block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Number of the interface.
    pub interface: u32,
    /// Frames that passed it.
    pub received: u64,
    /// Those of them that the capture missed.
    pub dropped: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads the first block of `input`, in as many pieces as it comes, and nothing behind it: more may not be there yet.
    /// Blocks for as long as the input does.
    ///
    /// # Errors
    /// [`ReadError::Format`].
    pub fn new(mut input: impl Read + Send + 'static) -> Result<Self, ReadError> {
        let head = head(&mut input)?;
        let is_pcapng = head.starts_with(&SECTION_HEADER);
        // The parser looks at what one read gives it, and `chain` does not read past `head` within one.
        let input = Cursor::new(head).chain(input);
        let blocks: Box<dyn PcapReaderIterator + Send> = if is_pcapng {
            Box::new(PcapNGReader::new(BUFFER_BYTES, input).map_err(|_| ReadError::Format)?)
        } else {
            Box::new(LegacyPcapReader::new(BUFFER_BYTES, input).map_err(|_| ReadError::Format)?)
        };
        Ok(Self { blocks, shown: 0, clock: Clock::default(), frames: 0, statistics: Vec::new() })
    }

    /// Frames read until now.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Where the block that was read last begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.blocks.consumed() as u64
    }

    /// What the capture said of its interfaces until now; the last word of each counts.
    #[must_use]
    pub fn statistics(&self) -> &[Statistics] {
        &self.statistics
    }

    /// Shows the next frame to `take`; `None` at the end. Blocks for as long as the input does.
    ///
    /// # Errors
    /// [`ReadError`]; the frames before it were whole.
    pub fn next<R>(&mut self, mut take: impl FnMut(Frame<'_>) -> R) -> Result<Option<R>, ReadError> {
        loop {
            let shown = std::mem::take(&mut self.shown);
            if shown > 0 {
                self.blocks.consume(shown);
            }
            let (offset, frames) = (self.offset(), self.frames);
            let problem = match self.blocks.next() {
                Ok((bytes, block)) => {
                    self.shown = bytes;
                    if let Some(statistics) = statistics(&block) {
                        self.statistics.retain(|old| old.interface != statistics.interface);
                        if self.statistics.len() < MAX_INTERFACES {
                            self.statistics.push(statistics);
                        }
                    }
                    if let Some(frame) = self.clock.frame(&block) {
                        self.frames += 1;
                        return Ok(Some(take(frame)));
                    }
                    continue;
                }
                Err(error) => Problem::of(&error),
            };
            let damaged = |cause: String| ReadError::Damaged { offset, frames, cause };
            match problem {
                Problem::End => return Ok(None),
                Problem::MoreNeeded if !self.blocks.reader_exhausted() => {
                    self.blocks.refill().map_err(|_| damaged("it cannot be read further".to_owned()))?;
                }
                Problem::MoreNeeded | Problem::Cut => return Err(ReadError::Truncated { offset, frames }),
                Problem::Long => {
                    let too_long = || damaged(format!("a record of more than {MAX_BUFFER_BYTES} bytes"));
                    self.grow().ok_or_else(too_long)?;
                }
                Problem::Other(cause) => return Err(damaged(cause.to_owned())),
            }
        }
    }

    /// Makes room for a longer block, and reads on.
    fn grow(&mut self) -> Option<()> {
        let next = (self.blocks.data().len() * 2).max(BUFFER_BYTES * 2);
        (next <= MAX_BUFFER_BYTES && self.blocks.grow(next)).then_some(())?;
        self.blocks.refill().ok()
    }
}

/// The first block: a pcapng section header, or the header of a classic capture.
fn head(input: &mut impl Read) -> Result<Vec<u8>, ReadError> {
    let mut head = vec![0; SECTION_START_BYTES];
    input.read_exact(&mut head).map_err(|_| ReadError::Format)?;
    let len = if head.starts_with(&SECTION_HEADER) {
        let word = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        let len = match word(8) {
            BYTE_ORDER_LE => u32::from_le_bytes(word(4)),
            _ => u32::from_be_bytes(word(4)),
        };
        len as usize
    } else {
        CLASSIC_HEADER_BYTES
    };
    if !(SECTION_START_BYTES..=BUFFER_BYTES).contains(&len) {
        return Err(ReadError::Format);
    }
    head.resize(len, 0);
    input.read_exact(&mut head[SECTION_START_BYTES..]).map_err(|_| ReadError::Format)?;
    Ok(head)
}

/// What the parser stumbled over; its own words have the bytes of the block in them.
enum Problem {
    End,
    MoreNeeded,
    Cut,
    Long,
    Other(&'static str),
}

impl Problem {
    fn of(error: &PcapError<&[u8]>) -> Self {
        match error {
            PcapError::Eof => Self::End,
            PcapError::Incomplete(_) => Self::MoreNeeded,
            PcapError::UnexpectedEof => Self::Cut,
            PcapError::BufferTooSmall => Self::Long,
            PcapError::ReadError => Self::Other("it cannot be read further"),
            _ => Self::Other("the record contradicts itself"),
        }
    }
}

fn statistics(block: &PcapBlockOwned<'_>) -> Option<Statistics> {
    let PcapBlockOwned::NG(Block::InterfaceStatistics(block)) = block else { return None };
    let received = block.isb_ifrecv().and_then(Result::ok).unwrap_or_default();
    let dropped = block.isb_ifdrop().and_then(Result::ok).unwrap_or_default();
    Some(Statistics { interface: block.if_id, received, dropped })
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
    fn frame<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Option<Frame<'a>> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.legacy = Some((header.network, header.is_nanosecond_precision()));
                None
            }
            PcapBlockOwned::Legacy(record) => {
                let (link_type, nanoseconds) = self.legacy?;
                let fraction = u64::from(record.ts_usec) * if nanoseconds { 1 } else { 1000 };
                let time_ns = u64::from(record.ts_sec) * 1_000_000_000 + fraction;
                let original_len = record.origlen as usize;
                Some(Frame {
                    bytes: record.data,
                    original_len,
                    link_type: link_type.0,
                    time_ns,
                    interface: 0,
                    way: None,
                })
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
                if self.interfaces.len() < MAX_INTERFACES {
                    self.interfaces.insert(id, known);
                }
                None
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = self.interfaces.get(&packet.if_id)?;
                let units = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
                let ns = units * 1_000_000_000 / u128::from(interface.units_per_second);
                let offset_ns = i128::from(interface.offset_seconds) * 1_000_000_000;
                let time_ns = u64::try_from(i128::try_from(ns).unwrap_or(0) + offset_ns).unwrap_or(0);
                Some(Frame {
                    bytes: packet.data.get(..packet.caplen as usize)?,
                    original_len: packet.origlen as usize,
                    link_type: interface.link_type.0,
                    time_ns,
                    interface: packet.if_id,
                    way: way(packet),
                })
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let interface = self.interfaces.get(&0)?;
                // Its length is the original one, cut at the interface's snapshot length (0: none).
                let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
                let len = packet.origlen.min(limit) as usize;
                Some(Frame {
                    bytes: packet.data.get(..len)?,
                    original_len: packet.origlen as usize,
                    link_type: interface.link_type.0,
                    time_ns: 0,
                    interface: 0,
                    way: None,
                })
            }
            PcapBlockOwned::NG(_) => None,
        }
    }
}

/// What the options `epb_flags` and `epb_queue` say. Source: pcapng §4.3.
fn way(packet: &EnhancedPacketBlock<'_>) -> Option<(Direction, u16)> {
    let word = |code| {
        let option = packet.options.iter().find(|option| option.code == OptionCode(code))?;
        Some(u32::from_le_bytes(option.value.get(..4)?.try_into().ok()?))
    };
    let direction = match word(EPB_FLAGS)? & 0b11 {
        0b01 => Direction::Rx,
        0b10 => Direction::Tx,
        _ => return None,
    };
    Some((direction, word(EPB_QUEUE).and_then(|queue| queue.try_into().ok()).unwrap_or(0)))
}

/// Time units in a second by option `if_tsresol`: a power of ten, or of two with the top bit set; microseconds,
/// the format's default, for one that no 64-bit time can have. Source: pcapng §4.2. The parser's own
/// `ts_resolution` (0.17) knows no powers of two.
fn units_per_second(if_tsresol: u8) -> u64 {
    let exponent = u32::from(if_tsresol & 0x7f);
    let units = if if_tsresol & 0x80 == 0 { 10u64.checked_pow(exponent) } else { 1u64.checked_shl(exponent) };
    units.unwrap_or(1_000_000)
}
