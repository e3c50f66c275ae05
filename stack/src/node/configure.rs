//! Addresses, routes and name servers as they come and go: DHCP, router advertisements, the resolver, and what the other
//! cores are told of it.

use std::time::Duration;

use smoltcp::phy::Device;
use smoltcp::wire::{IpAddress, IpCidr, IpEndpoint, IpRepr};

use super::Stack;
use crate::clock::Time;
use crate::configure::{Event as DhcpEvent, Lease};
use crate::core::Core;
use crate::emit::DeviceOut;
use crate::error::Closed;
use crate::flow::Phase;
use crate::link::{Event, FrameOut, Link, LinkState};
use crate::net::Net;
use crate::resolve::Below;
use crate::routes::Origin;
use crate::service::Service;
use crate::steer::udp_core;
use crate::udp::Udp;

/// What core 0 has learnt and the stacks of the other cores need: addresses, routes, name servers.
#[derive(Clone, Debug)]
pub struct Learnt {
    link: LinkState,
    dns: Vec<IpAddress>,
}

impl<S: Service> Stack<S> {
    /// Addresses, routes and name servers for the stacks of the other cores, if they changed since the last call.
    /// Allocates then.
    pub fn learnt(&mut self) -> Option<Learnt> {
        let core = &mut self.core;
        let state = core.link.learnt();
        if state.is_none() && !core.dns_changed {
            return None;
        }
        core.dns_changed = false;
        Some(Learnt { link: state.unwrap_or_else(|| core.link.state()), dns: core.learnt_dns.clone() })
    }

    /// Takes over what core 0 has learnt. The service hears of new addresses in the next turn.
    pub fn learn(&mut self, learnt: &Learnt, now: Time) {
        self.core.now = self.core.now.max(now);
        self.core.link.learn(&learnt.link);
        self.core.learnt_dns.clone_from(&learnt.dns);
        self.core.set_servers();
    }

    /// What the link layer has found out.
    #[inline]
    pub(super) fn events<D: Device>(&mut self, device: &mut D) {
        if self.core.link.has_events() {
            self.take_events(device);
        }
    }

    #[cold]
    fn take_events<D: Device>(&mut self, device: &mut D) {
        while let Some(event) = self.core.link.events() {
            match event {
                Event::Resolved(_) => self.core.wake_waiting(),
                Event::Unresolvable(hop) => self.core.unresolvable(hop),
                Event::Undeliverable(error) => self.icmp_error(&error, device),
                // A link-local address of the stack's own making reaches no router's or name server's other side: services
                // that wait for an address wait for one that does, from SLAAC or DHCP.
                Event::AddressAdded(IpCidr::Ipv6(cidr))
                    if cidr.address().is_unicast_link_local()
                        && !self.core.config.addresses.contains(&IpCidr::Ipv6(cidr)) => {}
                Event::AddressAdded(_) => {
                    let mut net = Net { core: &mut self.core, out: &mut DeviceOut(device) };
                    self.service.configured(&mut net);
                }
                Event::AddressRemoved(cidr) => self.core.address_lost(cidr.address()),
                Event::Conflict { address, mac } => {
                    log::warn!("{address} is used by {mac} as well; give one of the two another address");
                }
                Event::NameServer(server) => {
                    if !self.core.learnt_dns.contains(&server) && self.core.learnt_dns.len() < MOST_SERVERS {
                        self.core.learnt_dns.push(server);
                        self.core.set_servers();
                    }
                }
            }
        }
    }

    /// The resolver's answers to the service.
    pub(super) fn answers<D: Device>(&mut self, device: &mut D) {
        while let Some((query, answer)) = self.core.resolver.answer() {
            let mut net = Net { core: &mut self.core, out: &mut DeviceOut(device) };
            let answer = answer.as_deref().map_err(|error| *error);
            self.service.resolved(query, answer, &mut net);
        }
    }
}

/// Learnt name servers that are kept.
const MOST_SERVERS: usize = 8;

/// How often chores are seen to. They have timers of milliseconds and more, but looking at those costs as much as a
/// tenth of a request.
const CHORES: Duration = Duration::from_micros(50);

