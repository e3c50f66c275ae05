//! Where a stack's frames go: a device with a bounded number of buffers.

use stack::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};

/// Frames that left a stack and were not taken yet.
pub struct Outbox {
    frames: Vec<Vec<u8>>,
    buffers: usize,
    mtu_bytes: usize,
}

impl Outbox {
    /// Room for `buffers` frames of IP packets of at most `mtu_bytes`.
    pub fn new(buffers: usize, mtu_bytes: usize) -> Self {
        Self { frames: Vec::new(), buffers, mtu_bytes }
    }

    pub fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.frames)
    }
}

/// Frames come by `Stack::receive`, never from the device.
pub enum Never {}

impl RxToken for Never {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _f: F) -> R {
        match self {}
    }
}

pub struct Token<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Token<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Outbox {
    type RxToken<'a> = Never;
    type TxToken<'a> = Token<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Never, Token<'_>)> {
        None
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Token<'_>> {
        (self.frames.len() < self.buffers).then_some(Token(&mut self.frames))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu_bytes + 14;
        capabilities
    }
}
