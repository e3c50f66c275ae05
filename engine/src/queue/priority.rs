//! Priority: frames whose DSCP is urgent leave first, and soon, however much else there is to send.
//!
//! ```text
//!   tx_burst ─► DSCP ─┬─ urgent ─► queue ─► all of the transmit ring, always first
//!                     └─ normal ─► queue ─► the ring while it holds fewer than `normal_limit` frames
//! ```
//!
//! A transmit ring is first in, first out: a frame waits for all that were posted before it. So the normal frames may
//! fill only a part of it, and that part bounds how long an urgent frame waits. What does not fit waits here, at most
//! a burst; beyond that `tx_room` says so and the stack keeps its bytes in the flows.

use std::collections::VecDeque;

use pmd::port::{Burst, MAX_BURST, QueueCounters, QueueFault, QueuePair};
use pmd::{HomePool, Mbuf};

/// Frames of one class that wait outside the ring from one turn to the next.
pub(crate) const WAITING: usize = MAX_BURST;

/// Which differentiated services code points (RFC 2474) are meant: 0 to 63, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DscpSet(u64);

impl DscpSet {
    /// No code point.
    pub const NONE: DscpSet = DscpSet(0);
    /// CS6 and CS7 (RFC 2474 §4.2.2: network control) and EF (RFC 3246: low delay).
    pub const URGENT: DscpSet = DscpSet(1 << 48 | 1 << 56 | 1 << 46);

    /// These code points; `None` if one is beyond 63.
    ///
    /// ```
    /// use engine::DscpSet;
    /// assert_eq!(DscpSet::of([46, 48, 56]), Some(DscpSet::URGENT));
    /// assert_eq!(DscpSet::of([64]), None);
    /// ```
    #[must_use]
    pub fn of(points: impl IntoIterator<Item = u8>) -> Option<DscpSet> {
        points
            .into_iter()
            .try_fold(DscpSet::NONE, |set, point| (point < 64).then(|| DscpSet(set.0 | 1 << point)))
    }

    /// Whether this code point is among them.
    #[must_use]
    pub fn contains(self, point: u8) -> bool {
        point < 64 && self.0 >> point & 1 != 0
    }

    /// The code points, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |point| self.contains(*point))
    }

    /// Whether the frame's IP header has one of these code points.
    #[inline]
    pub(crate) fn has(self, frame: &Mbuf) -> bool {
        self != DscpSet::NONE && dscp(frame.data()).is_some_and(|point| self.contains(point))
    }
}

/// The DSCP of an Ethernet frame's IPv4 or IPv6 header, behind one 802.1Q tag or none. `None` for what is not IP.
#[inline]
fn dscp(frame: &[u8]) -> Option<u8> {
    let mut at = 12;
    if frame.get(at..at + 2)? == [0x81, 0x00] {
        at += 4;
    }
    let bytes: [u8; 4] = frame.get(at..)?.first_chunk().copied()?;
    match bytes {
        [0x08, 0x00, _, tos] => Some(tos >> 2),
        // RFC 8200 §3: 4 bits of version, 8 of traffic class.
        [0x86, 0xdd, a, b] => Some((a & 0xf) << 2 | b >> 6),
        _ => None,
    }
}

/// How a port sends what is urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// Code points that make a frame urgent.
    pub urgent: DscpSet,
    /// Frames that the transmit ring may hold when a normal one is posted: at least 1. Fewer let an urgent frame leave
    /// sooner; too few, and the device finds the ring empty between two turns.
    pub normal_limit: u16,
}

impl Default for Priority {
    /// CS6, CS7 and EF; 128 frames.
    fn default() -> Priority {
        Priority { urgent: DscpSet::URGENT, normal_limit: 128 }
    }
}

/// A queue pair that sends the urgent first.
pub(crate) struct Prioritised {
    inner: Box<dyn QueuePair>,
    priority: Priority,
    urgent: VecDeque<Mbuf>,
    normal: VecDeque<Mbuf>,
    /// What goes to the ring next, the urgent in front.
    next: Box<Burst>,
    tx_urgent: u64,
    tx_waited: u64,
}

impl Prioritised {
    pub(crate) fn new(inner: Box<dyn QueuePair>, priority: Priority) -> Prioritised {
        // Between two pumps a whole burst comes on top of what waits.
        let queue = || VecDeque::with_capacity(WAITING + MAX_BURST);
        Prioritised {
            inner,
            priority,
            urgent: queue(),
            normal: queue(),
            next: Box::default(),
            tx_urgent: 0,
            tx_waited: 0,
        }
    }

    /// How many normal frames the ring may take when `urgent` ones go before them.
    fn normal_room(&mut self, urgent: usize) -> usize {
        let before = self.inner.tx_waiting() + urgent;
        let limited = usize::from(self.priority.normal_limit).saturating_sub(before);
        limited.min(self.inner.tx_room().saturating_sub(urgent))
    }

