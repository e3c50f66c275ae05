//! A queue pair whose other side is the test: what it receives is put in, what it sends is taken out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use pmd::mem::{PoolConfig, RegionConfig};
use pmd::port::{Burst, QueueCounters, QueueFault, QueuePair};
use pmd::{HomePool, Mbuf, Pool, Region};

/// The wire of a [`TestPair`].
#[derive(Default)]
pub(crate) struct Wire {
    /// Will be received.
    pub rx: VecDeque<Mbuf>,
    /// Was sent, and lies in the ring until the test takes it.
    pub tx: VecDeque<Mbuf>,
    /// Bursts sent that held a frame.
    pub bursts: usize,
}

/// A queue pair with a transmit ring of `ring` frames.
pub(crate) struct TestPair {
    pub wire: Arc<Mutex<Wire>>,
    pub ring: usize,
    /// Descriptors of the ring that its other side never offers.
    pub absent: usize,
}

impl TestPair {
    pub(crate) fn new(ring: usize) -> (Box<TestPair>, Arc<Mutex<Wire>>) {
        let wire = Arc::new(Mutex::new(Wire::default()));
        (Box::new(TestPair { wire: Arc::clone(&wire), ring, absent: 0 }), wire)
    }
}

impl QueuePair for TestPair {
    fn rx_burst(&mut self, _pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let mut wire = self.wire.lock().unwrap();
        let count = wire.rx.len().min(budget).min(burst.remaining_capacity());
        burst.extend(wire.rx.drain(..count));
        count
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        let mut wire = self.wire.lock().unwrap();
        let count = (self.ring - self.absent - wire.tx.len()).min(burst.len());
        wire.tx.extend(burst.drain(..count));
        wire.bursts += usize::from(count > 0);
        count
    }

    fn tx_room(&mut self) -> usize {
        self.ring - self.absent - self.wire.lock().unwrap().tx.len()
    }

    fn tx_waiting(&mut self) -> usize {
        self.absent + self.wire.lock().unwrap().tx.len()
    }

    fn quiesce(&mut self) {}

    fn counters(&self) -> QueueCounters {
        QueueCounters::default()
    }

    fn fault(&self) -> Option<QueueFault> {
        None
    }
}

/// A pool of `mbufs`, adopted by the calling thread.
pub(crate) fn home(mbufs: usize) -> HomePool {
    home_of(PoolConfig { mbufs, ..PoolConfig::default() })
}

/// A pool of such mbufs, at home here.
pub(crate) fn home_of(config: PoolConfig) -> HomePool {
    let len_bytes = config.region_bytes() + 4096;
    let region = RegionConfig { len_bytes, page: pmd::mem::PageSize::Ordinary, numa_node: None };
    Pool::new(&Region::new(region).unwrap(), config).unwrap().adopt().unwrap()
}

/// A frame of these bytes.
pub(crate) fn frame(pool: &HomePool, bytes: &[u8]) -> Mbuf {
    let mut frame = pool.alloc().unwrap();
    frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
    frame
}

/// What a queue pair counts beyond the common counters.
pub(crate) fn extra(pair: &dyn QueuePair, name: &str) -> u64 {
    let mut found = 0;
    pair.extra_counters(&mut |have, count| found += if have == name { count } else { 0 });
    found
}
