//! Generic receive offload in software: segments of a flow that follow each other in a burst become one frame, which stands
//! for them as it does with LRO. Cutting it again gives the same segments.
//!
//! Joined is what is alike but for its place in the stream: the same addresses, ports, acknowledgement, window and options,
//! all of the first one's length but for the last, which may be shorter; flags no others than ACK, and PSH in the last. Sums
//! are verified here, unless the port has done it, since the joined frame says that they are good.
//!
//! Nothing is copied: the payloads' mbufs become a chain behind the first segment's headers.

use std::num::NonZeroU16;

use pmd::Mbuf;
use pmd::mem::checksum::Sum;
use pmd::mem::{Offload, SegmentKind, Segmentation};
use pmd::port::Burst;

use super::headers::Headers;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// The longest IP packet.
const LONGEST: usize = 65_535;
/// The most segments that become one frame.
const MOST: usize = 44;

/// A segment that may be joined with others.
#[derive(Clone, Copy)]
struct Segment {
    headers: Headers,
    sequence: u32,
    payload: usize,
    pushes: bool,
}

impl Segment {
    /// Reads a frame; `None` for all that stays as it is.
    #[inline]
    fn of(frame: &Mbuf) -> Option<Segment> {
        if frame.next().is_some() || frame.is_shared() || frame.offload().segmentation().is_some() {
            return None;
        }
        let bytes = frame.data();
        let headers = Headers::of(bytes)?;
        let Headers { kind, ip, tcp, payload } = headers;
        let flags = bytes[tcp + 13];
        if flags & !PSH != ACK {
            return None;
        }
        let packet = match kind {
            SegmentKind::Tcp4 if tcp - ip == 20 => usize::from(number(bytes, ip + 2)),
            SegmentKind::Tcp4 => return None,
            SegmentKind::Tcp6 => tcp - ip + usize::from(number(bytes, ip + 4)),
        };
        // Padding is no payload, and what is cut short no segment.
        if ip + packet != bytes.len() || bytes.len() == payload {
            return None;
        }
        let sequence = u32::from_be_bytes([bytes[tcp + 4], bytes[tcp + 5], bytes[tcp + 6], bytes[tcp + 7]]);
        Some(Segment { headers, sequence, payload: bytes.len() - payload, pushes: flags & PSH != 0 })
    }

    /// Whether its sums are right.
    #[inline]
    fn is_right(&self, frame: &Mbuf) -> bool {
        let Headers { kind, ip, tcp, .. } = self.headers;
        let bytes = frame.data();
        let addresses = match kind {
            SegmentKind::Tcp4 if Sum::default().bytes(&bytes[ip..tcp]).fold() != 0xffff => return false,
            SegmentKind::Tcp4 => &bytes[ip + 12..ip + 20],
            SegmentKind::Tcp6 => &bytes[ip + 8..ip + 40],
        };
        if frame.offload().is_checksum_good() {
            return true;
        }
        let Ok(len) = u16::try_from(bytes.len() - tcp) else { return false };
        Sum::default().bytes(addresses).number(6).number(len).bytes(&bytes[tcp..]).fold() == 0xffff
    }

    /// Whether the two frames' headers differ in nothing but what differs between the segments of one frame: lengths,
    /// identification, sequence number, PSH, sums.
    #[inline]
    fn is_like(&self, other: &Segment, first: &[u8], second: &[u8]) -> bool {
        let Headers { kind, ip, tcp, payload } = self.headers;
        if self.headers != other.headers {
            return false;
        }
        let same = |from: usize, to: usize| first[from..to] == second[from..to];
        let ip_same = match kind {
            // Not length, identification and sum.
            SegmentKind::Tcp4 => same(0, ip + 2) && same(ip + 6, ip + 10) && same(ip + 12, tcp),
            SegmentKind::Tcp6 => same(0, ip + 4) && same(ip + 6, tcp),
        };
        // Not sequence number, flags (looked at) and sum.
        ip_same
            && same(tcp, tcp + 4)
            && same(tcp + 8, tcp + 13)
            && same(tcp + 14, tcp + 16)
            && same(tcp + 18, payload)
    }
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Frames that are becoming one: the pieces behind the first, and what the next must be.
struct Growing {
    head: Mbuf,
    first: Segment,
    next_sequence: u32,
    bytes: usize,
    pieces: arrayvec::ArrayVec<Mbuf, MOST>,
    pushes: bool,
    closed: bool,
}

impl Growing {
    fn new(head: Mbuf, first: Segment) -> Growing {
        Growing {
            next_sequence: first.sequence.wrapping_add(wide(first.payload)),
            bytes: head.len(),
            pieces: arrayvec::ArrayVec::new(),
            pushes: first.pushes,
            closed: first.pushes,
            head,
            first,
        }
    }

