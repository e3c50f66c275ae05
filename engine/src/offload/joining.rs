//! A queue pair whose port does not join received segments: they are joined as they come out of it ([`gro`](super::gro)).

use std::os::fd::BorrowedFd;

use pmd::HomePool;
use pmd::port::{Arm, Burst, Offloads, QueueCounters, QueueFault, QueuePair};

use super::gro::join;

/// A queue pair around one that gives single segments.
pub(crate) struct Joining {
    inner: Box<dyn QueuePair>,
    rx_gro: u64,
    rx_gro_segments: u64,
}

impl Joining {
    pub(crate) fn around(inner: Box<dyn QueuePair>) -> Box<dyn QueuePair> {
        Box::new(Joining { inner, rx_gro: 0, rx_gro_segments: 0 })
    }
}

impl QueuePair for Joining {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let before = burst.len();
        if self.inner.rx_burst(pool, burst, budget) > 1 {
            let (frames, segments) = join(burst);
            self.rx_gro += frames;
            self.rx_gro_segments += segments;
        }
        burst.len().saturating_sub(before)
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        self.inner.tx_burst(burst)
    }

    fn tx_room(&mut self) -> usize {
        self.inner.tx_room()
    }

    fn tx_room_urgent(&mut self) -> usize {
        self.inner.tx_room_urgent()
    }

    fn tx_waiting(&mut self) -> usize {
        self.inner.tx_waiting()
    }

    fn offloads(&self) -> Offloads {
        Offloads { rx_checksum: true, lro4: true, lro6: true, ..self.inner.offloads() }
    }

    fn quiesce(&mut self) {
        self.inner.quiesce();
    }

    fn counters(&self) -> QueueCounters {
        self.inner.counters()
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("rx_gro", self.rx_gro);
        visit("rx_gro_segments", self.rx_gro_segments);
        self.inner.extra_counters(visit);
    }

    fn fault(&self) -> Option<QueueFault> {
        self.inner.fault()
    }

    fn arm(&mut self) -> Arm {
        self.inner.arm()
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.inner.wait_fds(visit);
    }

    fn take_handed_on(&mut self) -> bool {
        self.inner.take_handed_on()
    }
}
