//! A packet's header (virtio 1.2 §5.1.6) and what it says of a frame: read from the other side, written for it, and what
//! is done when the other side does not take it. Used by all that speak it: both sides of the network device, and TAP.
//!
//! What is read here is a copy, made once, and the other side's word: every place must lie within the frame, a segment
//! must have bytes, and only what was negotiated may be said. `hdr_len` is a hint by the specification and trusted
//! only as far as it can be right.

use std::num::NonZeroU16;

use super::spec::net::{
    GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, HDR_F_DATA_VALID, HDR_F_NEEDS_CSUM, HEADER_BYTES,
};
use crate::mem::{Mbuf, Offload, PartialChecksum, SegmentKind, Segmentation};
use crate::port::Offloads;

/// The header's bytes, as they lie in memory: all fields little-endian.
pub(crate) type HeaderBytes = [u8; HEADER_BYTES];

/// Asks for nothing.
pub(crate) const PLAIN: HeaderBytes = [0; HEADER_BYTES];

/// Bytes of a TCP header without options.
const TCP_HEADER_BYTES: usize = 20;
/// Least bytes in front of a TCP payload: Ethernet, IPv4, TCP.
const LEAST_HEADER_BYTES: usize = 14 + 20 + TCP_HEADER_BYTES;

/// What kind of lie a header tells. Its frame is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHeader;

#[inline]
fn field(header: &HeaderBytes, at: usize) -> u16 {
    u16::from_le_bytes([header[at], header[at + 1]])
}

/// What a received header says of its frame of `frame_bytes`. `can` is what was negotiated for received frames.
#[inline]
pub(crate) fn read(header: &HeaderBytes, frame_bytes: usize, can: Offloads) -> Result<Offload, BadHeader> {
    if header[0] & (HDR_F_NEEDS_CSUM | HDR_F_DATA_VALID) == 0 && header[1] == GSO_NONE {
        return Ok(Offload::NONE);
    }
    read_asking(header, frame_bytes, can)
}

/// The header of a frame that needs or says something.
fn read_asking(header: &HeaderBytes, frame_bytes: usize, can: Offloads) -> Result<Offload, BadHeader> {
    let [flags, gso_type, ..] = *header;
    let (start, offset) = (field(header, 6), field(header, 8));
    let offload = if flags & HDR_F_NEEDS_CSUM != 0 {
        let end = usize::from(start) + usize::from(offset) + 2;
        if !can.rx_checksum || end > frame_bytes {
            return Err(BadHeader);
        }
        Offload::partial(PartialChecksum { start, offset })
    } else if flags & HDR_F_DATA_VALID != 0 && can.rx_checksum {
        Offload::GOOD
    } else {
        Offload::NONE
    };
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => return Ok(offload),
        GSO_TCPV4 if can.lro4 => SegmentKind::Tcp4,
        GSO_TCPV6 if can.lro6 => SegmentKind::Tcp6,
        _ => return Err(BadHeader),
    };
    let least = match offload.partial_checksum() {
        Some(at) => usize::from(at.start) + TCP_HEADER_BYTES,
        None => LEAST_HEADER_BYTES,
    };
    let hint = usize::from(field(header, 2));
    let header_bytes = if hint < least { least } else { hint };
    let segment_bytes = NonZeroU16::new(field(header, 4)).ok_or(BadHeader)?;
    // A frame that is all header has no segments; no TCP header ends beyond the 255th byte but behind IPv6 extensions,
    // which no TCP of today sends.
    let header_bytes = u8::try_from(header_bytes).map_err(|_| BadHeader)?;
    if usize::from(header_bytes) >= frame_bytes {
        return Err(BadHeader);
    }
    let ecn = gso_type & GSO_ECN != 0;
    Ok(offload.segmented(Segmentation { kind, ecn, segment_bytes, header_bytes }))
}

/// The header for a frame that is sent. `vouches`: the receiver may be told that a checksum is good, which a device may
/// tell its driver and not the other way round (virtio 1.2 §5.1.6.2.1). `num_buffers` is left 0.
#[inline]
pub(crate) fn write(offload: Offload, vouches: bool) -> HeaderBytes {
    let mut header = PLAIN;
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    let (mut flags, mut gso_type) = (0, GSO_NONE);
    if let Some(at) = offload.partial_checksum() {
        flags = HDR_F_NEEDS_CSUM;
        put(6, at.start);
        put(8, at.offset);
    } else if vouches && offload.is_checksum_good() {
        flags = HDR_F_DATA_VALID;
    }
    if let Some(by) = offload.segmentation() {
        gso_type = match by.kind {
            SegmentKind::Tcp4 => GSO_TCPV4,
            SegmentKind::Tcp6 => GSO_TCPV6,
        } | if by.ecn { GSO_ECN } else { 0 };
        put(2, by.header_bytes.into());
        put(4, by.segment_bytes.get());
    }
    (header[0], header[1]) = (flags, gso_type);
    header
}