    /// Whether `segment`, in `frame`, is the next.
    #[inline]
    fn takes(&self, segment: &Segment, frame: &Mbuf) -> bool {
        !self.closed
            && segment.sequence == self.next_sequence
            && segment.payload <= self.first.payload
            && self.bytes + segment.payload <= LONGEST
            && !self.pieces.is_full()
            && self.first.is_like(segment, self.head.data(), frame.data())
    }

    #[inline]
    fn join(&mut self, segment: &Segment, mut frame: Mbuf) {
        let cut = frame.adj(segment.headers.payload);
        debug_assert!(cut.is_ok(), "the headers were read");
        self.next_sequence = self.next_sequence.wrapping_add(wide(segment.payload));
        self.bytes += segment.payload;
        (self.pushes, self.closed) = (segment.pushes, segment.pushes || segment.payload < self.first.payload);
        self.pieces.push(frame);
    }

    /// The frame that stands for all of them.
    fn finish(mut self) -> Mbuf {
        if self.pieces.is_empty() {
            // It was looked at, so nobody needs to again.
            if self.head.offload().is_complete() {
                self.head.set_offload(Offload::GOOD);
            }
            return self.head;
        }
        let Headers { kind, ip, tcp, payload } = self.first.headers;
        let Some(bytes) = self.head.data_mut() else { return self.head };
        match kind {
            SegmentKind::Tcp4 => {
                put(bytes, ip + 2, self.bytes - ip);
                bytes[ip + 10..ip + 12].fill(0);
                let sum = !Sum::default().bytes(&bytes[ip..tcp]).fold();
                bytes[ip + 10..ip + 12].copy_from_slice(&sum.to_ne_bytes());
            }
            SegmentKind::Tcp6 => put(bytes, ip + 4, self.bytes - tcp),
        }
        if self.pushes {
            bytes[tcp + 13] |= PSH;
        }
        if let (Ok(segment), Ok(header_bytes)) = (u16::try_from(self.first.payload), u8::try_from(payload))
            && let Some(segment_bytes) = NonZeroU16::new(segment)
        {
            let by = Segmentation { kind, ecn: false, segment_bytes, header_bytes };
            self.head.set_offload(Offload::GOOD.segmented(by));
        }
        // From the back, so that no piece is walked to.
        let mut rest: Option<Mbuf> = None;
        while let Some(mut piece) = self.pieces.pop() {
            if let Some(rest) = rest.take() {
                piece.chain(rest);
            }
            rest = Some(piece);
        }
        if let Some(rest) = rest {
            self.head.chain(rest);
        }
        self.head
    }
}

fn put(bytes: &mut [u8], at: usize, number: usize) {
    #[allow(clippy::cast_possible_truncation)] // at most `LONGEST`
    bytes[at..at + 2].copy_from_slice(&(number as u16).to_be_bytes());
}

fn wide(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Joins what can be joined of a burst, in order; one flow's segments at a time, as they come from a sender that sends many.
/// Returns how many frames it made of how many segments.
pub(crate) fn join(burst: &mut Burst) -> (u64, u64) {
    let (mut frames, mut segments) = (0, 0);
    let mut joined = Burst::new();
    let mut growing: Option<Growing> = None;
    for frame in std::mem::take(burst) {
        let segment = Segment::of(&frame).filter(|segment| segment.is_right(&frame));
        match (&mut growing, segment) {
            (Some(grown), Some(segment)) if grown.takes(&segment, &frame) => grown.join(&segment, frame),
            (_, segment) => {
                if let Some(grown) = growing.take() {
                    count(&grown, &mut frames, &mut segments);
                    joined.push(grown.finish());
                }
                match segment {
                    Some(segment) => growing = Some(Growing::new(frame, segment)),
                    None => joined.push(frame),
                }
            }
        }
    }
    if let Some(grown) = growing {
        count(&grown, &mut frames, &mut segments);
        joined.push(grown.finish());
    }
    *burst = joined;
    (frames, segments)
}

fn count(grown: &Growing, frames: &mut u64, segments: &mut u64) {
    if !grown.pieces.is_empty() {
        *frames += 1;
        *segments += 1 + grown.pieces.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::gso::Cut;
    use crate::offload::test_frames::{Made, home_with_long, made, pieces};
    use pmd::HomePool;
    use proptest::prelude::*;

    fn bytes(frame: &Mbuf) -> Vec<u8> {
        frame.segments().flat_map(|piece| piece.data().to_vec()).collect()
    }

    /// A frame's segments, complete.
    fn cut(pool: &HomePool, frame: Mbuf) -> Vec<Mbuf> {
        let mut cut = Cut::new(frame).unwrap_or_else(|_| panic!("it can be cut"));
        let mut segments = Vec::new();
        while !cut.is_done() {
            segments.push(cut.next(pool.alloc_for(cut.longest()).unwrap(), false).unwrap());
        }
        segments
    }

    /// As they come from a wire: nobody answers for them.
    fn received(segments: Vec<Mbuf>) -> Burst {
        let blank = |mut frame: Mbuf| {
            frame.set_offload(Offload::NONE);
            frame
        };
        segments.into_iter().map(blank).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_joined_and_cut_again_is_what_it_was(
            v6 in any::<bool>(),
            payload in 2..30_000_usize,
            sequence in prop_oneof![any::<u32>(), Just(u32::MAX - 3000)],
            options in 0..10_usize,
            push in any::<bool>(),
        ) {
            // No more segments than a burst holds.
            let segment = u16::try_from(payload.div_ceil(40)).unwrap().max(if payload > 2000 { 900 } else { 1 });
            let pool = home_with_long(32);
            let flags = if push { ACK | PSH } else { ACK };
            let whole = made(&Made { v6, payload, flags, sequence, options, id: 9 });
            let mut burst = received(cut(&pool, pieces(&pool, &whole, 66_000, Some(segment))));
            let before: Vec<Vec<u8>> = burst.iter().map(bytes).collect();
            let (frames, segments) = join(&mut burst);
            prop_assert!(usize::from(segments > 0) == usize::from(before.len() > 1) && frames <= 2);
            let mut after = Vec::new();
            for frame in burst {
                match frame.offload().segmentation() {
                    None => after.push(bytes(&frame)),
                    Some(_) => after.extend(cut(&pool, frame).iter().map(bytes)),
                }
            }
            // Frames of more than one joined frame count their identifications anew; all else is the same.
            prop_assert_eq!(after.len(), before.len());
            if frames == 1 {
                prop_assert!(after == before);
            }
        }
    }

    fn two(change: impl Fn(&mut Vec<u8>)) -> usize {
        let pool = home_with_long(4);
        let of = |sequence| made(&Made { v6: false, payload: 1000, flags: ACK, sequence, options: 0, id: 9 });
        let (first, mut second) = (of(1), of(1001));
        change(&mut second);
        let mut burst: Burst = [first, second].iter().map(|bytes| pieces(&pool, bytes, 4000, None)).collect();
        join(&mut burst);
        burst.len()
    }

    #[test]
    fn only_what_follows_and_is_right_is_joined() {
        assert_eq!(two(|_| {}), 1);
        assert_eq!(two(|frame| frame[60] ^= 1), 2, "a wrong sum");
        assert_eq!(two(|frame| frame.truncate(1000)), 2, "cut short");
        assert_eq!(two(|frame| frame.push(0)), 2, "padding");
        assert_eq!(two(|frame| frame[5] = 7), 2, "another station");
        let another = |sequence, flags| {
            two(move |frame| {
                *frame = made(&Made { v6: false, payload: 1000, flags, sequence, options: 0, id: 9 })
            })
        };
        assert_eq!(another(1001, ACK | PSH), 1);
        assert_eq!([another(1002, ACK), another(1, ACK), another(1001, ACK | 1), another(1001, 2)], [2; 4]);
    }

    #[test]
    fn chains_and_clones_stay_as_they_are() {
        let pool = home_with_long(4);
        let of = |sequence| made(&Made { v6: true, payload: 1000, flags: ACK, sequence, options: 0, id: 9 });
        let shared = pieces(&pool, &of(1001), 4000, None);
        let clone = shared.clone_ref(&pool).unwrap();
        let mut burst: Burst = [pieces(&pool, &of(1), 600, None), clone, shared].into_iter().collect();
        assert_eq!(join(&mut burst), (0, 0));
        assert_eq!(burst.len(), 3);
    }
}
