//! Generic segmentation offload in software: a frame that stands for several segments of TCP is cut into them, as late as
//! possible. What Linux does for a device without TSO.
//!
//! Each segment gets the frame's headers with what differs: lengths, the IPv4 identification (counted on, RFC 6864 asks for
//! no more), the sequence number; FIN and PSH only in the last, CWR only in the first (RFC 3168 §6.1.2); its own sums.

use pmd::Mbuf;
use pmd::mem::checksum::Sum;
use pmd::mem::{Offload, PartialChecksum, SegmentKind};

use super::headers::Headers;

/// Place of the checksum in a TCP header, of its flags, of its sequence number. RFC 9293 §3.1.
const CHECKSUM: usize = 16;
const FLAGS: usize = 13;
const SEQUENCE: usize = 4;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A frame that is being cut.
pub(crate) struct Cut {
    frame: Mbuf,
    headers: Headers,
    /// Payload bytes of each segment but the last.
    segment: usize,
    /// Payload bytes of the whole frame.
    total: usize,
    /// How many of them have been cut off.
    done: usize,
    /// How many segments.
    count: u16,
}

impl Cut {
    /// Makes ready to cut. A frame that cannot be cut into what it stands for is given back: it is not TCP of the kind that
    /// it says, its headers do not lie in one piece, or nobody answers for its checksum, so that new ones would make
    /// right what may be wrong.
    pub(crate) fn new(frame: Mbuf) -> Result<Cut, Mbuf> {
        let offload = frame.offload();
        let Some(by) = offload.segmentation() else { return Err(frame) };
        let Some(headers) = Headers::of(frame.data()) else { return Err(frame) };
        if headers.kind != by.kind || !offload.is_checksum_good() {
            return Err(frame);
        }
        let total = frame.pkt_len() - headers.payload;
        Ok(Cut { headers, segment: by.segment_bytes.get().into(), total, done: 0, count: 0, frame })
    }

    /// Bytes of the longest segment, headers included.
    pub(crate) fn longest(&self) -> usize {
        self.headers.payload + self.segment.min(self.total)
    }

    /// Whether all has been cut off.
    pub(crate) fn is_done(&self) -> bool {
        self.done >= self.total && self.count > 0
    }

    /// The next segment, in the empty `mbuf`, which has room for the [longest](Self::longest). Its checksum is left to the
    /// port if that sums. `None`, and the rest is given up, if the mbuf has no such room.
    pub(crate) fn next(&mut self, mut mbuf: Mbuf, port_sums: bool) -> Option<Mbuf> {
        let Headers { kind, ip, tcp, payload } = self.headers;
        let bytes = self.segment.min(self.total - self.done);
        let is_last = self.done + bytes == self.total;
        let segment = mbuf.append(payload + bytes).ok()?;
        let (front, data) = segment.split_at_mut(payload);
        front.copy_from_slice(self.frame.data().get(..payload)?);
        copy_range(&self.frame, payload + self.done, data);
        match kind {
            SegmentKind::Tcp4 => {
                put(front, ip + 2, payload - ip + bytes);
                let id = u16::from_be_bytes([front[ip + 4], front[ip + 5]]).wrapping_add(self.count);
                put(front, ip + 4, usize::from(id));
                front[ip + 10..ip + 12].fill(0);
                let sum = !Sum::default().bytes(&front[ip..tcp]).fold();
                front[ip + 10..ip + 12].copy_from_slice(&sum.to_ne_bytes());
            }
            SegmentKind::Tcp6 => put(front, ip + 4, payload - tcp + bytes),
        }
        let header = &mut front[tcp..];
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        #[allow(clippy::cast_possible_truncation)] // a frame is shorter than 64 KiB and its headers
        let sequence = sequence.wrapping_add(self.done as u32);
        header[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            header[FLAGS] &= !(FIN | PSH);
        }
        if self.count > 0 {
            header[FLAGS] &= !CWR;
        }
        let addresses = match kind {
            SegmentKind::Tcp4 => &front[ip + 12..ip + 20],
            SegmentKind::Tcp6 => &front[ip + 8..ip + 40],
        };
        #[allow(clippy::cast_possible_truncation)] // of a segment, whose length fits the IP header
        let pseudo = Sum::default().bytes(addresses).number(6).number((payload - tcp + bytes) as u16).fold();
        front[tcp + CHECKSUM..tcp + CHECKSUM + 2].copy_from_slice(&pseudo.to_ne_bytes());
        #[allow(clippy::cast_possible_truncation)] // headers are shorter than 256 bytes
        let at = PartialChecksum { start: tcp as u16, offset: CHECKSUM as u16 };
        mbuf.set_offload(Offload::partial(at));
        if !port_sums {
            mbuf.complete_checksum().ok()?;
        }
        mbuf.set_rx_ticks(self.frame.rx_ticks());
        self.done += bytes;
        self.count = self.count.wrapping_add(1);
        Some(mbuf)
    }
}

fn put(bytes: &mut [u8], at: usize, number: usize) {
    #[allow(clippy::cast_possible_truncation)] // lengths of one segment, and what was 16 bits before
    bytes[at..at + 2].copy_from_slice(&(number as u16).to_be_bytes());
}

/// Copies the frame's bytes from `offset` on, across its pieces.
fn copy_range(frame: &Mbuf, mut offset: usize, mut to: &mut [u8]) {
    for piece in frame.segments() {
        let data = piece.data();
        if offset >= data.len() {
            offset -= data.len();
            continue;
        }
        let bytes = to.len().min(data.len() - offset);
        let (here, rest) = to.split_at_mut(bytes);
        here.copy_from_slice(&data[offset..offset + bytes]);
        (to, offset) = (rest, 0);
        if to.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
