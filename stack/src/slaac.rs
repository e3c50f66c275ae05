//! IPv6 addresses of our own making: stable interface identifiers (RFC 7217), duplicate address detection and
//! lifetimes (RFC 4862).
//!
//! This is bookkeeping only: [`Autoconf::due`] says what to send or assign, and the link layer does it.

use core::hash::Hasher;
use core::time::Duration;

use siphasher::sip::SipHasher24;
use smoltcp::wire::{EthernetAddress, Ipv6Address, Ipv6Cidr};

use crate::clock::Time;

/// Time in which another station may object to a probe. Source: RFC 4861 §10, `RETRANS_TIMER`.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// Identifiers tried after the first turned out to be taken. Source: RFC 7217 §6, `IDGEN_RETRIES`.
const RETRIES: u8 = 3;
/// Source: RFC 4861 §10, `RTR_SOLICITATION_INTERVAL` and `MAX_RTR_SOLICITATIONS`.
const SOLICIT_INTERVAL: Duration = Duration::from_secs(4);
const SOLICITATIONS: u8 = 3;
/// Addresses made from prefixes.
const MAX_LEASES: usize = 8;
/// A lifetime is shortened below this only by its own running out, or else one forged advertisement could
/// take all addresses away. Source: RFC 4862 §5.5.3 (e).
const TWO_HOURS: Duration = Duration::from_secs(2 * 3600);
const LINK_LOCAL: Ipv6Cidr = Ipv6Cidr::new(Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask whether somebody has the address.
    Probe(Ipv6Address),
    /// Nobody has: it is ours.
    Assign(Ipv6Cidr),
    /// Its lifetime is over.
    Remove(Ipv6Address),
    SolicitRouters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The probe leaves at this time.
    Probe(Time),
    /// Somebody may object until then.
    Wait(Time),
    /// Ours.
    Assigned,
    /// Taken by others, every time.
    Given,
}

/// An address made from a prefix.
#[derive(Debug)]
struct Lease {
    prefix: Ipv6Cidr,
    address: Ipv6Address,
    /// How many identifiers were taken.
    taken: u8,
    stage: Stage,
    valid_until: Option<Time>,
}

/// Autoconfiguration of one link.
pub(crate) struct Autoconf {
    mac: EthernetAddress,
    hasher: SipHasher24,
    slaac: bool,
    leases: Vec<Lease>,
    /// Addresses in use already that are still to be probed.
    probes: Vec<(Ipv6Address, Time)>,
    solicit: Option<(u8, Time)>,
}

