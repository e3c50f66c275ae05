//! Wires that are ports themselves, or nothing.

use std::collections::VecDeque;

use pmd::port::{Hub, Port};
use pmd::{Burst, MAX_BURST, QueuePair};

use super::{ETHERTYPE, Memory, Wire};

/// Another port of ours, with memory of its own.
pub struct PortWire {
    came: VecDeque<Vec<u8>>,
    /// Gone once it is dead. In this order: what is posted comes home before the pool goes.
    alive: Option<(Box<dyn Port>, Box<dyn QueuePair>)>,
    memory: Memory,
}

impl PortWire {
    /// The port that `text` names.
    #[must_use]
    pub fn new(hub: &Hub, text: &str) -> Self {
        let memory = Memory::default();
        let mut port = memory.open(hub, text);
        let pair = port.take_queue_pairs().remove(0);
        Self { came: VecDeque::new(), alive: Some((port, pair)), memory }
    }
}

impl Wire for PortWire {
    fn send(&mut self, frame: &[u8]) -> bool {
        let Some((_, pair)) = &mut self.alive else { return false };
        let Some(mut mbuf) = self.memory.pool.alloc() else { return false };
        mbuf.append(frame.len()).unwrap().copy_from_slice(frame);
        let mut burst = Burst::new();
        burst.push(mbuf);
        pair.tx_burst(&mut burst) == 1
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        if let Some((_, pair)) = &mut self.alive {
            let mut burst = Burst::new();
            pair.rx_burst(&self.memory.pool, &mut burst, MAX_BURST);
            // Also where an engine's loop notices that a driver has come, or that frames wait behind a bad link.
            pair.tx_burst(&mut Burst::new());
            let bytes = |mbuf: &pmd::Mbuf| mbuf.segments().flat_map(pmd::Mbuf::data).copied().collect();
            self.came.extend(burst.iter().map(bytes));
        }
        self.came.pop_front()
    }

    fn die(&mut self) {
        // Without a word: neither quiesced nor stopped.
        self.alive = None;
    }
}

/// Nothing is at the other end.
#[derive(Debug, Default)]
pub struct NoWire;

impl Wire for NoWire {
    fn send(&mut self, frame: &[u8]) -> bool {
        debug_assert_eq!(frame[12..14], ETHERTYPE);
        false
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn die(&mut self) {}
}
