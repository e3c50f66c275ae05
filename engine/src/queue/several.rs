//! Several queue pairs of one port that one core polls: received from in turn, sent by the first.

use std::os::fd::BorrowedFd;

use pmd::HomePool;
use pmd::port::{Arm, Burst, QueueCounters, QueueFault, QueuePair};

/// At least one queue pair.
pub(crate) struct Several {
    pairs: Vec<Box<dyn QueuePair>>,
    /// Which is polled first, so that a full queue does not starve the others.
    first: usize,
}

impl Several {
    /// One queue pair is itself.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn of(mut pairs: Vec<Box<dyn QueuePair>>) -> Box<dyn QueuePair> {
        assert!(!pairs.is_empty(), "a core that has no queue pair relays");
        if pairs.len() == 1 { pairs.remove(0) } else { Box::new(Several { pairs, first: 0 }) }
    }
}

impl QueuePair for Several {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let count = self.pairs.len();
        self.first = (self.first + 1) % count;
        let mut received = 0;
        for at in 0..count {
            let pair = &mut self.pairs[(self.first + at) % count];
            received += pair.rx_burst(pool, burst, budget - received);
        }
        received
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        self.pairs[0].tx_burst(burst)
    }

    fn tx_room(&mut self) -> usize {
        self.pairs[0].tx_room()
    }

    fn tx_waiting(&mut self) -> usize {
        self.pairs[0].tx_waiting()
    }

    fn quiesce(&mut self) {
        self.pairs.iter_mut().for_each(|pair| pair.quiesce());
    }

    fn counters(&self) -> QueueCounters {
        let mut sum = QueueCounters::default();
        self.pairs.iter().for_each(|pair| sum.add(&pair.counters()));
        sum
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.pairs.iter().for_each(|pair| pair.extra_counters(visit));
    }

    fn fault(&self) -> Option<QueueFault> {
        self.pairs.iter().find_map(|pair| pair.fault())
    }

    fn arm(&mut self) -> Arm {
        self.pairs.iter_mut().fold(Arm::Armed, |arm, pair| arm.and(pair.arm()))
    }

    fn disarm(&mut self) {
        self.pairs.iter_mut().for_each(|pair| pair.disarm());
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        self.pairs.iter().for_each(|pair| pair.wait_fds(visit));
    }

    fn take_handed_on(&mut self) -> bool {
        self.pairs.iter_mut().fold(false, |any, pair| any | pair.take_handed_on())
    }
}
