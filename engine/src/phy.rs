//! A port as smoltcp's device: the one place where a stack's frames become mbufs.
//!
//! ```text
//!   Device::transmit ── room on the port, an mbuf of the core's pool ──► TxToken
//!   TxToken::consume(len) ── append len bytes, the stack fills them in place ──► Cx::send ──► staged
//! ```
//!
//! Frames in do not come this way: the stack takes a burst's bytes as slices, so [`Device::receive`] has nothing.

use pmd::Mbuf;
use pmd::port::PortInfo;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::program::Cx;
use crate::tsc::Ticks;

/// Destination, source, EtherType. IEEE 802.3 §3.2.
const ETHERNET_HEADER_BYTES: usize = 14;
/// IEEE 802.1Q tag.
const VLAN_TAG_BYTES: usize = 4;

/// The longest frame that a port of this IP MTU takes: with its Ethernet header and one VLAN tag.
pub(crate) fn max_frame_bytes(info: &PortInfo) -> usize {
    usize::from(info.mtu) + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES
}

/// One port of a program during one call of it, for frames out. Made anew for each call; no allocation.
pub(crate) struct Phy<'p, 'cx> {
    cx: &'p mut Cx<'cx>,
    port: usize,
    /// What the frames are stamped with: when the burst that they answer was received; 0 for none.
    stamp: Ticks,
    /// Longest frame, Ethernet header included.
    max_frame_bytes: usize,
    /// Only for urgent frames, to which a port with priorities gives more room.
    urgent: bool,
    /// Frames that fit without asking the port again.
    credit: usize,
}

impl<'p, 'cx> Phy<'p, 'cx> {
    pub(crate) fn new(cx: &'p mut Cx<'cx>, port: usize, max_frame_bytes: usize, stamp: Ticks) -> Self {
        Self { cx, port, stamp, max_frame_bytes, urgent: false, credit: 0 }
    }

    /// The same for urgent frames alone.
    pub(crate) fn urgent(self) -> Self {
        Self { urgent: true, credit: 0, ..self }
    }
}

impl<'p, 'cx> Device for Phy<'p, 'cx> {
    type RxToken<'t>
        = Never
    where
        Self: 't;
    type TxToken<'t>
        = Frame<'t, 'p, 'cx>
    where
        Self: 't;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Never, Frame<'_, 'p, 'cx>)> {
        None
    }

    /// `None` when the transmit queue is full or the pool empty: the flow stays ready and asks again in a later turn.
    #[inline]
    fn transmit(&mut self, _timestamp: Instant) -> Option<Frame<'_, 'p, 'cx>> {
        if self.credit == 0 {
            self.credit = self.cx.room_behind_staged(self.port, self.urgent);
            if self.credit == 0 {
                return None;
            }
        }
        let mbuf = self.cx.pool.alloc()?;
        Some(Frame { mbuf, phy: self })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.max_frame_bytes;
        capabilities
    }
}

/// An mbuf for one frame, and the port that has room for it. Dropped unused, both are as before.
pub(crate) struct Frame<'t, 'p, 'cx> {
    mbuf: Mbuf,
    phy: &'t mut Phy<'p, 'cx>,
}

impl TxToken for Frame<'_, '_, '_> {
    #[inline]
    fn consume<R, F>(self, len: usize, fill: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        let Frame { mut mbuf, phy } = self;
        let Ok(bytes) = mbuf.append(len) else { return too_long(mbuf, phy, len, fill) };
        let filled = fill(bytes);
        mbuf.set_rx_ticks(phy.stamp.0);
        phy.credit -= 1;
        phy.cx.send(phy.port, mbuf);
        filled
    }
}

/// A frame longer than any mbuf of the pool, which the MTU given to the stack rules out: a token has no way to refuse,
/// so what the stack writes goes into memory of its own, nowhere, and is counted.
#[cold]
fn too_long<R>(mbuf: Mbuf, phy: &mut Phy<'_, '_>, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
    phy.cx.drop("tx_too_long", mbuf);
    fill(&mut vec![0; len])
}

/// Frames in come as slices, so there is no receive token.
pub(crate) enum Never {}

impl RxToken for Never {
    fn consume<R, F>(self, _read: F) -> R
    where
        F: FnOnce(&[u8]) -> R,
    {
        match self {}
    }
}
