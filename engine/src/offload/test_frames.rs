//! TCP frames for tests, with right sums, in one piece or many.

use std::num::NonZeroU16;

use pmd::mem::{Offload, PageSize, PartialChecksum, PoolConfig, RegionConfig, Segmentation};
use pmd::{HomePool, Mbuf, Pool, Region};
use smoltcp::wire::{IpAddress, Ipv4Address, Ipv4Packet, Ipv6Address, TcpPacket};

use super::headers::Headers;

/// A TCP frame to be.
pub(crate) struct Made {
    pub v6: bool,
    pub payload: usize,
    pub flags: u8,
    pub sequence: u32,
    /// Words of options, all no-operation.
    pub options: usize,
    /// IPv4 identification.
    pub id: u16,
}

/// The payload byte at `place` of the stream.
fn byte(place: u32) -> u8 {
    (place ^ place >> 8).wrapping_mul(167) as u8
}

/// The frame's bytes; what it carries depends on the sequence number alone.
pub(crate) fn made(made: &Made) -> Vec<u8> {
    let tcp_bytes = 20 + 4 * made.options;
    let mut tcp = vec![0; tcp_bytes];
    tcp[..4].copy_from_slice(&[0x1f, 0x90, 0xc0, 0x01]);
    tcp[4..8].copy_from_slice(&made.sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&77_u32.to_be_bytes());
    tcp[12] = (tcp_bytes / 4) as u8 * 16;
    tcp[13] = made.flags;
    tcp[14..16].copy_from_slice(&500_u16.to_be_bytes());
    tcp[20..].fill(1);
    tcp.extend((0..made.payload as u32).map(|at| byte(made.sequence.wrapping_add(at))));
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let (src, dst): (IpAddress, IpAddress) = if made.v6 {
        let (src, dst) =
            (Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((tcp.len() as u16).to_be_bytes());
        frame.extend([6, 64]);
        frame.extend(src.octets().into_iter().chain(dst.octets()));
        (src.into(), dst.into())
    } else {
        let (src, dst) = (Ipv4Address::new(10, 0, 0, 1), Ipv4Address::new(10, 0, 0, 2));
        frame.extend([0x08, 0x00]);
        let mut ip = vec![0x45, 0];
        ip.extend((20 + tcp.len() as u16).to_be_bytes());
        ip.extend(made.id.to_be_bytes());
        ip.extend([0x40, 0, 64, 6, 0, 0]);
        ip.extend(src.octets().into_iter().chain(dst.octets()));
        Ipv4Packet::new_unchecked(&mut ip[..]).fill_checksum();
        frame.extend(ip);
        (src.into(), dst.into())
    };
    TcpPacket::new_unchecked(&mut tcp[..]).fill_checksum(&src, &dst);
    frame.extend(tcp);
    frame
}

/// The frame in mbufs of at most `piece` bytes each; with `segment`, one that is to be cut, whose checksum is the
/// pseudo-header's.
pub(crate) fn pieces(pool: &HomePool, bytes: &[u8], piece: usize, segment: Option<u16>) -> Mbuf {
    let mut bytes = bytes.to_vec();
    let mut offload = Offload::NONE;
    if let (Some(segment), Some(headers)) = (segment, Headers::of(&bytes)) {
        let segment_bytes = NonZeroU16::new(segment).unwrap();
        let at = PartialChecksum { start: headers.tcp as u16, offset: 16 };
        let header_bytes = headers.payload as u8;
        let by = Segmentation { kind: headers.kind, ecn: false, segment_bytes, header_bytes };
        offload = Offload::partial(at).segmented(by);
        // Any value will do: it is written anew for each segment.
        bytes[headers.tcp + 16..headers.tcp + 18].fill(0x5a);
    }
    let mut chain: Option<Mbuf> = None;
    for part in bytes.chunks(piece) {
        let mut mbuf = pool.alloc_for(part.len()).unwrap();
        mbuf.append(part.len()).unwrap().copy_from_slice(part);
        match &mut chain {
            None => chain = Some(mbuf),
            Some(head) => head.chain(mbuf),
        }
    }
    let mut frame = chain.unwrap();
    frame.set_offload(offload);
    frame
}

/// A pool of usual mbufs, a thousand, and `long` ones beside them.
pub(crate) fn home_with_long(long: usize) -> HomePool {
    let usual = PoolConfig { mbufs: 1000, ..PoolConfig::default() };
    let long = PoolConfig { mbufs: long, headroom_bytes: 2176, data_room_bytes: 65_600 };
    let len_bytes = usual.region_bytes() + long.region_bytes() + 4096;
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    let adopt = |config| Pool::new(&region, config).unwrap().adopt().unwrap();
    adopt(usual).with_large(adopt(long))
}
