//! Routers: solicitation and advertisements (RFC 4861 §6.3), prefixes for autoconfiguration (RFC 4862 §5.5),
//! name servers (RFC 8106 §5.1).

use core::time::Duration;

use smoltcp::wire::{
    Icmpv6Packet, IpAddress, Ipv6Address, Ipv6Cidr, NdiscOption, NdiscOptionType, NdiscPrefixInfoFlags,
    NdiscRepr,
};

use super::ndp::{link_layer, options};
use super::{Event, FrameOut, Link, default_prefix};
use crate::clock::Time;
use crate::neighbours::News;
use crate::routes::{Origin, Route, is_link_local};

const ALL_ROUTERS: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Routes taken from advertisements, routers and prefixes together: a flood of them must not grow anything.
const MAX_ADVERTISED: usize = 32;
/// Name servers taken from one advertisement. Source: RFC 8106 §5.3.1.
const MAX_NAME_SERVERS: usize = 3;
/// Smallest MTU of a link with IPv6. Source: RFC 8200 §5.
const MIN_MTU: usize = 1280;
/// A lifetime that never ends. Source: RFC 4861 §4.6.2.
const INFINITE: u64 = 0xffff_ffff;
/// Option type of name servers. Source: RFC 8106 §5.1.
const RDNSS: u8 = 25;

impl Link {
    pub(super) fn solicit_routers(&mut self, out: &mut dyn FrameOut) {
        let Some(IpAddress::Ipv6(source)) = self.routes.source(ALL_ROUTERS.into()) else { return };
        let repr = NdiscRepr::RouterSolicit { lladdr: Some(self.mac.into()) };
        self.send_ndisc(repr, (source, ALL_ROUTERS), None, out);
    }

    /// RFC 4861 §6.3.4. `false`: the message breaks §6.1.2.
    pub(super) fn router_advertised(
        &mut self,
        now: Time,
        message: &Icmpv6Packet<&[u8]>,
        router: Ipv6Address,
        out: &mut dyn FrameOut,
    ) -> bool {
        let via = IpAddress::Ipv6(router);
        if !is_link_local(via) {
            return false;
        }
        // The other cores learn from the first.
        if !self.first {
            return true;
        }
        if !self.autoconf.is_enabled() {
            self.counters.ra_ignored += 1;
            return true;
        }
        self.counters.router_advertisements += 1;
        self.autoconf.router_heard();
        let until = until(now, message.router_lifetime().secs());
        let default = default_prefix(via);
        if until == Some(now) {
            self.routes_mut().remove(|r| r.via == Some(via) && r.origin == Origin::Advertised);
        } else {
            self.advertised_route(Route {
                prefix: default,
                via: Some(via),
                origin: Origin::Advertised,
                until,
            });
        }
        if message.current_hop_limit() != 0 {
            self.hop_limit = message.current_hop_limit();
        }
        if let Some(mac) = link_layer(message, NdiscOptionType::SourceLinkLayerAddr) {
            let news = News { solicited: false, replace: true, create: true };
            self.learn_neighbour(now, via, mac, news, out);
        }
        for option in options(message).flatten() {
            match option.option_type() {
                NdiscOptionType::Mtu => self.advertised_mtu(&option),
                NdiscOptionType::PrefixInformation => self.advertised_prefix(now, &option),
                NdiscOptionType::Unknown(RDNSS) => self.advertised_name_servers(&option),
                _ => {}
            }
        }
        self.changed = true;
        true
    }

    fn advertised_route(&mut self, route: Route) {
        if self.routes.count(Origin::Advertised) >= MAX_ADVERTISED {
            // Renewals find their place; only new ones are too many.
            let known =
                |r: &Route| r.prefix == route.prefix && r.via == route.via && r.origin == route.origin;
            if !self.routes.any(known) {
                self.counters.ra_ignored += 1;
                return;
            }
        }
        self.routes_mut().add(route);
    }

    fn advertised_mtu(&mut self, option: &NdiscOption<&[u8]>) {
        let mtu = usize::try_from(option.mtu()).unwrap_or(usize::MAX);
        if (MIN_MTU..=self.mtu).contains(&mtu) {
            self.mtu_v6 = mtu;
        }
    }

    fn advertised_prefix(&mut self, now: Time, option: &NdiscOption<&[u8]>) {
        let (prefix, len, flags) = (option.prefix(), option.prefix_len(), option.prefix_flags());
        if prefix.is_multicast() || is_link_local(prefix.into()) || len > 128 {
            self.counters.ra_ignored += 1;
            return;
        }
        let valid = option.valid_lifetime().secs();
        let cidr = Ipv6Cidr::new(prefix, len);
        if flags.contains(NdiscPrefixInfoFlags::ON_LINK) {
            let until = until(now, valid);
            let route = Route { prefix: cidr.into(), via: None, origin: Origin::Advertised, until };
            if until == Some(now) {
                self.routes_mut().remove(|r| {
                    r.prefix == route.prefix && r.via.is_none() && r.origin == Origin::Advertised
                });
            } else {
                self.advertised_route(route);
            }
        }
        // RFC 4862 §5.5.3: only where the interface identifier fits, and only lifetimes that make sense.
        if flags.contains(NdiscPrefixInfoFlags::ADDRCONF) && option.preferred_lifetime().secs() <= valid {
            let valid = (valid != INFINITE).then(|| Duration::from_secs(valid));
            if len != 64 || !self.autoconf.prefix(cidr, valid, now) {
                self.counters.ra_ignored += 1;
            }
        }
    }

    fn advertised_name_servers(&mut self, option: &NdiscOption<&[u8]>) {
        // Behind type and length: two bytes reserved, four of lifetime, then addresses.
        let Some((&[_, _, l1, l2, l3, l4], addresses)) = option.data().split_first_chunk::<6>() else {
            return;
        };
        if u32::from_be_bytes([l1, l2, l3, l4]) == 0 {
            return;
        }
        for address in addresses.as_chunks::<16>().0.iter().take(MAX_NAME_SERVERS) {
            let server = IpAddress::Ipv6(Ipv6Address::from(*address));
            if server.is_unicast() {
                self.event(Event::NameServer(server));
            }
        }
    }
}

/// When a lifetime that was told now ends.
fn until(now: Time, lifetime_s: u64) -> Option<Time> {
    (lifetime_s != INFINITE).then(|| now + Duration::from_secs(lifetime_s))
}
