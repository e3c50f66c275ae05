//! A port as smoltcp's device: the one place where a stack's frames become mbufs.
//!
//! ```text
//!   Device::transmit ── room on the port, an mbuf of the core's pool ──► TxToken
//!   TxToken::consume(len) ── append len bytes, the stack fills them in place ──► Cx::send ──► staged
//! ```
//!
//! A port that sums and segments is told so: a packet whose [`PacketMeta`] names a segment size has only the sum of its
//! pseudo-header, and what is longer than a segment stands for several. [`offload`] finds the places in the frame.
//!
//! Frames in do not come this way: the stack takes a burst's bytes as slices, so [`Device::receive`] has nothing.

use std::num::{NonZeroU16, NonZeroUsize};

use pmd::Mbuf;
use pmd::port::{Offloads, PortInfo};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::offload::headers::offload;
use crate::program::Cx;
use crate::tsc::Ticks;

/// Destination, source, EtherType. IEEE 802.3 §3.2.
const ETHERNET_HEADER_BYTES: usize = 14;
/// IEEE 802.1Q tag.
const VLAN_TAG_BYTES: usize = 4;

/// The longest frame that stands for several segments: as long mbufs hold, and the longest IP packet.
const LONGEST_FRAME_BYTES: usize = 65_535 + ETHERNET_HEADER_BYTES;

/// What a port can be given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Longest frame, Ethernet header and one VLAN tag included.
    max_frame_bytes: usize,
    offloads: Offloads,
}

impl Reach {
    /// What the port of this description takes.
    pub(crate) fn of(info: &PortInfo) -> Reach {
        let mut reach = Reach { max_frame_bytes: 0, offloads: info.offloads };
        reach.set_mtu(info.mtu);
        reach
    }

    /// The port's MTU is another now.
    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        self.max_frame_bytes = usize::from(mtu) + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES;
    }

    fn segments(&self) -> bool {
        self.offloads.tx_checksum && (self.offloads.tso4 || self.offloads.tso6)
    }
}

/// One port of a program during one call of it, for frames out. Made anew for each call; no allocation.
pub(crate) struct Phy<'p, 'cx> {
    cx: &'p mut Cx<'cx>,
    port: usize,
    /// What the frames are stamped with: when the burst that they answer was received; 0 for none.
    stamp: Ticks,
    reach: Reach,
    /// Only for urgent frames, to which a port with priorities gives more room.
    urgent: bool,
    /// Frames that fit without asking the port again.
    credit: usize,
}

impl<'p, 'cx> Phy<'p, 'cx> {
    pub(crate) fn new(cx: &'p mut Cx<'cx>, port: usize, reach: Reach, stamp: Ticks) -> Self {
        Self { cx, port, stamp, reach, urgent: false, credit: 0 }
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
        // Of long mbufs some are kept back, for what is received.
        if self.reach.segments() && self.cx.pool.large_free() <= LONG_KEPT {
            return None;
        }
        let mbuf = self.cx.pool.alloc()?;
        mbuf.prefetch_data();
        Some(Frame { mbuf, segment: None, phy: self })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.reach.max_frame_bytes;
        let Offloads { tx_checksum, tso4, tso6, .. } = self.reach.offloads;
        if tx_checksum {
            capabilities.checksum.tcp = Checksum::Rx;
        }
        let longest = |does: bool| NonZeroUsize::new(LONGEST_FRAME_BYTES).filter(|_| does && tx_checksum);
        (capabilities.segmentation.tcpv4, capabilities.segmentation.tcpv6) = (longest(tso4), longest(tso6));
        capabilities
    }
}

/// An mbuf for one frame, and the port that has room for it. Dropped unused, both are as before.
pub(crate) struct Frame<'t, 'p, 'cx> {
    mbuf: Mbuf,
    /// The size of its segments, if the port is to sum it, and to segment it should it be longer.
    segment: Option<NonZeroU16>,
    phy: &'t mut Phy<'p, 'cx>,
}

impl TxToken for Frame<'_, '_, '_> {
    #[inline]
    fn consume<R, F>(self, len: usize, fill: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        let Frame { mut mbuf, segment, phy } = self;
        if len > mbuf.tailroom()
            && let Some(long) = phy.cx.pool.alloc_for(len)
        {
            mbuf = long;
        }
        let Ok(bytes) = mbuf.append(len) else { return too_long(mbuf, phy, len, fill) };
        let filled = fill(bytes);
        if let Some(segment) = segment {
            let offload = offload(bytes, segment);
            mbuf.set_offload(offload);
        }
        mbuf.set_rx_ticks(phy.stamp.0);
        phy.credit -= 1;
        phy.cx.send(phy.port, mbuf);
        filled
    }

    #[inline]
    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

