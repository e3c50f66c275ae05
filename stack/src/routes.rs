//! Our addresses, the prefixes on the link, and where everything else goes.

use core::cmp::Reverse;

use smoltcp::wire::{IpAddress, IpCidr, Ipv4Address, Ipv6Address};

use crate::clock::Time;
use crate::config::MAX_ADDRESSES;

/// Routes that one stack can have, on-link prefixes and gateways included.
pub(crate) const MAX_ROUTES: usize = 256;

/// Who told us about a route; what one source withdraws, the others keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Configuration, or the prefix of an address of ours.
    Static,
    /// The DHCP server.
    Dhcp,
    /// A router advertisement.
    Advertised,
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) prefix: IpCidr,
    /// The router, or `None` for a prefix that is on the link.
    pub(crate) via: Option<IpAddress>,
    pub(crate) origin: Origin,
    /// When it ends, if it does.
    pub(crate) until: Option<Time>,
}

/// Addresses and routes. Small tables that are searched linearly: longest prefix first.
#[derive(Debug, Default, Clone)]
pub(crate) struct Routes {
    addresses: Vec<IpCidr>,
    routes: Vec<Route>,
}

impl Routes {
    /// Adds an address and makes its prefix on-link. `false` if it is there already or the table is full.
    pub(crate) fn add_address(&mut self, cidr: IpCidr, on_link: bool) -> bool {
        if self.addresses.len() >= MAX_ADDRESSES || self.is_ours(cidr.address()) {
            return false;
        }
        self.addresses.push(cidr);
        if on_link {
            self.add(Route { prefix: cidr, via: None, origin: Origin::Static, until: None });
        }
        true
    }

    /// Takes an address away, and its on-link prefix unless another address shares it.
    pub(crate) fn remove_address(&mut self, address: IpAddress) -> Option<IpCidr> {
        let at = self.addresses.iter().position(|a| a.address() == address)?;
        let cidr = self.addresses.remove(at);
        if !self.addresses.iter().any(|a| same_prefix(*a, cidr)) {
            self.routes
                .retain(|r| !(r.via.is_none() && r.origin == Origin::Static && same_prefix(r.prefix, cidr)));
        }
        Some(cidr)
    }

    /// Our addresses.
    pub(crate) fn addresses(&self) -> &[IpCidr] {
        &self.addresses
    }

    /// Whether `address` is one of ours.
    pub(crate) fn is_ours(&self, address: IpAddress) -> bool {
        self.addresses.iter().any(|a| a.address() == address)
    }

    /// Adds a route, or renews the one with the same prefix, router and origin. `false` if the table is full.
    pub(crate) fn add(&mut self, route: Route) -> bool {
        let same =
            |r: &Route| same_prefix(r.prefix, route.prefix) && r.via == route.via && r.origin == route.origin;
        if let Some(old) = self.routes.iter_mut().find(|r| same(r)) {
            old.until = route.until;
            return true;
        }
        if self.routes.len() >= MAX_ROUTES {
            return false;
        }
        // Longest first, and among equals the one that was there first: `lookup` takes the first that fits.
        let length = Reverse(route.prefix.prefix_len());
        let at = self.routes.partition_point(|r| Reverse(r.prefix.prefix_len()) <= length);
        self.routes.insert(at, route);
        true
    }

    /// Removes the routes for which `gone` holds.
    pub(crate) fn remove(&mut self, gone: impl Fn(&Route) -> bool) {
        self.routes.retain(|r| !gone(r));
    }

    /// Whether there is a route for which `is` holds.
    pub(crate) fn any(&self, is: impl Fn(&Route) -> bool) -> bool {
        self.routes.iter().any(is)
    }

    /// How many routes `origin` gave us.
    pub(crate) fn count(&self, origin: Origin) -> usize {
        self.routes.iter().filter(|r| r.origin == origin).count()
    }

    /// The address to resolve for `dst`: itself if it is on the link, else a router's. `None`: no route.
    ///
    /// Groups, broadcast and link-local destinations are on the link whatever the table says.
    pub(crate) fn via(&self, dst: IpAddress) -> Option<IpAddress> {
        if dst.is_unspecified() {
            return None;
        }
        if dst.is_multicast() || dst.is_broadcast() || is_link_local(dst) {
            return Some(dst);
        }
        let route = self.routes.iter().find(|r| r.prefix.contains_addr(&dst))?;
        Some(route.via.unwrap_or(dst))
    }

    /// Whether neighbours with this address can be on our link.
    pub(crate) fn on_link(&self, address: IpAddress) -> bool {
        address.is_unicast()
            && (matches!(address, IpAddress::Ipv6(_)) && is_link_local(address)
                || self.routes.iter().any(|r| r.via.is_none() && r.prefix.contains_addr(&address)))
    }

    /// Whether `address` is the limited broadcast address or that of one of our IPv4 networks.
    pub(crate) fn is_broadcast(&self, address: Ipv4Address) -> bool {
        address.is_broadcast()
            || self.addresses.iter().any(|a| match a {
                IpCidr::Ipv4(cidr) => cidr.broadcast() == Some(address),
                IpCidr::Ipv6(_) => false,
            })
    }

    /// The address to send from to `dst`: same scope, then the longest common prefix with the next hop.
    ///
    /// Source: RFC 6724 §5, rules 1, 2 and 8; the others concern what we do not have (home addresses,
    /// several interfaces, labels).
    pub(crate) fn source(&self, dst: IpAddress) -> Option<IpAddress> {
        if self.is_ours(dst) {
            return Some(dst);
        }
        let near = match self.via(dst) {
            Some(via) if !via.is_multicast() && !via.is_broadcast() => via,
            _ => dst,
        };
        let candidates = self.addresses.iter().map(IpCidr::address);
        match dst {
            IpAddress::Ipv4(_) => candidates
                .filter(|a| matches!(a, IpAddress::Ipv4(_)))
                .rev()
                .max_by_key(|a| common_prefix_len(*a, near)),
            IpAddress::Ipv6(v6) => {
                let local = is_link_local(dst) || is_link_local_group(v6);
                candidates
                    .filter(|a| matches!(a, IpAddress::Ipv6(_)))
                    .rev()
                    // A link-local source never leaves the link, so it is no source for a wider scope.
                    .filter(|a| local || !is_link_local(*a))
                    .max_by_key(|a| (is_link_local(*a) == local, common_prefix_len(*a, dst)))
            }
        }
    }

    /// Drops what has run out.
    pub(crate) fn expire(&mut self, now: Time) {
        self.routes.retain(|r| r.until.is_none_or(|until| until > now));
    }

    /// When [`Routes::expire`] has something to do.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        self.routes.iter().filter_map(|r| r.until).min()
    }
}

/// `fe80::/10` or `169.254/16`.
pub(crate) fn is_link_local(address: IpAddress) -> bool {
    match address {
        IpAddress::Ipv4(v4) => v4.is_link_local(),
        IpAddress::Ipv6(v6) => v6.is_unicast_link_local(),
    }
}

/// `ff02::/16`.
fn is_link_local_group(address: Ipv6Address) -> bool {
    address.segments()[0] == 0xff02
}

/// Whether two prefixes are the same network, whatever their host bits say.
fn same_prefix(a: IpCidr, b: IpCidr) -> bool {
    a.prefix_len() == b.prefix_len() && a.contains_addr(&b.address())
}

fn common_prefix_len(a: IpAddress, b: IpAddress) -> u32 {
    match (a, b) {
        (IpAddress::Ipv4(a), IpAddress::Ipv4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddress::Ipv6(a), IpAddress::Ipv6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
