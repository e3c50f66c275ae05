//! What the first core of several learns for all: addresses, routes, and the MTU of IPv6.

use super::{Event, Link};
use crate::routes::Routes;

/// What one core has learnt and the others need: addresses, routes, MTU of IPv6.
#[derive(Debug, Clone)]
pub(crate) struct LinkState {
    routes: Routes,
    mtu_v6: usize,
    hop_limit: u8,
}

impl Link {
    /// What the other cores have to know, if it changed since the last call.
    pub(crate) fn learnt(&mut self) -> Option<LinkState> {
        core::mem::take(&mut self.changed).then(|| self.state())
    }

    /// The same, changed or not.
    pub(crate) fn state(&self) -> LinkState {
        LinkState { routes: self.routes.clone(), mtu_v6: self.mtu_v6, hop_limit: self.hop_limit }
    }

    /// Takes over what the first core has learnt.
    pub(crate) fn learn(&mut self, state: &LinkState) {
        let before = core::mem::replace(self.routes_mut(), state.routes.clone());
        // It may have learnt that before the link's changed.
        self.mtu_v6 = state.mtu_v6.min(self.mtu);
        self.hop_limit = state.hop_limit;
        for cidr in state.routes.addresses() {
            if !before.is_ours(cidr.address()) {
                self.event(Event::AddressAdded(*cidr));
            }
        }
        for cidr in before.addresses() {
            if !self.routes.is_ours(cidr.address()) {
                self.event(Event::AddressRemoved(*cidr));
            }
        }
    }
}
