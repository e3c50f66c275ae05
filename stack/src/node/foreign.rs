//! Packets that were put together on the first core, and are another core's: fragments, and IPv6 packets behind extension
//! headers. [`owner`](crate::steer::owner) sends both to the first core, as it does not look for their ports.

use crate::core::Core;
use crate::link::IpPacket;
use crate::steer::packet_core;

/// Packets that may wait to be handed over. A burst of frames completes no more than as many, and they are taken every turn.
const MAX_FOREIGN: usize = 32;

impl Core {
    /// Whether a packet is another core's.
    pub(super) fn is_foreign(&self, packet: &IpPacket<'_>) -> bool {
        let share = self.config.share;
        share.count > 1
            && share.index == 0
            && packet.is_assembled()
            && packet_core(packet.bytes(), share.count) != share.index
    }

    /// Keeps it for the engine to take. Without room it is dropped, and counted.
    pub(super) fn hand_over(&mut self, packet: IpPacket<'_>) {
        let owner = packet_core(packet.bytes(), self.config.share.count);
        if self.foreign.len() >= MAX_FOREIGN {
            self.counters.reassembled_full += 1;
            return self.link.recycle(packet);
        }
        if let Some(memory) = packet.into_memory() {
            self.counters.reassembled_away += 1;
            self.foreign.push_back((owner, memory));
        }
    }
}
