//! What smoltcp drops of a segment without a word, so that it is counted.

use smoltcp::wire::{TcpOption, TcpPacket};

/// Bytes of a TCP header without options.
const PLAIN_HEADER: u8 = 20;

/// Whether the options are such as a TCP writes: lengths that end where the header does, known options of their own
/// length. Segments without options, which is most, cost one comparison.
pub(super) fn options_are_well_formed(tcp: &TcpPacket<&[u8]>) -> bool {
    if tcp.header_len() == PLAIN_HEADER {
        return true;
    }
    let mut options = tcp.options();
    while !options.is_empty() {
        match TcpOption::parse(options) {
            Ok((_, TcpOption::EndOfList)) => return true,
            Ok((rest, _)) => options = rest,
            Err(_) => return false,
        }
    }
    true
}

/// Whether at most one of SYN, FIN and RST is set.
pub(super) fn flags_agree(tcp: &TcpPacket<&[u8]>) -> bool {
    u8::from(tcp.syn()) + u8::from(tcp.fin()) + u8::from(tcp.rst()) <= 1
}