/// Long mbufs that are not used for sending: a burst's worth of frames in pieces, taken one by one.
const LONG_KEPT: usize = 8;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Lane;
    use crate::queue::priority::{Prioritised, Priority};
    use crate::queue::test_pair::{TestPair, home, home_of};
    use crate::stats::CoreReport;
    use crate::tsc::Tsc;
    use pmd::HomePool;
    use pmd::mem::PoolConfig;
    use pmd::port::QueuePair;

    const MAX: Reach = Reach { max_frame_bytes: 1518, offloads: NO_OFFLOADS };
    const NO_OFFLOADS: Offloads = Offloads {
        tx_checksum: false,
        tso4: false,
        tso6: false,
        tso_ecn: false,
        rx_checksum: false,
        lro4: false,
        lro6: false,
    };

    /// Calls `body` with the context of a program that has one port, then ends the turn.
    fn turn(pool: &HomePool, lanes: &mut [Lane], body: impl FnOnce(&mut Cx<'_>)) -> CoreReport {
        let mut report = CoreReport::new(0, None, &[(0, 0)], &[]);
        let tsc = Tsc::from_hz(1_000_000_000);
        let mut cx = Cx {
            now: Ticks(1000),
            tsc: &tsc,
            pool,
            winding_down: false,
            lanes,
            report: &mut report,
            slots: None,
        };
        body(&mut cx);
        cx.flush();
        report
    }

    fn lanes(pair: Box<dyn QueuePair>) -> [Lane; 1] {
        [Lane::new(pair, 0, false, false)]
    }

    /// Sends frames of 60 bytes until there is no token; returns how many.
    fn fill(phy: &mut Phy<'_, '_>) -> usize {
        let mut sent = 0;
        while let Some(token) = phy.transmit(Instant::ZERO) {
            token.consume(60, |bytes| bytes.fill(sent as u8));
            sent += 1;
        }
        sent
    }

    #[test]
    fn frames_are_written_in_place_stamped_and_sent_until_the_ring_is_full() {
        let pool = home(512);
        let (pair, wire) = TestPair::new(200);
        let mut lanes = lanes(pair);
        let report = turn(&pool, &mut lanes, |cx| {
            let mut phy = Phy::new(cx, 0, MAX, Ticks(77));
            assert_eq!(phy.capabilities().max_transmission_unit, 1518);
            assert_eq!(fill(&mut phy), 200, "more than a burst, less than the pool");
        });
        let sent = std::mem::take(&mut wire.lock().unwrap().tx);
        assert_eq!(sent.len(), 200);
        for (number, frame) in sent.iter().enumerate() {
            assert_eq!((frame.data(), frame.rx_ticks()), (&[number as u8; 60][..], 77));
        }
        assert_eq!(report.queues[0].tx_dropped, 0);
    }

    #[test]
    fn long_frames_leave_at_once_with_what_is_before_them() {
        let pool = home_of(PoolConfig { mbufs: 8, data_room_bytes: 32 << 10, ..PoolConfig::default() });
        let (pair, wire) = TestPair::new(64);
        let mut lanes = lanes(pair);
        turn(&pool, &mut lanes, |cx| {
            let mut phy = Phy::new(cx, 0, MAX, Ticks(0));
            for (len, sent) in [(60, 0), (30_000, 2), (60, 2), (30_000, 4)] {
                phy.transmit(Instant::ZERO).unwrap().consume(len, |bytes| bytes.fill(0));
                assert_eq!(wire.lock().unwrap().tx.len(), sent, "after one of {len}");
            }
        });
        assert_eq!(wire.lock().unwrap().bursts, 2);
    }

    #[test]
    fn a_token_that_is_not_used_costs_neither_mbuf_nor_room_and_an_empty_pool_gives_none() {
        let pool = home(10);
        let (pair, wire) = TestPair::new(64);
        let mut lanes = lanes(pair);
        turn(&pool, &mut lanes, |cx| {
            let mut phy = Phy::new(cx, 0, MAX, Ticks(0));
            (0..100).for_each(|_| assert!(phy.transmit(Instant::ZERO).is_some()));
            assert_eq!(fill(&mut phy), 10);
        });
        assert_eq!(wire.lock().unwrap().tx.len(), 10);
    }

    #[test]
    fn a_frame_that_no_mbuf_holds_goes_nowhere_and_is_counted() {
        let pool = home(4);
        let (pair, wire) = TestPair::new(64);
        let mut lanes = lanes(pair);
        let report = turn(&pool, &mut lanes, |cx| {
            let mut phy = Phy::new(cx, 0, MAX, Ticks(0));
            let token = phy.transmit(Instant::ZERO).unwrap();
            assert_eq!(token.consume(100_000, |bytes| bytes.len()), 100_000);
        });
        assert_eq!((report.drops.get("tx_too_long"), wire.lock().unwrap().tx.len()), (1, 0));
        assert_eq!(pool.levels().free, 4);
    }

    #[test]
    fn urgent_frames_have_room_when_the_others_have_none() {
        let pool = home(512);
        let (pair, wire) = TestPair::new(100);
        let priority = Priority { normal_limit: 8, ..Priority::default() };
        let mut lanes = lanes(Box::new(Prioritised::new(pair, priority)));
        let report = turn(&pool, &mut lanes, |cx| {
            let normal = fill(&mut Phy::new(cx, 0, MAX, Ticks(0)));
            assert_eq!(normal, 8 + 64, "in the ring, and waiting");
            let mut urgent = Phy::new(cx, 0, MAX, Ticks(0)).urgent();
            for _ in 0..20 {
                let token = urgent.transmit(Instant::ZERO).expect("room is kept for it");
                token.consume(60, |bytes| {
                    bytes.fill(0);
                    bytes[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 46 << 2]);
                });
            }
        });
        assert_eq!(report.queues[0].tx_dropped, 0);
        let wire = wire.lock().unwrap();
        assert_eq!(wire.tx.iter().filter(|frame| frame.data()[15] == 46 << 2).count(), 20);
        assert_eq!(wire.tx.len(), 8 + 20);
    }
}
