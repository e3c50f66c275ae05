//! A queue pair whose port does not segment, or not always: the frames that it cannot take are cut on their way to it.
//!
//! ```text
//!   tx_burst ─► all fit the port? ─► the port
//!                      └ no ─► waiting ─► Cut ─► out ─► the port
//! ```
//!
//! It is there only where frames of 64 KiB can come up and the port may not take them: another port of the engine
//! receives such, or a stack counts on a device's driver that turns out to take none.

use std::collections::VecDeque;

use pmd::port::{Arm, Burst, MAX_BURST, Offloads, QueuePair};
use pmd::{HomePool, Mbuf};

use super::gso::Cut;
use crate::queue::forward;

/// Frames that wait to be cut, or behind one that is.
const WAITING: usize = MAX_BURST;
/// Mbufs held for segments between two polls, once there was need of one: those of five frames of 64 KiB. Others come with
/// the next poll.
const SPARE: usize = 256;

/// A queue pair around one that may not segment.
pub(crate) struct Segmenting {
    inner: Box<dyn QueuePair>,
    waiting: VecDeque<Mbuf>,
    cut: Option<Cut>,
    /// What goes to the port next.
    out: Box<Burst>,
    spare: Vec<Mbuf>,
    /// Whether a frame ever had to be cut.
    cuts: bool,
    tx_gso: u64,
    tx_gso_segments: u64,
    tx_gso_dropped: u64,
}

impl Segmenting {
    /// `pair` itself if it segments whatever can come.
    pub(crate) fn around(pair: Box<dyn QueuePair>) -> Box<dyn QueuePair> {
        let Offloads { tx_checksum, tso4, tso6, tso_ecn, .. } = pair.offloads();
        if tx_checksum && tso4 && tso6 && tso_ecn {
            return pair;
        }
        Box::new(Self::new(pair))
    }

    fn new(inner: Box<dyn QueuePair>) -> Self {
        Self {
            inner,
            waiting: VecDeque::with_capacity(WAITING),
            cut: None,
            out: Box::default(),
            spare: Vec::with_capacity(SPARE),
            cuts: false,
            tx_gso: 0,
            tx_gso_segments: 0,
            tx_gso_dropped: 0,
        }
    }

    fn is_idle(&self) -> bool {
        self.cut.is_none() && self.waiting.is_empty() && self.out.is_empty()
    }

    /// Cuts and sends until there is no more to send, no room, or no mbuf: `more` gives those.
    fn pump(&mut self, more: &mut dyn FnMut(usize) -> Option<Mbuf>) {
        let can = self.inner.offloads();
        loop {
            let starved = !self.fill(can, more);
            if self.out.is_empty() {
                return;
            }
            self.inner.tx_burst(&mut self.out);
            if starved || !self.out.is_empty() {
                return;
            }
        }
    }

    /// Fills `out`, as far as there is something. False when mbufs ran out.
    fn fill(&mut self, can: Offloads, more: &mut dyn FnMut(usize) -> Option<Mbuf>) -> bool {
        while !self.out.is_full() {
            if let Some(cut) = &mut self.cut {
                let Some(mbuf) = more(cut.longest()) else { return false };
                match cut.next(mbuf, can.tx_checksum) {
                    Some(segment) => {
                        self.tx_gso_segments += 1;
                        self.out.push(segment);
                    }
                    None => {
                        self.tx_gso_dropped += 1;
                        self.cut = None;
                        continue;
                    }
                }
                if cut.is_done() {
                    self.cut = None;
                }
                continue;
            }
            let Some(frame) = self.waiting.pop_front() else { return true };
            if can.can_segment(&frame) {
                self.out.push(frame);
                continue;
            }
            match Cut::new(frame) {
                Ok(cut) => {
                    self.tx_gso += 1;
                    self.cut = Some(cut);
                }
                Err(frame) => {
                    self.tx_gso_dropped += 1;
                    drop(frame);
                }
            }
        }
        true
    }
}

impl QueuePair for Segmenting {
    forward!(inner: counters, fault, disarm, wait_fds, take_handed_on);

