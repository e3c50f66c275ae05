//! The MTU of the link, which may change while it is in use: somebody sets the interface's anew, or the port's other side
//! comes back as another.

use super::Link;

impl Link {
    /// Packets of at most `mtu` bytes fit the link from now on. What a router said of IPv6's holds as long as it fits; once
    /// it has not, its next advertisement says it again.
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        if self.mtu_v6 == self.mtu || self.mtu_v6 > mtu {
            self.mtu_v6 = mtu;
            self.changed = true;
        }
        self.mtu = mtu;
    }
}
