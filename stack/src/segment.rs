//! TCP segments as we look at them and make them ourselves, beside smoltcp.

use smoltcp::wire::{TcpControl, TcpOption, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::flow::DEFAULT_MSS;

/// A sequence number as one counts with it: modulo 2^32. RFC 9293 §3.4.
#[inline]
pub(crate) fn number(seq: TcpSeqNumber) -> u32 {
    u32::from_ne_bytes(seq.0.to_ne_bytes())
}

/// The same as smoltcp has it.
#[inline]
pub(crate) fn seq_number(number: u32) -> TcpSeqNumber {
    TcpSeqNumber(i32::from_ne_bytes(number.to_ne_bytes()))
}

/// A segment that carries neither data nor options.
pub(crate) fn bare(
    (src_port, dst_port): (u16, u16),
    control: TcpControl,
    seq: u32,
    ack: Option<u32>,
    window_len: u16,
) -> TcpRepr<'static> {
    TcpRepr {
        src_port,
        dst_port,
        control,
        seq_number: seq_number(seq),
        ack_number: ack.map(seq_number),
        window_len,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// What a SYN says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// It scales windows, and so do we: our own SYNs always offer it. RFC 7323 §2.2.
    pub scales: bool,
    /// The largest segment that it takes, in bytes of data. RFC 9293 §3.7.1.
    pub mss: u16,
}

impl Offer {
    /// Reads a SYN's options.
    pub fn of(syn: &TcpPacket<&[u8]>) -> Offer {
        let mut offer = Offer { scales: false, mss: DEFAULT_MSS };
        let mut options = syn.options();
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::WindowScale(_) => offer.scales = true,
                TcpOption::MaxSegmentSize(mss) => offer.mss = mss.max(1),
                TcpOption::EndOfList => break,
                _ => {}
            }
            options = rest;
        }
        offer
    }
}
