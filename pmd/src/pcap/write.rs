//! Writing pcapng: one section, its interfaces, frames with nanoseconds, and at the end what was missed.
//!
//! Four kinds of blocks, put together in a buffer that is reused: the crate that reads could write them too, for an
//! allocation a frame and an async executor in the dependencies.
//! Source: pcapng (draft-ietf-opsawg-pcapng) §3.1 block structure, §4.1 section header, §4.2 interface description,
//! §4.3 enhanced packet, §4.6 interface statistics; all fields little-endian, as the byte-order magic says.

use std::io::{self, Write};

use super::ETHERNET;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Option codes of these blocks.
pub(super) mod option {
    pub const SHB_USERAPPL: u16 = 4;
    pub const IF_NAME: u16 = 2;
    pub const IF_DESCRIPTION: u16 = 3;
    pub const IF_TSRESOL: u16 = 9;
    pub const ISB_IFRECV: u16 = 4;
    pub const ISB_IFDROP: u16 = 5;
    pub const EPB_FLAGS: u16 = 2;
    pub const EPB_QUEUE: u16 = 6;
}

/// `if_tsresol`: units of 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

/// Which way a frame went, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    Rx,
    /// Sent.
    Tx,
}

/// Writes blocks to `out`. Put a buffer below it: each block is one `write_all`.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a section.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(out: W) -> io::Result<Self> {
        let mut this = Self { out, block: Vec::new() };
        this.begin(SECTION_HEADER);
        this.u32(BYTE_ORDER_MAGIC);
        this.bytes(&1u16.to_le_bytes()); // version 1.0
        this.bytes(&0u16.to_le_bytes());
        this.bytes(&(-1i64).to_le_bytes()); // length of the section: not known
        this.option(option::SHB_USERAPPL, concat!("bywash ", env!("CARGO_PKG_VERSION")).as_bytes());
        this.end_options();
        this.finish()?;
        Ok(this)
    }

    /// Describes the next Ethernet interface; the first has number 0. `snaplen` 0: frames are whole.
    ///
    /// # Errors
    /// What `out` says.
    pub fn interface(&mut self, name: &str, description: &str, snaplen: u32) -> io::Result<()> {
        self.begin(INTERFACE_DESCRIPTION);
        self.bytes(&u16::try_from(ETHERNET).unwrap_or_default().to_le_bytes());
        self.bytes(&[0; 2]);
        self.u32(snaplen);
        self.option(option::IF_NAME, name.as_bytes());
        if !description.is_empty() {
            self.option(option::IF_DESCRIPTION, description.as_bytes());
        }
        self.option(option::IF_TSRESOL, &[NANOSECONDS]);
        self.end_options();
        self.finish()
    }

    /// Writes a frame: `pieces` one behind the other, captured at `time_ns` (since 1970) of a frame of `original_len`
    /// bytes. With a `way` also its direction and queue.
    ///
    /// # Errors
    /// What `out` says.
    pub fn frame(
        &mut self,
        interface: u32,
        time_ns: u64,
        original_len: u32,
        pieces: &[&[u8]],
        way: Option<(Direction, u16)>,
    ) -> io::Result<()> {
        let captured: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.begin(ENHANCED_PACKET);
        self.u32(interface);
        self.bytes(&time_ns.to_le_bytes()[4..]); // upper half first
        self.bytes(&time_ns.to_le_bytes()[..4]);
        self.u32(u32::try_from(captured).unwrap_or(u32::MAX));
        self.u32(original_len);
        pieces.iter().for_each(|piece| self.bytes(piece));
        self.pad();
        if let Some((direction, queue)) = way {
            let flags: u32 = match direction {
                Direction::Rx => 0b01,
                Direction::Tx => 0b10,
            };
            self.option(option::EPB_FLAGS, &flags.to_le_bytes());
            self.option(option::EPB_QUEUE, &u32::from(queue).to_le_bytes());
            self.end_options();
        }
        self.finish()
    }

    /// Says of an interface how many frames passed it until `time_ns`, and how many of them are not in the capture.
    ///
    /// # Errors
    /// What `out` says.
    pub fn statistics(&mut self, interface: u32, time_ns: u64, passed: u64, missed: u64) -> io::Result<()> {
        self.begin(INTERFACE_STATISTICS);
        self.u32(interface);
        self.bytes(&time_ns.to_le_bytes()[4..]);
        self.bytes(&time_ns.to_le_bytes()[..4]);
        self.option(option::ISB_IFRECV, &passed.to_le_bytes());
        self.option(option::ISB_IFDROP, &missed.to_le_bytes());
        self.end_options();
        self.finish()
    }

    /// Flushes what is below.
    ///
    /// # Errors
    /// What `out` says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// What is below.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.u32(kind);
        self.u32(0); // length: by `finish`
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// An option; `value` is cut at the 65,535 bytes that its length can say.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.bytes(&code.to_le_bytes());
        self.bytes(&u16::try_from(value.len()).unwrap_or_default().to_le_bytes());
        self.bytes(value);
        self.pad();
    }

    fn end_options(&mut self) {
        self.u32(0);
    }

    /// Completes the block's two lengths and hands it on.
    fn finish(&mut self) -> io::Result<()> {
        let len = u32::try_from(self.block.len() + 4).map_err(io::Error::other)?;
        self.u32(len);
        self.block[4..8].copy_from_slice(&len.to_le_bytes());
        self.out.write_all(&self.block)
    }
}