    /// Moves what waits to the ring, as far as it may, in one burst.
    fn pump(&mut self) {
        let urgent = self.urgent.len().min(MAX_BURST);
        let normal = if self.normal.is_empty() {
            0
        } else {
            self.normal_room(urgent).min(MAX_BURST - urgent).min(self.normal.len())
        };
        if urgent + normal == 0 {
            return;
        }
        self.next.extend(self.urgent.drain(..urgent));
        self.next.extend(self.normal.drain(..normal));
        let sent = self.inner.tx_burst(&mut self.next);
        self.tx_urgent += sent.min(urgent) as u64;
        // The rest goes back to the front of its queue, the last first. Of the urgent there are `urgent - sent`.
        while let Some(frame) = self.next.pop() {
            let is_urgent = self.next.len() < urgent.saturating_sub(sent);
            let queue = if is_urgent { &mut self.urgent } else { &mut self.normal };
            queue.push_front(frame);
        }
    }
}

/// Gives back what a queue holds beyond what may wait: its youngest, in order.
fn trim(queue: &mut VecDeque<Mbuf>, unsent: &mut Burst) {
    if queue.len() > WAITING {
        unsent.extend(queue.drain(WAITING..));
    }
}

impl QueuePair for Prioritised {
    /// What waited goes first: there may be nothing new to send that would move it.
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let received = self.inner.rx_burst(pool, burst, budget);
        if !(self.urgent.is_empty() && self.normal.is_empty()) {
            self.pump();
        }
        received
    }

    /// One notification at most, as one burst goes to the ring. What is given back is of either class.
    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        let (count, mut normal) = (burst.len(), 0);
        for frame in burst.drain(..) {
            if self.priority.urgent.has(&frame) {
                self.urgent.push_back(frame);
            } else {
                self.normal.push_back(frame);
                normal += 1;
            }
        }
        self.pump();
        trim(&mut self.urgent, burst);
        let before = burst.len();
        trim(&mut self.normal, burst);
        // The youngest wait, so those of this burst that were kept come first of what waits now.
        self.tx_waited += self.normal.len().min(normal - (burst.len() - before)) as u64;
        count - burst.len()
    }

    /// Normal frames that fit, here or in the ring, but no more than there would be room for were they urgent.
    fn tx_room(&mut self) -> usize {
        let normal = (self.normal_room(self.urgent.len()) + WAITING).saturating_sub(self.normal.len());
        normal.min(self.tx_room_urgent())
    }

    fn tx_room_urgent(&mut self) -> usize {
        (self.inner.tx_room() + WAITING).saturating_sub(self.urgent.len())
    }

    fn tx_waiting(&mut self) -> usize {
        self.inner.tx_waiting() + self.urgent.len() + self.normal.len()
    }

    /// What still waits is gone, as what is in the ring is.
    fn quiesce(&mut self) {
        self.urgent.clear();
        self.normal.clear();
        self.inner.quiesce();
    }

    fn counters(&self) -> QueueCounters {
        self.inner.counters()
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("tx_urgent", self.tx_urgent);
        visit("tx_waited", self.tx_waited);
        self.inner.extra_counters(visit);
    }

    fn fault(&self) -> Option<QueueFault> {
        self.inner.fault()
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_pair::{TestPair, extra, frame, home};
    use super::*;

    const EF: u8 = 46;
    const BEST_EFFORT: u8 = 0;

    /// The least of an IPv4 frame: Ethernet header, version, DSCP, and a number behind them.
    fn ipv4(dscp: u8, number: u8) -> Vec<u8> {
        let mut bytes = vec![0; 34];
        bytes[12..16].copy_from_slice(&[0x08, 0x00, 0x45, dscp << 2]);
        bytes[33] = number;
        bytes
    }

    fn burst(pool: &HomePool, dscp: u8, numbers: std::ops::Range<u8>) -> Burst {
        numbers.map(|number| frame(pool, &ipv4(dscp, number))).collect()
    }

    fn numbers<'m>(frames: impl IntoIterator<Item = &'m Mbuf>) -> Vec<u8> {
        frames.into_iter().map(|frame| frame.data()[33]).collect()
    }

    #[test]
    fn the_code_point_is_found_in_ipv4_and_ipv6_with_a_tag_and_without() {
        assert_eq!(dscp(&ipv4(EF, 0)), Some(EF));
        let mut ipv6 = vec![0; 54];
        ipv6[12..16].copy_from_slice(&[0x86, 0xdd, 0x60 | EF >> 2, EF << 6]);
        assert_eq!(dscp(&ipv6), Some(EF));
        for untagged in [ipv4(EF, 0), ipv6] {
            let mut tagged = untagged.clone();
            tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
            assert_eq!(dscp(&tagged), Some(EF));
        }
        let arp = [&[0xff; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        assert_eq!(dscp(&arp), None);
        for len in 0..16 {
            assert_eq!(dscp(&ipv4(EF, 0)[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn urgent_frames_leave_before_normal_ones_of_the_same_turn_in_one_burst() {
        let pool = home(256);
        let (inner, wire) = TestPair::new(256);
        let mut pair = Prioritised::new(inner, Priority::default());
        let mut mixed = burst(&pool, BEST_EFFORT, 0..3);
        mixed.extend(burst(&pool, EF, 10..12));
        mixed.extend(burst(&pool, BEST_EFFORT, 3..5));
        assert_eq!(pair.tx_burst(&mut mixed), 7);
        let wire = wire.lock().unwrap();
        assert_eq!(numbers(&wire.tx), [10, 11, 0, 1, 2, 3, 4]);
        assert_eq!(wire.bursts, 1);
        assert_eq!((extra(&pair, "tx_urgent"), extra(&pair, "tx_waited")), (2, 0));
    }

    #[test]
    fn normal_frames_fill_a_part_of_the_ring_and_urgent_ones_all_of_it() {
        let pool = home(512);
        let (inner, wire) = TestPair::new(64);
        let mut pair = Prioritised::new(inner, Priority { normal_limit: 8, ..Priority::default() });
        assert_eq!(pair.tx_room(), 8 + WAITING);
        // What does not fit in the ring waits; what may not wait either is given back, the youngest.
        assert_eq!(pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..60)), 60);
        let mut more = burst(&pool, BEST_EFFORT, 60..80);
        assert_eq!(pair.tx_room(), 12);
        assert_eq!(pair.tx_burst(&mut more), 12);
        assert_eq!(numbers(&more), (72..80).collect::<Vec<_>>());
        more.clear();
        assert_eq!((pair.tx_room(), pair.tx_room_urgent()), (0, 56 + WAITING));
        assert_eq!(extra(&pair, "tx_waited"), 52 + 12);
        // The urgent pass all that waits: eight frames of others are before them, and no more.
        assert_eq!(pair.tx_burst(&mut burst(&pool, EF, 100..156)), 56);
        let sent = numbers(&wire.lock().unwrap().tx);
        assert_eq!(sent, (0..8).chain(100..156).collect::<Vec<_>>());
        // Polling alone moves on what waits, in order, as the ring empties.
        wire.lock().unwrap().tx.clear();
        let mut none = Burst::new();
        let mut rest = Vec::new();
        while rest.len() < 64 {
            pair.rx_burst(&pool, &mut none, 64);
            let left = std::mem::take(&mut wire.lock().unwrap().tx);
            assert!((1..=8).contains(&left.len()));
            rest.extend(numbers(&left));
        }
        assert_eq!(rest, (8..72).collect::<Vec<_>>());
        assert_eq!((pair.tx_room(), pool.levels().free), (8 + WAITING, 512));
    }

    #[test]
    fn a_full_ring_keeps_the_order_of_both_classes() {
        let pool = home(512);
        let (inner, wire) = TestPair::new(4);
        let mut pair = Prioritised::new(inner, Priority { normal_limit: 4, ..Priority::default() });
        pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..2));
        assert_eq!(pair.tx_burst(&mut burst(&pool, EF, 100..110)), 10);
        assert_eq!(pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 2..6)), 4);
        let mut sent = Vec::new();
        for _ in 0..8 {
            pair.rx_burst(&pool, &mut Burst::new(), 64);
            sent.extend(numbers(&std::mem::take(&mut wire.lock().unwrap().tx)));
        }
        assert_eq!(sent, (0..2).chain(100..110).chain(2..6).collect::<Vec<_>>());
        assert_eq!(extra(&pair, "tx_urgent"), 10);
    }

    #[test]
    fn a_queue_without_another_side_takes_what_may_wait_and_then_has_no_room() {
        let pool = home(128);
        let (inner, _) = TestPair::new(0);
        let mut pair = Prioritised::new(inner, Priority::default());
        assert_eq!((pair.tx_room(), pair.tx_room_urgent()), (WAITING, WAITING));
        assert_eq!(pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..64)), 64);
        assert_eq!((pair.tx_room(), pair.tx_room_urgent()), (0, WAITING));
        assert_eq!(pair.tx_burst(&mut burst(&pool, EF, 0..64)), 64);
        assert_eq!((pair.tx_room_urgent(), pair.tx_waiting()), (0, 128));
    }

    #[test]
    fn what_waits_at_the_end_goes_home() {
        let pool = home(128);
        let (inner, wire) = TestPair::new(64);
        let mut pair = Prioritised::new(inner, Priority { normal_limit: 1, ..Priority::default() });
        pair.tx_burst(&mut burst(&pool, BEST_EFFORT, 0..50));
        pair.quiesce();
        assert_eq!(wire.lock().unwrap().tx.len(), 1);
        assert_eq!(pool.levels().free, 127);
    }
}
