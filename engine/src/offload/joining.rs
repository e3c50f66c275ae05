//! A queue pair whose port does not join received segments: they are joined as they come out of it ([`gro`](super::gro)).

use pmd::HomePool;
use pmd::port::{Burst, Offloads, QueuePair};

use super::gro::join;
use crate::queue::forward;

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
    forward!(inner: tx_burst, tx_room, tx_room_urgent, tx_waiting, quiesce, counters, fault, arm, disarm, wait_fds, take_handed_on);

    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let before = burst.len();
        if self.inner.rx_burst(pool, burst, budget) > 1 {
            let (frames, segments) = join(burst);
            self.rx_gro += frames;
            self.rx_gro_segments += segments;
        }
        burst.len().saturating_sub(before)
    }

    fn offloads(&self) -> Offloads {
        Offloads { rx_checksum: true, lro4: true, lro6: true, ..self.inner.offloads() }
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("rx_gro", self.rx_gro);
        visit("rx_gro_segments", self.rx_gro_segments);
        self.inner.extra_counters(visit);
    }
}
