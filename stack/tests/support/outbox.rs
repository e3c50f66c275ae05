//! Where a stack's frames go: a device with a bounded number of buffers. Shared by all tests of the stack, those inside
//! the crate among them.

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

/// Frames that left a stack and were not taken yet.
pub struct Outbox {
    pub frames: VecDeque<Vec<u8>>,
    /// How many of them there can be.
    pub room: usize,
    mtu_bytes: usize,
    /// Sums and segments TCP, though it leaves what is to be segmented whole.
    pub offloads: bool,
    /// Of every frame that it summed: its bytes, and the size of its segments.
    pub summed: Vec<(usize, u16)>,
}

impl Outbox {
    /// Room for so many frames of IP packets of at most `mtu_bytes`.
    pub fn new(room: usize, mtu_bytes: usize) -> Self {
        Self { frames: VecDeque::new(), room, mtu_bytes, offloads: false, summed: Vec::new() }
    }

    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.frames.drain(..).collect()
    }
}

/// Frames come by `Stack::receive`, never from the device.
pub enum Never {}

impl RxToken for Never {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _f: F) -> R {
        match self {}
    }
}

pub struct Token<'a>(&'a mut Outbox, Option<NonZeroU16>);

impl TxToken for Token<'_> {
    /// The frame is full of rubbish first, as a used mbuf's would be: whatever the stack leaves out shows.
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0xaa; len];
        let result = f(&mut frame);
        if let Some(segment) = self.1 {
            complete(&mut frame);
            self.0.summed.push((len, segment.get()));
        }
        self.0.frames.push_back(frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.1 = meta.segmentation_offload_size;
    }
}

/// Does what a device does with a frame whose TCP checksum is only that of the pseudo-header: adds the rest (RFC 1071).
fn complete(frame: &mut [u8]) {
    let headers = if frame[12..14] == [0x08, 0x00] { 14 + 20 } else { 14 + 40 };
    let tcp = &mut frame[headers..];
    let words = tcp.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let sum = u16::try_from(!sum & 0xffff).unwrap_or(0);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

impl Device for Outbox {
    type RxToken<'a> = Never;
    type TxToken<'a> = Token<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Never, Token<'_>)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Token<'_>> {
        (self.frames.len() < self.room).then_some(Token(self, None))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu_bytes + 14;
        if self.offloads {
            capabilities.checksum.tcp = Checksum::Rx;
            let longest = NonZeroUsize::new(65_535 + 14);
            (capabilities.segmentation.tcpv4, capabilities.segmentation.tcpv6) = (longest, longest);
        }
        capabilities
    }
}
