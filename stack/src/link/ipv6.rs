//! IPv6 input: header checks, who it is for, extension headers, fragments (RFC 8200).

use smoltcp::wire::{IpProtocol, Ipv6Address, Ipv6Packet, Ipv6Repr};

use super::ethernet::Ethernet;
use super::ingress::Addressed;
use super::{FrameOut, Ingress, IpPacket, Link};
use crate::clock::Time;
use crate::reassembly::{Fragment, Key};

const HEADER_LEN: usize = 40;
/// Extension headers of one packet. RFC 8200 §4.1 lists seven kinds, one of which may come twice.
const MAX_EXTENSIONS: usize = 8;
/// Hop limit written into packets put together from fragments: neighbour discovery, which wants 255, is not
/// accepted from fragments (RFC 6980).
const ASSEMBLED_HOP_LIMIT: u8 = 64;

/// What the extension headers of a packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Upper {
    protocol: IpProtocol,
    /// Where its header starts, bytes from the start of the packet.
    offset: usize,
    /// Where the byte is that names it.
    pointer: usize,
    fragment: Option<FragmentHeader>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FragmentHeader {
    offset: usize,
    more: bool,
    ident: u32,
}

/// Why the headers were not walked to their end.
enum Walk {
    Bad,
    Routed,
}

impl Link {
    pub(super) fn ipv6<'f>(
        &mut self,
        now: Time,
        ethernet: Ethernet<'f>,
        out: &mut dyn FrameOut,
    ) -> Ingress<'f> {
        let Some(bytes) = self.check_v6(ethernet.payload) else { return Ingress::Consumed };
        let packet = Ipv6Packet::new_unchecked(bytes);
        let (src, dst) = (packet.src_addr(), packet.dst_addr());
        let upper = match walk(packet.next_header(), bytes) {
            Ok(upper) => upper,
            Err(Walk::Bad) => {
                self.counters.bad_extension_header += 1;
                return Ingress::Consumed;
            }
            Err(Walk::Routed) => {
                self.counters.source_routed += 1;
                return Ingress::Consumed;
            }
        };
        // Only neighbour discovery speaks without an address, or from ours when another station has it too
        // (RFC 4862 §5.4); ICMPv6 input sorts that out.
        let bad = src.is_multicast()
            || src.is_loopback()
            || src.to_ipv4_mapped().is_some()
            || (upper.protocol != IpProtocol::Icmpv6
                && (src.is_unspecified() || self.routes.is_ours(src.into())));
        if bad {
            self.counters.bad_source_address += 1;
            return Ingress::Consumed;
        }
        let ours = self.routes.is_ours(dst.into());
        let group = !ours && self.is_group_v6(dst);
        if !ours && !group {
            self.counters.not_our_address += 1;
            return Ingress::Consumed;
        }
        if ours && ethernet.group {
            self.counters.broadcast_mismatch += 1;
            return Ingress::Consumed;
        }
        let to = Addressed { src: src.into(), dst: dst.into(), protocol: upper.protocol };
        let repr = |protocol, payload_len, hop_limit| Ipv6Repr {
            src_addr: src,
            dst_addr: dst,
            next_header: protocol,
            payload_len,
            hop_limit,
        };
        let data = &bytes[upper.offset..];
        let packet = match upper.fragment {
            // An atomic fragment stands alone (RFC 6946).
            Some(FragmentHeader { offset, more, ident }) if more || offset != 0 => {
                let fragment = Fragment {
                    key: Key { src: to.src, dst: to.dst, ident, protocol: None },
                    protocol: upper.protocol,
                    offset,
                    more,
                    header: &bytes[..upper.offset],
                    data,
                };
                let Some(whole) = self.reassemble(now, &fragment) else { return Ingress::Consumed };
                let (protocol, payload_len) = (whole.protocol, whole.payload_len());
                let bytes = whole.with_header(HEADER_LEN, |header| {
                    let repr = repr(protocol, payload_len, ASSEMBLED_HOP_LIMIT);
                    repr.emit(&mut Ipv6Packet::new_unchecked(header));
                });
                match self.strip_assembled(bytes, protocol) {
                    Some((bytes, protocol)) => {
                        IpPacket::assembled(bytes, HEADER_LEN, Addressed { protocol, ..to })
                    }
                    None => return Ingress::Consumed,
                }
            }
            // smoltcp's sockets know no extension headers: the packet is made again without them.
            _ if upper.offset > HEADER_LEN => {
                let mut plain = self.reassembly.memory();
                plain.extend_from_slice(&bytes[..HEADER_LEN]);
                plain.extend_from_slice(data);
                let hop_limit =
                    if upper.fragment.is_some() { ASSEMBLED_HOP_LIMIT } else { packet.hop_limit() };
                let repr = repr(upper.protocol, data.len(), hop_limit);
                repr.emit(&mut Ipv6Packet::new_unchecked(&mut plain[..HEADER_LEN]));
                IpPacket::assembled(plain, HEADER_LEN, to)
            }
            _ => IpPacket::in_frame(bytes, HEADER_LEN, to),
        };
        let pointer = u32::try_from(upper.pointer).ok();
        self.upper(now, packet, group, pointer, out)
    }

    /// The packet without padding.
    fn check_v6<'f>(&mut self, payload: &'f [u8]) -> Option<&'f [u8]> {
        let packet = Ipv6Packet::new_unchecked(payload);
        if payload.len() < HEADER_LEN || packet.version() != 6 {
            self.counters.bad_ip_header += 1;
            return None;
        }
        let bytes = payload.get(..packet.total_len());
        self.counters.ip_truncated += u64::from(bytes.is_none());
        bytes
    }

    /// Groups that we are in: all nodes of the interface and of the link, solicited nodes.
    fn is_group_v6(&self, dst: Ipv6Address) -> bool {
        let o = dst.octets();
        match dst.segments() {
            [0xff01 | 0xff02, 0, 0, 0, 0, 0, 0, 1] => true,
            [0xff02, 0, 0, 0, 0, 1, tail, _] if tail & 0xff00 == 0xff00 => {
                self.is_solicited_node([o[13], o[14], o[15]])
            }
            _ => false,
        }
    }

    /// A datagram put together may start with further extension headers (destination options): takes them out.
    fn strip_assembled(&mut self, mut bytes: Vec<u8>, first: IpProtocol) -> Option<(Vec<u8>, IpProtocol)> {
        let upper = match walk(first, &bytes) {
            // A fragment of fragments is nobody's honest work.
            Ok(upper) if upper.fragment.is_none() => upper,
            _ => {
                self.counters.bad_extension_header += 1;
                self.reassembly.recycle(bytes);
                return None;
            }
        };
        if upper.offset > HEADER_LEN {
            bytes.copy_within(upper.offset.., HEADER_LEN);
            bytes.truncate(bytes.len() - (upper.offset - HEADER_LEN));
            let len = u16::try_from(bytes.len() - HEADER_LEN).ok()?;
            let mut packet = Ipv6Packet::new_unchecked(&mut bytes);
            packet.set_next_header(upper.protocol);
            packet.set_payload_len(len);
        }
        Some((bytes, upper.protocol))
    }
}

