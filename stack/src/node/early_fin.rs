//! A FIN behind bytes that our window has no room for.
//!
//! A peer may send beyond the edge of our window: to an edge that has moved back since (see `zero_window`), or out of
//! malice. smoltcp keeps what fits and drops the rest, as it should, but takes the segment's FIN as if it stood where it
//! has cut: the stream would end early, without the bytes in between, and nobody would know. RFC 9293 §3.10.7.4 has a
//! segment trimmed at the window's edge *with* its FIN. So such a segment is handed on without its FIN, which the peer
//! sends again with the bytes that it follows.

use smoltcp::wire::TcpPacket;

use crate::flow::Flow;
use crate::segment::number;

/// Whether the segment's FIN lies beyond the edge of the window that the flow announced last.
#[inline]
pub(super) fn concerns(tcp: &TcpPacket<&[u8]>, flow: &Flow) -> bool {
    tcp.fin() && !tcp.payload().is_empty() && {
        let sent = flow.sent;
        let shift = if flow.scales { shift(flow.socket().recv_capacity()) } else { 0 };
        let window = i64::from(sent.window) << shift;
        let end = tcp.seq_number() + tcp.payload().len();
        let from_ack = i64::from(number(end).wrapping_sub(sent.ack).cast_signed());
        from_ack > window
    }
}

/// The shift that smoltcp gives a receive buffer of `capacity` bytes: as much as it takes to announce all of it.
fn shift(capacity: usize) -> u32 {
    (usize::BITS - capacity.leading_zeros()).saturating_sub(16)
}

/// A copy of the packet in `scratch`, without the FIN.
#[cold]
pub(super) fn strip<'p>(packet: &[u8], tcp: &TcpPacket<&[u8]>, scratch: &'p mut Vec<u8>) -> &'p [u8] {
    const FLAGS: usize = 13;
    const FIN: u8 = 1;
    let header = packet.len() - tcp.as_ref().len();
    scratch.clear();
    scratch.extend_from_slice(packet);
    // The sum has been checked, and is not looked at again.
    scratch[header + FLAGS] &= !FIN;
    scratch
}