impl Autoconf {
    /// `link_local`: make a link-local address. `slaac`: ask routers for prefixes, and use them.
    pub(crate) fn new(
        mac: EthernetAddress,
        seed: &[u8; 32],
        link_local: bool,
        slaac: bool,
        now: Time,
    ) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&seed[16..]);
        let mut autoconf = Self {
            mac,
            hasher: SipHasher24::new_with_key(&key),
            slaac,
            leases: Vec::new(),
            probes: Vec::new(),
            solicit: None,
        };
        if link_local {
            autoconf.lease(LINK_LOCAL, None, now);
        }
        autoconf
    }

    /// Whether routers are listened to.
    pub(crate) fn is_enabled(&self) -> bool {
        self.slaac
    }

    /// Addresses that are not ours yet but for which we listen.
    pub(crate) fn tentative(&self) -> impl Iterator<Item = Ipv6Address> {
        self.leases.iter().filter(|l| matches!(l.stage, Stage::Probe(_) | Stage::Wait(_))).map(|l| l.address)
    }

    /// Whether `address` is being probed and not ours yet.
    pub(crate) fn is_tentative(&self, address: Ipv6Address) -> bool {
        self.tentative().any(|a| a == address)
    }

    /// Probes for an address that is in use from the start.
    pub(crate) fn probe(&mut self, address: Ipv6Address, now: Time) {
        if self.probes.len() < crate::config::MAX_ADDRESSES {
            self.probes.push((address, now));
        }
    }

    /// Takes in a /64 prefix to make an address from; `valid`: for how long, `None` without end. `false` if
    /// there are too many.
    pub(crate) fn prefix(&mut self, prefix: Ipv6Cidr, valid: Option<Duration>, now: Time) -> bool {
        let same = |l: &&mut Lease| {
            l.prefix.prefix_len() == prefix.prefix_len() && l.prefix.contains_addr(&prefix.address())
        };
        let Some(lease) = self.leases.iter_mut().find(same) else {
            if valid == Some(Duration::ZERO) {
                return true;
            }
            if self.leases.len() >= MAX_LEASES {
                return false;
            }
            self.lease(prefix, valid, now);
            return true;
        };
        // RFC 4862 §5.5.3 (e): longer is believed at once, shorter only down to two hours.
        let left = lease.valid_until.map(|until| until.since(now));
        lease.valid_until = match (valid, left) {
            (None, _) => None,
            (Some(valid), Some(left)) if valid > TWO_HOURS || valid > left => Some(now + valid),
            (Some(valid), None) => Some(now + valid.max(TWO_HOURS)),
            (Some(_), Some(left)) if left <= TWO_HOURS => lease.valid_until,
            (Some(_), Some(_)) => Some(now + TWO_HOURS),
        };
        true
    }

    /// A router answered: no more solicitations.
    pub(crate) fn router_heard(&mut self) {
        self.solicit = None;
    }

    /// Somebody else has, or wants, a tentative address: tries another identifier, a few times.
    pub(crate) fn duplicate(&mut self, address: Ipv6Address, now: Time) {
        let tentative =
            |l: &&Lease| l.address == address && matches!(l.stage, Stage::Probe(_) | Stage::Wait(_));
        let Some(at) = self.leases.iter().position(|l| tentative(&l)) else { return };
        let taken = self.leases[at].taken + 1;
        let next = self.identifier(self.leases[at].prefix, taken);
        let lease = &mut self.leases[at];
        if taken > RETRIES {
            lease.stage = Stage::Given;
        } else {
            lease.taken = taken;
            lease.address = next;
            lease.stage = Stage::Probe(now);
        }
    }

    /// The next thing due.
    pub(crate) fn due(&mut self, now: Time) -> Option<Action> {
        if let Some(at) = self.probes.iter().position(|p| p.1 <= now) {
            return Some(Action::Probe(self.probes.swap_remove(at).0));
        }
        if let Some(at) = self.leases.iter().position(|l| l.valid_until.is_some_and(|until| until <= now)) {
            let lease = self.leases.swap_remove(at);
            if lease.stage == Stage::Assigned {
                return Some(Action::Remove(lease.address));
            }
            return self.due(now);
        }
        for lease in &mut self.leases {
            match lease.stage {
                Stage::Probe(at) if at <= now => {
                    lease.stage = Stage::Wait(now + PROBE_WAIT);
                    return Some(Action::Probe(lease.address));
                }
                Stage::Wait(until) if until <= now => {
                    lease.stage = Stage::Assigned;
                    if self.slaac && lease.prefix == LINK_LOCAL {
                        self.solicit = Some((SOLICITATIONS, now));
                    }
                    return Some(Action::Assign(Ipv6Cidr::new(lease.address, 64)));
                }
                _ => {}
            }
        }
        let (left, at) = self.solicit?;
        if at > now {
            return None;
        }
        self.solicit = (left > 1).then(|| (left - 1, now + SOLICIT_INTERVAL));
        Some(Action::SolicitRouters)
    }

    /// When [`Autoconf::due`] has something.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        let stages = self.leases.iter().filter_map(|l| match l.stage {
            Stage::Probe(at) | Stage::Wait(at) => Some(at),
            Stage::Assigned | Stage::Given => None,
        });
        let lifetimes = self.leases.iter().filter_map(|l| l.valid_until);
        let probes = self.probes.iter().map(|p| p.1);
        stages.chain(lifetimes).chain(probes).chain(self.solicit.map(|s| s.1)).min()
    }

    fn lease(&mut self, prefix: Ipv6Cidr, valid: Option<Duration>, now: Time) {
        let address = self.identifier(prefix, 0);
        let valid_until = valid.map(|valid| now + valid);
        self.leases.push(Lease { prefix, address, taken: 0, stage: Stage::Probe(now), valid_until });
    }

    /// The address in a /64 prefix: a keyed hash of prefix, MAC and how many were taken. Source: RFC 7217 §5.
    fn identifier(&self, prefix: Ipv6Cidr, taken: u8) -> Ipv6Address {
        let mut octets = prefix.address().octets();
        let mut hasher = self.hasher;
        hasher.write(&octets[..8]);
        hasher.write(self.mac.as_bytes());
        hasher.write_u8(taken);
        octets[8..].copy_from_slice(&hasher.finish().to_be_bytes());
        Ipv6Address::from(octets)
    }
}

#[cfg(test)]
mod tests;
