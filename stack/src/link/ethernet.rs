//! Ethernet II headers with an optional 802.1Q tag: which frames are for us.

use smoltcp::wire::{EthernetAddress, EthernetProtocol, IpAddress};

use super::Link;

/// Bytes of an Ethernet header without a tag.
const HEADER_LEN: usize = 14;
/// Bytes of an 802.1Q tag.
const TAG_LEN: usize = 4;
/// 802.1Q customer tag.
const TPID: u16 = 0x8100;
/// VLAN identifier in a tag's control information. The other bits are priority and drop eligibility.
const VID_MASK: u16 = 0x0fff;

/// An Ethernet frame for us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ethernet<'f> {
    /// Sent to a group or to everybody, not to us alone.
    pub(super) group: bool,
    pub(super) ethertype: EthernetProtocol,
    /// What follows, Ethernet padding included.
    pub(super) payload: &'f [u8],
}

impl Link {
    /// Bytes of the Ethernet header of our frames: 14, or 18 with a VLAN.
    pub(crate) fn header_len(&self) -> usize {
        HEADER_LEN + if self.vlan.is_some() { TAG_LEN } else { 0 }
    }

    /// Writes the Ethernet header of a frame to `to`: the first [`Link::header_len`] bytes of `frame`.
    pub(crate) fn write_header(&self, frame: &mut [u8], to: EthernetAddress, ethertype: EthernetProtocol) {
        frame[..6].copy_from_slice(to.as_bytes());
        frame[6..12].copy_from_slice(self.mac.as_bytes());
        let ethertype = u16::from(ethertype).to_be_bytes();
        match self.vlan {
            None => frame[12..14].copy_from_slice(&ethertype),
            Some(vid) => {
                frame[12..14].copy_from_slice(&TPID.to_be_bytes());
                frame[14..16].copy_from_slice(&vid.to_be_bytes());
                frame[16..18].copy_from_slice(&ethertype);
            }
        }
    }

    /// Parses and filters. `None`: dropped and counted.
    pub(super) fn ethernet<'f>(&mut self, frame: &'f [u8]) -> Option<Ethernet<'f>> {
        let Some((header, mut payload)) = frame.split_first_chunk::<HEADER_LEN>() else {
            self.counters.frame_truncated += 1;
            return None;
        };
        let dst = EthernetAddress::from_bytes(&header[..6]);
        let src = EthernetAddress::from_bytes(&header[6..12]);
        let group = dst != self.mac;
        if group && !dst.is_broadcast() && !self.is_member(dst) {
            self.counters.not_for_us += 1;
            return None;
        }
        if !src.is_unicast() || src == self.mac {
            self.counters.bad_ethernet_source += 1;
            return None;
        }
        let mut ethertype = u16::from_be_bytes([header[12], header[13]]);
        let mut vid = None;
        if ethertype == TPID {
            let Some((tag, rest)) = payload.split_first_chunk::<TAG_LEN>() else {
                self.counters.frame_truncated += 1;
                return None;
            };
            vid = Some(u16::from_be_bytes([tag[0], tag[1]]) & VID_MASK);
            ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            payload = rest;
        }
        // VID 0 is a frame without a VLAN that carries a priority (802.1Q §9.6).
        if vid.filter(|&vid| vid != 0) != self.vlan {
            self.counters.wrong_vlan += 1;
            return None;
        }
        Some(Ethernet { group, ethertype: ethertype.into(), payload })
    }

    /// Whether we are in the group with this Ethernet address.
    fn is_member(&self, group: EthernetAddress) -> bool {
        match group.0 {
            // All hosts (RFC 1112 §6.4), all nodes (RFC 4291 §2.7.1).
            [0x01, 0x00, 0x5e, 0, 0, 1] | [0x33, 0x33, 0, 0, 0, 1] => true,
            // Solicited nodes: the last three bytes of our addresses.
            [0x33, 0x33, 0xff, a, b, c] => self.is_solicited_node([a, b, c]),
            _ => false,
        }
    }

    /// Whether one of our IPv6 addresses, tentative ones included, ends in these bytes.
    pub(super) fn is_solicited_node(&self, tail: [u8; 3]) -> bool {
        let ours = self.routes.addresses().iter().filter_map(|a| match a.address() {
            IpAddress::Ipv6(address) => Some(address),
            IpAddress::Ipv4(_) => None,
        });
        ours.chain(self.autoconf.tentative()).any(|a| a.octets()[13..] == tail)
    }

    /// The Ethernet address of a group or of everybody; `None` for a single host.
    /// Sources: RFC 1112 §6.4, RFC 2464 §7.
    pub(super) fn group_mac(&self, dst: IpAddress) -> Option<EthernetAddress> {
        match dst {
            IpAddress::Ipv4(dst) if self.routes.is_broadcast(dst) => Some(EthernetAddress::BROADCAST),
            IpAddress::Ipv4(dst) if dst.is_multicast() => {
                let [_, b, c, d] = dst.octets();
                Some(EthernetAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
            }
            IpAddress::Ipv6(dst) if dst.is_multicast() => {
                let o = dst.octets();
                Some(EthernetAddress([0x33, 0x33, o[12], o[13], o[14], o[15]]))
            }
            _ => None,
        }
    }
}
