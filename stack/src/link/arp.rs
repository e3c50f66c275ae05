//! ARP (RFC 826), with the conflict detection of RFC 5227.

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, IpAddress, Ipv4Address,
};

use super::ethernet::Ethernet;
use super::{FrameOut, Link};
use crate::clock::Time;
use crate::neighbours::News;

/// Bytes of an ARP packet for IPv4 over Ethernet.
const ARP_LEN: usize = 28;

impl Link {
    /// Takes in an ARP packet: answers, learns, notices conflicts.
    pub(super) fn arp(&mut self, now: Time, ethernet: &Ethernet<'_>, out: &mut dyn FrameOut) {
        let parsed = ArpPacket::new_checked(ethernet.payload).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: mac,
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        }) = parsed
        else {
            self.counters.bad_arp += 1;
            return;
        };
        let request = match operation {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => {
                self.counters.bad_arp += 1;
                return;
            }
        };
        // A probe (RFC 5227 §1.1) has no sender address: it asks, but has nothing to teach.
        let probe = request && sender.is_unspecified();
        let absurd = sender.is_multicast() || sender.is_loopback() || self.routes.is_broadcast(sender);
        if !mac.is_unicast() || absurd || sender.is_unspecified() && !probe {
            self.counters.bad_arp += 1;
            return;
        }
        // Our own words, come back.
        if mac == self.mac {
            return;
        }
        if self.routes.is_ours(sender.into()) {
            self.conflict(now, sender.into(), mac, out);
            return;
        }
        let to_us = self.routes.is_ours(target.into());
        if !probe && self.routes.on_link(sender.into()) {
            let solicited = !request && !ethernet.group && self.neighbours.is_asked(sender.into());
            // Only who asks for us will hear from us, so only they get a new entry (RFC 826).
            let news = News { solicited, replace: true, create: request && to_us };
            self.learn_neighbour(now, sender.into(), mac, news, out);
        }
        if request && to_us && self.first {
            let sent = self.send_arp(ArpOperation::Reply, target, (mac, sender), mac, out);
            self.counters.arp_replies += u64::from(sent);
        }
    }

    /// Asks everybody, or with `known` the one who had it last, for the Ethernet address of `target`.
    pub(super) fn arp_request(
        &mut self,
        target: Ipv4Address,
        known: Option<EthernetAddress>,
        out: &mut dyn FrameOut,
    ) {
        let Some(IpAddress::Ipv4(source)) = self.routes.source(target.into()) else { return };
        let to = known.unwrap_or(EthernetAddress::BROADCAST);
        let unknown = EthernetAddress([0; 6]);
        let sent = self.send_arp(ArpOperation::Request, source, (unknown, target), to, out);
        self.counters.neighbour_requests += u64::from(sent);
    }

    /// Sends an ARP packet from our MAC and `sender`, about `target`, to `to`.
    pub(super) fn send_arp(
        &mut self,
        operation: ArpOperation,
        sender: Ipv4Address,
        target: (EthernetAddress, Ipv4Address),
        to: EthernetAddress,
        out: &mut dyn FrameOut,
    ) -> bool {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: self.mac,
            source_protocol_addr: sender,
            target_hardware_addr: target.0,
            target_protocol_addr: target.1,
        };
        let header_len = self.header_len();
        let sent = out.frame(header_len + ARP_LEN, &mut |frame| {
            self.write_header(frame, to, EthernetProtocol::Arp);
            repr.emit(&mut ArpPacket::new_unchecked(&mut frame[header_len..]));
        });
        self.counters.tx_no_room += u64::from(!sent);
        sent
    }
}