/// Makes a frame one that a port which `can` do so much sends, completing its checksum if need be. `false`: it cannot be
/// sent by that port, and would be broken if it were: what is to be segmented and is not by the port, or names places
/// that do not lie in it, or has a checksum to be written that a clone shares.
#[inline]
pub(crate) fn prepare(frame: &mut Mbuf, can: Offloads) -> bool {
    frame.offload().is_complete() || prepare_incomplete(frame, can)
}

fn prepare_incomplete(frame: &mut Mbuf, can: Offloads) -> bool {
    if !can.can_segment(frame) {
        return false;
    }
    let Some(at) = frame.offload().partial_checksum() else { return true };
    if can.tx_checksum {
        return usize::from(at.start) + usize::from(at.offset) + 2 <= frame.pkt_len();
    }
    frame.complete_checksum().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Offloads = Offloads::ALL;

    fn header(flags: u8, gso_type: u8, fields: [u16; 4]) -> HeaderBytes {
        let mut header = PLAIN;
        (header[0], header[1]) = (flags, gso_type);
        for (to, field) in header[2..].as_chunks_mut::<2>().0.iter_mut().zip(fields) {
            *to = field.to_le_bytes();
        }
        header
    }

    proptest! {
        /// What comes in and leaves says the same, and nothing that a header says reaches beyond its frame.
        #[test]
        fn no_header_names_a_place_outside_its_frame(
            bytes in any::<[u8; HEADER_BYTES]>(),
            gso_type in prop_oneof![Just(GSO_NONE), Just(GSO_TCPV4), Just(GSO_TCPV6 | GSO_ECN), any::<u8>()],
            frame_bytes in prop_oneof![1..200_usize, 1..70_000_usize],
        ) {
            let mut bytes = bytes;
            bytes[1] = gso_type;
            if let Ok(offload) = read(&bytes, frame_bytes, ALL) {
                if let Some(at) = offload.partial_checksum() {
                    prop_assert!(usize::from(at.start) + usize::from(at.offset) + 2 <= frame_bytes);
                }
                if let Some(by) = offload.segmentation() {
                    prop_assert!(usize::from(by.header_bytes) < frame_bytes);
                }
                prop_assert_eq!(read(&write(offload, true), frame_bytes, ALL), Ok(offload));
            }
            prop_assert!(read(&bytes, frame_bytes, Offloads::default()).is_err() || bytes[0] & 1 == 0 && gso_type & !GSO_ECN == 0);
        }
    }

    #[test]
    fn what_is_said_without_leave_or_makes_no_sense_is_refused() {
        let tso = header(1, GSO_TCPV4, [54, 1460, 34, 16]);
        let offload = read(&tso, 3000, ALL).unwrap();
        assert_eq!(offload.partial_checksum(), Some(PartialChecksum { start: 34, offset: 16 }));
        let by = offload.segmentation().unwrap();
        assert_eq!((by.kind, by.segment_bytes.get(), by.header_bytes), (SegmentKind::Tcp4, 1460, 54));
        for (bad, why) in [
            (header(1, GSO_TCPV4, [54, 0, 34, 16]), "segments of nothing"),
            (header(1, GSO_TCPV4, [3000, 1460, 34, 16]), "a header as long as the frame"),
            (header(1, GSO_TCPV4, [300, 1460, 34, 16]), "a header longer than any"),
            (header(1, GSO_NONE, [0, 0, 34, 2965]), "a checksum behind the frame"),
            (header(1, GSO_NONE, [0, 0, 65_535, 65_535]), "far behind it"),
            (header(1, 3, [54, 1460, 34, 16]), "UDP fragmentation, which is not negotiated"),
            (header(0, 77, [54, 1460, 34, 16]), "an unknown kind"),
        ] {
            assert_eq!(read(&bad, 3000, ALL), Err(BadHeader), "{why}");
        }
        assert_eq!(read(&tso, 3000, Offloads { lro4: false, ..ALL }), Err(BadHeader));
        assert_eq!(read(&tso, 3000, Offloads { rx_checksum: false, ..ALL }), Err(BadHeader));
        let short_hint = header(1, GSO_TCPV6, [0, 1440, 54, 16]);
        assert_eq!(read(&short_hint, 3000, ALL).unwrap().segmentation().unwrap().header_bytes, 74);
    }

    #[test]
    fn only_a_device_vouches_for_a_checksum() {
        assert_eq!(write(Offload::GOOD, true)[0], HDR_F_DATA_VALID);
        assert_eq!(write(Offload::GOOD, false), PLAIN);
        assert_eq!(write(Offload::NONE, true), PLAIN);
        assert_eq!(read(&header(HDR_F_DATA_VALID, 0, [0; 4]), 60, ALL), Ok(Offload::GOOD));
        assert_eq!(read(&header(HDR_F_DATA_VALID, 0, [0; 4]), 60, Offloads::default()), Ok(Offload::NONE));
    }
}
