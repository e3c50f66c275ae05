//! IPv4 input: header checks, who it is for, fragments.
//!
//! Sources: RFC 791 §3.1; RFC 1122 §3.2.1. A TTL of 0 or 1 is no reason to drop for a host (§3.2.1.7), and
//! options are skipped.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr};

use super::ethernet::Ethernet;
use super::ingress::Addressed;
use super::{FrameOut, Ingress, IpPacket, Link};
use crate::checksum::is_ipv4_right;
use crate::clock::Time;
use crate::reassembly::{Fragment, Key};

const HEADER_LEN: usize = 20;
const ALL_SYSTEMS: Ipv4Address = Ipv4Address::new(224, 0, 0, 1);
/// Ports of DHCP, server and client. Source: RFC 2131 §4.1.
const DHCP: [u8; 4] = [0, 67, 0, 68];

impl Link {
    pub(super) fn ipv4<'f>(
        &mut self,
        now: Time,
        ethernet: Ethernet<'f>,
        out: &mut dyn FrameOut,
    ) -> Ingress<'f> {
        let Some((bytes, header_len)) = self.check_v4(ethernet.payload) else { return Ingress::Consumed };
        let packet = Ipv4Packet::new_unchecked(bytes);
        let (src, dst) = (packet.src_addr(), packet.dst_addr());
        if self.is_bad_source_v4(src) {
            self.counters.bad_source_address += 1;
            return Ingress::Consumed;
        }
        let protocol = packet.next_header();
        let to = Addressed { src: src.into(), dst: dst.into(), protocol };
        let fragment = packet.more_frags() || packet.frag_offset() != 0;
        let ours = self.routes.is_ours(dst.into());
        let group = !ours && (dst == ALL_SYSTEMS || self.routes.is_broadcast(dst));
        let dhcp = self.dhcp
            && protocol == IpProtocol::Udp
            && !fragment
            && bytes[header_len..].starts_with(&DHCP)
            && (ours || group || !ethernet.group);
        if dhcp {
            // The one client is on the first core. Its server may write to an address that we do not have yet.
            return if self.first {
                Ingress::Dhcp(IpPacket::in_frame(bytes, header_len, to))
            } else {
                Ingress::Consumed
            };
        }
        if !ours && !group {
            self.counters.not_our_address += 1;
            return Ingress::Consumed;
        }
        if ours && ethernet.group {
            self.counters.broadcast_mismatch += 1;
            return Ingress::Consumed;
        }
        let packet = if fragment {
            let fragment = Fragment {
                key: Key {
                    src: to.src,
                    dst: to.dst,
                    ident: u32::from(packet.ident()),
                    protocol: Some(protocol),
                },
                protocol,
                offset: usize::from(packet.frag_offset()),
                more: packet.more_frags(),
                header: &bytes[..header_len],
                data: &bytes[header_len..],
            };
            let Some(whole) = self.reassemble(now, &fragment) else { return Ingress::Consumed };
            let repr = Ipv4Repr {
                src_addr: src,
                dst_addr: dst,
                next_header: protocol,
                payload_len: whole.payload_len(),
                hop_limit: packet.hop_limit(),
            };
            let bytes = whole.with_header(HEADER_LEN, |header| {
                repr.emit(&mut Ipv4Packet::new_unchecked(header), &ChecksumCapabilities::default());
            });
            IpPacket::assembled(bytes, HEADER_LEN, to)
        } else {
            IpPacket::in_frame(bytes, header_len, to)
        };
        self.upper(now, packet, group, None, out)
    }

    /// The packet without padding, and its header's length.
    fn check_v4<'f>(&mut self, payload: &'f [u8]) -> Option<(&'f [u8], usize)> {
        if payload.len() < HEADER_LEN {
            self.counters.bad_ip_header += 1;
            return None;
        }
        let packet = Ipv4Packet::new_unchecked(payload);
        let (header_len, total_len) = (usize::from(packet.header_len()), usize::from(packet.total_len()));
        if packet.version() != 4 || header_len < HEADER_LEN || header_len > total_len {
            self.counters.bad_ip_header += 1;
            return None;
        }
        let Some(bytes) = payload.get(..total_len) else {
            self.counters.ip_truncated += 1;
            return None;
        };
        if !is_ipv4_right(&bytes[..header_len]) {
            self.counters.bad_ip_checksum += 1;
            return None;
        }
        Some((bytes, header_len))
    }

    /// Addresses that no packet comes from. Source: RFC 1812 §5.3.7, RFC 1122 §3.2.1.3.
    fn is_bad_source_v4(&self, src: Ipv4Address) -> bool {
        let [first, ..] = src.octets();
        // 0/8 "this network", 127/8 loopback, 224/4 groups, 240/4 reserved and broadcast.
        first == 0
            || first == 127
            || first >= 224
            || self.routes.is_broadcast(src)
            || self.routes.is_ours(src.into())
    }
}
