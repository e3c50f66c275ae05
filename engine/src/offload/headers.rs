//! Where the headers of a TCP frame are.

use std::num::NonZeroU16;

use pmd::mem::{Offload, PartialChecksum, SegmentKind, Segmentation};

/// Destination, source, EtherType. IEEE 802.3 §3.2.
const ETHERNET: usize = 14;
/// IEEE 802.1Q tag.
const VLAN_TAG: usize = 4;
/// Place of the checksum in a TCP header. RFC 9293 §3.1.
const TCP_CHECKSUM: u16 = 16;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;

/// The headers of a frame that is TCP in one IP packet, without IPv6 extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    pub kind: SegmentKind,
    /// Where the IP header starts: behind Ethernet, and one VLAN tag or none.
    pub ip: usize,
    /// Where the TCP header starts.
    pub tcp: usize,
    /// Where the payload starts.
    pub payload: usize,
}

impl Headers {
    /// Reads the front of a frame: `None` if it is something else, a fragment, or cut short before the payload.
    #[inline]
    pub(crate) fn of(frame: &[u8]) -> Option<Headers> {
        let mut ip = ETHERNET;
        let mut ethertype = frame.get(ETHERNET - 2..ETHERNET)?;
        if ethertype == [0x81, 0x00] {
            ip += VLAN_TAG;
            ethertype = frame.get(ip - 2..ip)?;
        }
        let (kind, tcp) = match ethertype {
            [0x08, 0x00] => {
                let header = frame.get(ip..)?.first_chunk::<20>()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                let len = usize::from(header[0] & 0xf) * 4;
                if header[0] >> 4 != 4 || len < 20 || header[9] != TCP || fragment {
                    return None;
                }
                (SegmentKind::Tcp4, ip + len)
            }
            [0x86, 0xdd] => {
                let header = frame.get(ip..)?.first_chunk::<40>()?;
                if header[0] >> 4 != 6 || header[6] != TCP {
                    return None;
                }
                (SegmentKind::Tcp6, ip + 40)
            }
            _ => return None,
        };
        let header = frame.get(tcp..)?.first_chunk::<TCP_HEADER>()?;
        let len = usize::from(header[12] >> 4) * 4;
        let payload = tcp + len;
        (len >= TCP_HEADER && payload <= frame.len()).then_some(Headers { kind, ip, tcp, payload })
    }
}

/// What is still to be done with a frame of the stack's whose TCP checksum is that of the pseudo-header, and whose
/// segments are to have `segment` bytes of data at most.
#[inline]
pub(crate) fn offload(frame: &[u8], segment: NonZeroU16) -> Offload {
    let Some(headers) = Headers::of(frame) else {
        debug_assert!(false, "the stack leaves the checksum to the port for TCP alone");
        return Offload::NONE;
    };
    let (Ok(start), Ok(header_bytes)) = (u16::try_from(headers.tcp), u8::try_from(headers.payload)) else {
        return Offload::NONE;
    };
    let partial = Offload::partial(PartialChecksum { start, offset: TCP_CHECKSUM });
    if frame.len() - headers.payload <= usize::from(segment.get()) {
        return partial;
    }
    partial.segmented(Segmentation { kind: headers.kind, ecn: false, segment_bytes: segment, header_bytes })
}