/// Walks the extension headers of `bytes`, a packet whose first header after the 40 bytes is `protocol`.
fn walk(mut protocol: IpProtocol, bytes: &[u8]) -> Result<Upper, Walk> {
    let (mut offset, mut pointer) = (HEADER_LEN, 6);
    for count in 0..=MAX_EXTENSIONS {
        let header = bytes.get(offset..).ok_or(Walk::Bad)?;
        let len = match protocol {
            // Only right behind the IPv6 header (RFC 8200 §4.3).
            IpProtocol::HopByHop if count > 0 => return Err(Walk::Bad),
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts => {
                let options = sized(header)?;
                check_options(&options[2..])?;
                options.len()
            }
            IpProtocol::Ipv6Route => {
                let routing = sized(header)?;
                // Segments left: we are not the destination (RFC 8200 §4.4, RFC 5095).
                if routing[3] != 0 {
                    return Err(Walk::Routed);
                }
                routing.len()
            }
            IpProtocol::Ipv6Frag => {
                let [next, _, o1, o2, i1, i2, i3, i4] = *header.first_chunk::<8>().ok_or(Walk::Bad)?;
                let word = u16::from_be_bytes([o1, o2]);
                let fragment = FragmentHeader {
                    offset: usize::from(word & !7),
                    more: word & 1 != 0,
                    ident: u32::from_be_bytes([i1, i2, i3, i4]),
                };
                let upper = Upper {
                    protocol: next.into(),
                    offset: offset + 8,
                    pointer: offset,
                    fragment: Some(fragment),
                };
                if fragment.more || fragment.offset != 0 {
                    // What follows is not whole, so it is looked at after reassembly.
                    return Ok(upper);
                }
                let inner = walk_after_atomic(upper, bytes)?;
                return Ok(Upper { fragment: Some(fragment), ..inner });
            }
            _ => return Ok(Upper { protocol, offset, pointer, fragment: None }),
        };
        protocol = header[0].into();
        pointer = offset;
        offset += len;
    }
    Err(Walk::Bad)
}

/// Goes on behind an atomic fragment's header: destination options may follow, another fragment header not.
fn walk_after_atomic(mut upper: Upper, bytes: &[u8]) -> Result<Upper, Walk> {
    if upper.protocol == IpProtocol::Ipv6Opts {
        let header = bytes.get(upper.offset..).ok_or(Walk::Bad)?;
        let options = sized(header)?;
        check_options(&options[2..])?;
        upper.protocol = header[0].into();
        upper.pointer = upper.offset;
        upper.offset += options.len();
    }
    match upper.protocol {
        IpProtocol::Ipv6Frag | IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {
            Err(Walk::Bad)
        }
        _ => Ok(upper),
    }
}

/// An extension header whose second byte is its length in units of 8 bytes, the first unit not counted.
fn sized(header: &[u8]) -> Result<&[u8], Walk> {
    let len = 8 * (usize::from(*header.get(1).ok_or(Walk::Bad)?) + 1);
    header.get(..len).ok_or(Walk::Bad)
}

/// Checks type-length-value options. The two highest bits of an unknown type say what to do with the packet:
/// `00` skip the option, everything else drop (RFC 8200 §4.2).
fn check_options(mut options: &[u8]) -> Result<(), Walk> {
    const PAD1: u8 = 0;
    while let Some((&kind, rest)) = options.split_first() {
        if kind == PAD1 {
            options = rest;
            continue;
        }
        let len = usize::from(*rest.first().ok_or(Walk::Bad)?);
        if kind >> 6 != 0 {
            return Err(Walk::Bad);
        }
        options = rest.get(1 + len..).ok_or(Walk::Bad)?;
    }
    Ok(())
}