    /// What is left to be cut goes first: there may be nothing new to send that would move it.
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        if self.cuts {
            if !self.is_idle() {
                self.pump(&mut |bytes| pool.alloc_for(bytes));
            }
            let missing = SPARE - self.spare.len();
            self.spare.extend(pool.alloc_bulk(missing));
        }
        self.inner.rx_burst(pool, burst, budget)
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if self.is_idle() {
            let is_long = |frame: &Mbuf| frame.offload().segmentation().is_some();
            if !burst.iter().any(is_long) {
                return self.inner.tx_burst(burst);
            }
            let can = self.inner.offloads();
            if burst.iter().all(|frame| can.can_segment(frame)) {
                return self.inner.tx_burst(burst);
            }
        }
        self.cuts = true;
        let taken = burst.len().min(WAITING - self.waiting.len());
        self.waiting.extend(burst.drain(..taken));
        let mut spare = std::mem::take(&mut self.spare);
        self.pump(&mut |bytes| spare.pop_if(|mbuf| bytes <= mbuf.tailroom()));
        self.spare = spare;
        taken
    }

    /// None as long as something waits: what the port has room for then is for that.
    fn tx_room(&mut self) -> usize {
        if self.is_idle() { self.inner.tx_room() } else { 0 }
    }

    fn tx_room_urgent(&mut self) -> usize {
        if self.is_idle() { self.inner.tx_room_urgent() } else { 0 }
    }

    fn tx_waiting(&mut self) -> usize {
        self.inner.tx_waiting() + self.waiting.len() + self.out.len()
    }

    /// Whatever the port does not, is done here.
    fn offloads(&self) -> Offloads {
        Offloads { tx_checksum: true, tso4: true, tso6: true, tso_ecn: true, ..self.inner.offloads() }
    }

    /// What still waits is gone, as what is in the ring is.
    fn quiesce(&mut self) {
        (self.cut, self.cuts) = (None, false);
        self.waiting.clear();
        self.out.clear();
        self.spare.clear();
        self.inner.quiesce();
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("tx_gso", self.tx_gso);
        visit("tx_gso_segments", self.tx_gso_segments);
        visit("tx_gso_dropped", self.tx_gso_dropped);
        self.inner.extra_counters(visit);
    }

    fn arm(&mut self) -> Arm {
        // `disarm` follows in any case.
        match self.inner.arm() {
            Arm::Armed if !self.is_idle() => Arm::Ready,
            arm => arm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::test_frames::{Made, home_with_long, made, pieces};
    use crate::queue::test_pair::{TestPair, extra, frame};

    fn long(sequence: u32) -> Vec<u8> {
        made(&Made { v6: sequence % 2 == 1, payload: 50_000, flags: 0x18, sequence, options: 3, id: 7 })
    }

    #[test]
    fn long_frames_are_cut_in_order_whatever_room_there_is_and_nothing_is_lost() {
        let pool = home_with_long(16);
        let free = pool.levels().free;
        let (pair, wire) = TestPair::new(24);
        let mut pair = Segmenting::around(pair);
        let mut burst = Burst::new();
        burst.push(frame(&pool, &[1; 60]));
        burst.push(pieces(&pool, &long(2), 66_000, Some(1448)));
        burst.push(frame(&pool, &[2; 60]));
        burst.push(pieces(&pool, &long(3), 1000, Some(1448)));
        burst.push(frame(&pool, &[3; 60]));
        assert_eq!(pair.tx_burst(&mut burst), 5);
        let (mut sent, mut streams) = (Vec::new(), [2_u32, 3]);
        for _ in 0..20 {
            pair.rx_burst(&pool, &mut Burst::new(), 64);
            sent.extend(wire.lock().unwrap().tx.drain(..));
        }
        assert_eq!(sent.len(), 3 + 2 * 35);
        assert_eq!([sent[0].data()[0], sent[36].data()[0], sent[72].data()[0]], [1, 2, 3]);
        for (which, range) in [1..36, 37..72].into_iter().enumerate() {
            for segment in &sent[range] {
                assert!(segment.offload().is_complete(), "the port sums nothing");
                let headers = crate::offload::headers::Headers::of(segment.data()).unwrap();
                let at: [u8; 4] = segment.data()[headers.tcp + 4..][..4].try_into().unwrap();
                assert_eq!(u32::from_be_bytes(at), streams[which]);
                streams[which] += (segment.len() - headers.payload) as u32;
            }
        }
        assert_eq!(streams, [50_002, 50_003]);
        assert_eq!((extra(&*pair, "tx_gso"), extra(&*pair, "tx_gso_segments")), (2, 70));
        assert!(pair.tx_room() > 0);
        drop((sent, pair));
        assert_eq!(pool.levels().free, free);
    }

    #[test]
    fn what_cannot_be_cut_is_counted_and_not_sent() {
        let pool = home_with_long(4);
        let (pair, wire) = TestPair::new(24);
        let mut pair = Segmenting::around(pair);
        let mut burst = Burst::new();
        let mut bad = pieces(&pool, &long(2), 66_000, Some(1448));
        bad.data_mut().unwrap()[23] = 17;
        burst.push(bad);
        assert_eq!(pair.tx_burst(&mut burst), 1);
        assert_eq!((extra(&*pair, "tx_gso_dropped"), wire.lock().unwrap().tx.len()), (1, 0));
        assert!(pair.tx_room() > 0);
    }
}