impl Core {
    /// What is due of everything that is not a connection: neighbours, router solicitations, DHCP, name servers,
    /// TIME-WAIT. Not more often than every [`CHORES`].
    pub(super) fn chores(&mut self, out: &mut dyn FrameOut) -> bool {
        if self.now < self.chores_at {
            return false;
        }
        self.chores_at = self.now + CHORES;
        self.time_wait.expire(self.now);
        let mut done = self.link.turn(self.now, out);
        done |= self.configure_turn(out);
        done | self.resolver_turn(out)
    }

    /// The DHCP client's turn.
    fn configure_turn(&mut self, out: &mut dyn FrameOut) -> bool {
        let Some(dhcp) = &mut self.dhcp else { return false };
        let (link, now) = (&mut self.link, self.now);
        // What cannot be sent is lost; the client asks again.
        let done = dhcp.turn(now, &mut |repr, datagram| {
            let _ = send(link, now, repr, datagram, out);
        });
        self.leases();
        done
    }

    /// Takes over what the DHCP client was given, or has lost.
    pub(super) fn leases(&mut self) {
        while let Some(event) = self.dhcp.as_mut().and_then(|dhcp| dhcp.event()) {
            let new = match event {
                DhcpEvent::Configured(lease) => Some(lease),
                DhcpEvent::Deconfigured => None,
            };
            let old = std::mem::replace(&mut self.lease, new.clone());
            self.end_lease(old.as_ref(), new.as_ref());
            if let Some(lease) = &new {
                self.link.add_address(IpCidr::Ipv4(lease.address), self.now);
                if let Some(router) = lease.router {
                    self.link.set_gateway(router.into(), Origin::Dhcp);
                }
                let servers = lease.dns.iter().map(|server| IpAddress::Ipv4(*server));
                self.learnt_dns.splice(0..0, servers);
            }
            self.set_servers();
        }
    }

    fn end_lease(&mut self, old: Option<&Lease>, new: Option<&Lease>) {
        let Some(old) = old else { return };
        self.learnt_dns
            .retain(|server| !matches!(server, IpAddress::Ipv4(server) if old.dns.contains(server)));
        self.link.clear_gateway(old.address.address().into(), Origin::Dhcp);
        if new.is_none_or(|new| new.address != old.address) {
            self.link.remove_address(old.address.address().into());
        }
    }

    fn set_servers(&mut self) {
        let servers: Vec<IpAddress> = self.config.dns.iter().chain(&self.learnt_dns).copied().collect();
        self.resolver.set_servers(&servers);
        self.dns_changed = true;
    }

    /// Connections from an address that is no longer ours end without a word: none may leave from it.
    fn address_lost(&mut self, address: IpAddress) {
        for index in 0..self.flows.slots() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let flow = self.flows.peek(index);
            if flow.tuple.local.addr == address && !matches!(flow.phase, Phase::Vacant | Phase::Unread) {
                self.fail(index, Closed::NoRoute);
            }
        }
    }

    /// The resolver's turn.
    fn resolver_turn(&mut self, out: &mut dyn FrameOut) -> bool {
        let Core { resolver, link, udp, now, config, .. } = self;
        let share = (config.share.index, config.share.count);
        resolver.turn(*now, &mut BelowResolver { link, udp, now: *now, share, out })
    }
}

/// The layers below the resolver.
struct BelowResolver<'a> {
    link: &'a mut Link,
    udp: &'a Udp,
    now: Time,
    share: (u16, u16),
    out: &'a mut dyn FrameOut,
}

impl Below for BelowResolver<'_> {
    fn source(&mut self, to: IpAddress) -> Option<IpAddress> {
        self.link.via(to)?;
        self.link.source(to)
    }

    fn port_fits(&mut self, local: IpAddress, port: u16, server: IpAddress) -> bool {
        let (index, count) = self.share;
        let local = IpEndpoint::new(local, port);
        self.udp.find(local).is_none() && udp_core(local, IpEndpoint::new(server, 53), count) == index
    }

    fn send(&mut self, repr: IpRepr, datagram: &[u8]) {
        // What cannot be sent is lost; the resolver asks again.
        let _ = send(self.link, self.now, repr, datagram, self.out);
    }
}

fn send(
    link: &mut Link,
    now: Time,
    repr: IpRepr,
    datagram: &[u8],
    out: &mut dyn FrameOut,
) -> Result<(), crate::error::SendError> {
    link.send_ip(now, repr, &mut |payload| payload.copy_from_slice(datagram), out)
}
