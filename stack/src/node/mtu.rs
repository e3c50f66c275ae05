//! An MTU that changes under connections.

use super::Stack;
use crate::core::Core;
use crate::flow::Phase;

impl<S> Stack<S> {
    /// The port carries IP packets of at most `mtu` bytes from now on; less than the least that a stack can have counts as
    /// that. Connections that send larger ones send smaller ones at once, also again what is on its way; new ones announce
    /// segments that fit. Cold: visits every flow.
    pub fn set_mtu(&mut self, mtu: usize) {
        let mtu = mtu.clamp(self.core.config.least_mtu(), 65_535);
        self.core.link.set_mtu(mtu);
        self.core.shrink_to_link();
    }
}

impl Core {
    /// Gives every flow whose packets are too long for its path an interface whose are not.
    fn shrink_to_link(&mut self) {
        for index in 0..u32::try_from(self.flows.slots()).unwrap_or(u32::MAX) {
            let flow = self.flows.peek(index);
            if flow.phase == Phase::Vacant {
                continue;
            }
            let fits = self.link.path_mtu(flow.tuple.remote.addr);
            if self.interfaces.mtu(flow.interface) > fits {
                self.flows.at(index).interface = self.interfaces.for_mtu(fits);
                self.touch(index);
            }
        }
    }
}
