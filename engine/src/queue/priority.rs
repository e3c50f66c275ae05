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
//!
//! A turn posts no more normal frames than that either. While the other side empties the ring, there would be room again
//! and again, and a turn that goes on for a millisecond keeps an urgent frame waiting outside as well as in the ring.

use std::collections::VecDeque;

use pmd::port::{Arm, Burst, MAX_BURST, QueuePair};
use pmd::{HomePool, Mbuf};

/// Frames of one class that wait outside the ring from one turn to the next.
pub(crate) const WAITING: usize = MAX_BURST;

/// Polls in which normal frames wait and nothing moves in the ring, after which its descriptors count as never to be
/// given back: some tenths of a second on a loop that has nothing else to do.
const STILL_POLLS: u32 = 1 << 20;

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
    /// CS6, CS7 and EF; 128 frames: a burst that the other side takes, and one behind it. `bywash-bench priority` has the
    /// times that come of it, and `--normal-limit` those of other limits.
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
    /// Descriptors that wait for nothing: a driver may post fewer buffers than its ring has places for.
    absent: usize,
    /// Taken descriptors at the last look, and how often they were as many while normal frames waited for them.
    still: (usize, u32),
    /// Normal frames that went to the ring since the last poll, so in this turn.
    posted: usize,
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
            absent: 0,
            still: (0, 0),
            posted: 0,
            tx_urgent: 0,
            tx_waited: 0,
        }
    }

    /// How many normal frames the ring may take when `urgent` ones go before them.
    fn normal_room(&mut self, urgent: usize) -> usize {
        let taken = self.inner.tx_waiting();
        self.absent = self.absent.min(taken);
        let before = taken - self.absent + urgent;
        let limited = usize::from(self.priority.normal_limit).saturating_sub(before.max(self.posted));
        limited.min(self.inner.tx_room().saturating_sub(urgent))
    }

    /// Normal frames wait and may not be posted. If the ring stands still for long, what is taken there is not ours to
    /// wait for: the limit counts from there. Should it move after all, `normal_room` takes that back.
    fn look_whether_still(&mut self) {
        let taken = self.inner.tx_waiting();
        self.still = if self.still.0 == taken { (taken, self.still.1 + 1) } else { (taken, 0) };
        if self.still.1 == STILL_POLLS {
            (self.absent, self.still.1) = (taken, 0);
        }
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
            self.look_whether_still();
            return;
        }
        self.next.extend(self.urgent.drain(..urgent));
        self.next.extend(self.normal.drain(..normal));
        let sent = self.inner.tx_burst(&mut self.next);
        self.tx_urgent += sent.min(urgent) as u64;
        self.posted += sent.saturating_sub(urgent);
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
    forward!(inner: counters, fault, disarm, wait_fds, take_handed_on);

    /// What waited goes first: there may be nothing new to send that would move it.
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let received = self.inner.rx_burst(pool, burst, budget);
        self.posted = 0;
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

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("tx_urgent", self.tx_urgent);
        visit("tx_waited", self.tx_waited);
        self.inner.extra_counters(visit);
    }

    /// As long as a frame waits, the ring is polled for room.
    fn arm(&mut self) -> Arm {
        let ours = if self.urgent.is_empty() && self.normal.is_empty() { Arm::Armed } else { Arm::Ready };
        ours.and(self.inner.arm())
    }
}

#[cfg(test)]
mod tests;
