//! Acknowledgements that arrive while our window is closed.
//!
//! A window is announced in units of 2^scale bytes, rounded down, so its right edge may move back by less than a
//! unit, and a peer may have sent up to the old edge. From then on its acknowledgements carry a sequence number behind
//! the edge. With a window of 0 smoltcp takes those for unacceptable and does not look at what they acknowledge: data of
//! ours that the peer has is sent again and again, and if that data is what keeps us from reading, as with an
//! echo, the connection stands still for ever. RFC 9293 §3.10.7.4 asks for an allowance here: "if the RCV.WND is
//! zero, no segments will be acceptable, but special allowance should be made to accept valid ACKs".
//!
//! So such a segment is handed on with the one sequence number that is acceptable. It has no data; nothing else changes.

use smoltcp::wire::TcpPacket;

use crate::flow::Sent;
use crate::segment::number;

/// Bytes of the headers of a segment without data: IPv4 with options or IPv6, and TCP with options.
pub(super) const HEADERS: usize = 128;

/// How far an edge can move back: less than a unit of the largest scale, 14. RFC 7323 §2.3.
const UNIT: u32 = 1 << 14;

/// Whether a segment is such an acknowledgement. `sent` is what we sent last.
#[inline]
pub(super) fn concerns(tcp: &TcpPacket<&[u8]>, sent: Sent) -> bool {
    sent.window == 0
        && tcp.ack()
        && !tcp.rst()
        && tcp.segment_len() == 0
        && (1..UNIT).contains(&number(tcp.seq_number()).wrapping_sub(sent.ack))
}

/// A copy of the packet, in `scratch`, with the acceptable sequence number; the packet itself if it is too long to be
/// one without data.
#[cold]
pub(super) fn admit<'p>(
    packet: &'p [u8],
    tcp: &TcpPacket<&[u8]>,
    sent: Sent,
    scratch: &'p mut [u8; HEADERS],
) -> &'p [u8] {
    let header = packet.len() - tcp.as_ref().len();
    let Some(copy) = scratch.get_mut(..packet.len()) else { return packet };
    copy.copy_from_slice(packet);
    // The sum has been checked, and is not looked at again.
    copy[header + 4..header + 8].copy_from_slice(&sent.ack.to_be_bytes());
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An acknowledgement of 40049 behind 20 bytes of something.
    fn packet(seq: u32, flags: u8, data: usize) -> Vec<u8> {
        let mut packet = vec![0x45; 20];
        packet.extend([0xbf, 0xa0, 0, 7]);
        packet.extend(seq.to_be_bytes());
        packet.extend(40_049_u32.to_be_bytes());
        packet.extend([0x50, flags, 0, 72, 0, 0, 0, 0]);
        packet.extend(vec![0xdd; data]);
        packet
    }

    /// Where the segment seems to start, and whether it is otherwise as it was.
    fn admitted(seq: u32, flags: u8, data: usize, sent: Sent) -> (u32, bool) {
        let packet = packet(seq, flags, data);
        let mut scratch = [0; HEADERS];
        let tcp = TcpPacket::new_checked(&packet[20..]).unwrap();
        let got =
            if concerns(&tcp, sent) { admit(&packet, &tcp, sent, &mut scratch) } else { packet.as_slice() };
        let same = got[..24] == packet[..24] && got[28..] == packet[28..] && got.len() == packet.len();
        (u32::from_be_bytes(got[24..28].try_into().unwrap()), same)
    }

    const ACK: u8 = 0x10;

    fn closed(ack: u32) -> Sent {
        Sent { ack, window: 0, ..Sent::default() }
    }

    #[test]
    fn an_acknowledgement_from_behind_a_closed_windows_edge_becomes_acceptable() {
        // As Linux sent it: 8 bytes beyond an edge that had moved back.
        assert_eq!(admitted(2_121_689, ACK, 0, closed(2_121_681)), (2_121_681, true));
        assert_eq!(admitted(3, ACK, 0, closed(u32::MAX - 3)), (u32::MAX - 3, true));
        assert_eq!(admitted(100 + UNIT - 1, ACK, 0, closed(100)), (100, true));
    }

    #[test]
    fn all_others_stay_as_they_are() {
        let open = Sent { window: 1, ..closed(100) };
        for (seq, flags, data, sent) in [
            (108, ACK, 0, open),
            (100, ACK, 0, closed(100)),
            (99, ACK, 0, closed(100)),
            (100 + UNIT, ACK, 0, closed(100)),
            (108, ACK, 1, closed(100)),
            (108, ACK | 1, 0, closed(100)),
            (108, ACK | 2, 0, closed(100)),
            (108, ACK | 4, 0, closed(100)),
            (108, 0, 0, closed(100)),
        ] {
            assert_eq!(admitted(seq, flags, data, sent), (seq, true), "{seq} {flags:#x} {data} {sent:?}");
        }
    }
}
