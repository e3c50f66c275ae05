//! Probing and announcing our IPv4 addresses, and defending them (RFC 5227); and telling a network that we are new to
//! where all our addresses are.
//!
//! The address is in use from the start: one probe asks whether somebody else has it, two announcements tell
//! everybody that we do. A conflict is counted and reported, and the address defended by one announcement in
//! ten seconds, as RFC 5227 §2.4 (c) allows hosts whose address has to stay.

use core::time::Duration;

use smoltcp::wire::{ArpOperation, EthernetAddress, IpAddress, Ipv4Address};

use super::{Event, FrameOut, Link};
use crate::clock::Time;
use crate::config::MAX_ADDRESSES;
use crate::icmp::DEFEND_INTERVAL;

/// Source: RFC 5227 §1.1, `ANNOUNCE_INTERVAL`.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
enum Step {
    Probe,
    Announce { left: u8 },
}

/// What is still to be said about our addresses.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    steps: Vec<(IpAddress, Step, Time)>,
    /// Until when conflicts are neither reported nor answered.
    quiet_until: Time,
}

impl Announcements {
    pub(super) fn begin(&mut self, address: Ipv4Address, now: Time) {
        if self.steps.len() < MAX_ADDRESSES {
            self.steps.push((address.into(), Step::Probe, now));
        }
    }

    /// Announces an address that is in use already, in place of what is still to be said about it.
    fn again(&mut self, address: IpAddress, now: Time) {
        self.end(address);
        if self.steps.len() < MAX_ADDRESSES {
            self.steps.push((address, Step::Announce { left: 2 }, now));
        }
    }

    pub(super) fn end(&mut self, address: IpAddress) {
        self.steps.retain(|s| s.0 != address);
    }

    pub(super) fn poll_at(&self) -> Option<Time> {
        self.steps.iter().map(|s| s.2).min()
    }

    /// The next message due.
    fn due(&mut self, now: Time) -> Option<(IpAddress, Step)> {
        let at = self.steps.iter().position(|s| s.2 <= now)?;
        let (address, step, _) = self.steps[at];
        let next = match step {
            Step::Probe => Some((Step::Announce { left: 2 }, now)),
            Step::Announce { left: 2.. } => Some((Step::Announce { left: 1 }, now + ANNOUNCE_INTERVAL)),
            Step::Announce { .. } => None,
        };
        match next {
            Some((step, due)) => self.steps[at] = (address, step, due),
            None => {
                self.steps.swap_remove(at);
            }
        }
        Some((address, step))
    }
}

impl Link {
    /// Sends what is due. At most a probe and an announcement per address.
    pub(super) fn announce(&mut self, now: Time, out: &mut dyn FrameOut) -> bool {
        let mut done = false;
        while let Some((address, step)) = self.announcements.due(now) {
            match (address, step) {
                (IpAddress::Ipv4(address), Step::Probe) => {
                    self.gratuitous_arp(Ipv4Address::UNSPECIFIED, address, out);
                }
                (IpAddress::Ipv4(address), Step::Announce { .. }) => {
                    self.gratuitous_arp(address, address, out)
                }
                (IpAddress::Ipv6(address), _) => self.unsolicited_advert(address, out),
            }
            done = true;
        }
        done
    }

    /// Tells the network twice where our addresses are, with the following turns: it may be another one, or have
    /// forgotten. RFC 5227 §3, RFC 4861 §7.2.6.
    pub(crate) fn announce_again(&mut self, now: Time) {
        if self.first {
            for cidr in self.addresses().to_vec() {
                self.announcements.again(cidr.address(), now);
            }
        }
    }

    /// Another station uses an address of ours.
    pub(super) fn conflict(
        &mut self,
        now: Time,
        address: IpAddress,
        mac: EthernetAddress,
        out: &mut dyn FrameOut,
    ) {
        self.counters.address_conflicts += 1;
        if !self.first || self.announcements.quiet_until > now {
            return;
        }
        self.announcements.quiet_until = now + DEFEND_INTERVAL;
        self.event(Event::Conflict { address, mac });
        match address {
            IpAddress::Ipv4(address) => self.gratuitous_arp(address, address, out),
            IpAddress::Ipv6(address) => self.unsolicited_advert(address, out),
        }
    }

    fn gratuitous_arp(&mut self, sender: Ipv4Address, address: Ipv4Address, out: &mut dyn FrameOut) {
        let target = (EthernetAddress([0; 6]), address);
        self.send_arp(ArpOperation::Request, sender, target, EthernetAddress::BROADCAST, out);
    }
}
