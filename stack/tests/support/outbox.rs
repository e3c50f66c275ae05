//! Where a stack's frames go: a device with a bounded number of buffers. Shared by all tests of the stack, those inside
//! the crate among them.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Frames that left a stack and were not taken yet.
pub struct Outbox {
    pub frames: VecDeque<Vec<u8>>,
    /// How many of them there can be.
    pub room: usize,
    mtu_bytes: usize,
}

impl Outbox {
    /// Room for so many frames of IP packets of at most `mtu_bytes`.
    pub fn new(room: usize, mtu_bytes: usize) -> Self {
        Self { frames: VecDeque::new(), room, mtu_bytes }
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

pub struct Token<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Token<'_> {
    /// The frame is full of rubbish first, as a used mbuf's would be: whatever the stack leaves out shows.
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0xaa; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Outbox {
    type RxToken<'a> = Never;
    type TxToken<'a> = Token<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Never, Token<'_>)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Token<'_>> {
        (self.frames.len() < self.room).then_some(Token(&mut self.frames))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu_bytes + 14;
        capabilities
    }
}
