//! A smoltcp device that holds one packet each way: how the resolver's and the DHCP client's sockets meet the link.
//!
//! Both are cold: a few packets a second. So packets are built in a scratch buffer and handed to the link, which adds
//! what is below, instead of being emitted in place as TCP segments are.

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::Time;

/// One packet in, one packet out. [`Device::transmit`] gives a token only while nothing waits to be taken.
pub(crate) struct OnePacket<'a> {
    medium: Medium,
    mtu_bytes: usize,
    rx: Option<&'a [u8]>,
    /// What was emitted; empty means nothing.
    tx: &'a mut Vec<u8>,
}

impl<'a> OnePacket<'a> {
    /// A device without a packet in either direction; `scratch` keeps its memory from one use to the next.
    ///
    /// `mtu_bytes` counts the Ethernet header with [`Medium::Ethernet`], as smoltcp does.
    pub(crate) fn new(medium: Medium, mtu_bytes: usize, scratch: &'a mut Vec<u8>) -> Self {
        scratch.clear();
        Self { medium, mtu_bytes, rx: None, tx: scratch }
    }

    /// Has `packet` received next.
    pub(crate) fn with_packet(mut self, packet: &'a [u8]) -> Self {
        self.rx = Some(packet);
        self
    }
}

impl Device for OnePacket<'_> {
    type RxToken<'t>
        = Rx<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Tx<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        Some((Rx(self.rx.take()?), Tx(self.tx)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        self.tx.is_empty().then_some(Tx(self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = self.medium;
        capabilities.max_transmission_unit = self.mtu_bytes;
        // Both users check UDP sums themselves on the way in, and write them on the way out.
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}

pub(crate) struct Rx<'a>(&'a [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(crate) struct Tx<'a>(&'a mut Vec<u8>);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.clear();
        self.0.resize(len, 0);
        f(self.0)
    }
}

/// Real time of smoltcp's: DNS and DHCP do not run on the flows' scaled clock. The inverse of [`Time::instant`].
///
/// smoltcp says "now" with instants at or before 0.
pub(crate) fn from_real(at: Instant) -> Time {
    Time::from_ns(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
}
