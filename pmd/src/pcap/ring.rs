//! A bounded ring of frames between two threads: bytes, not mbufs, so that neither side needs the other's pool.
//!
//! Wait-free on both sides (crate `rtrb`), no system call, no allocation after it was made. A frame that has no room is
//! refused, never waited for.

use rtrb::{Consumer, Producer, RingBuffer};

/// What a frame takes beside its own bytes.
pub const RECORD_BYTES: usize = 24;

/// What travels with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamped {
    /// When, in whatever unit the two sides agree on.
    pub stamp: u64,
    /// Bytes of the frame in the ring.
    pub len: u32,
    /// Bytes that it had.
    pub original_len: u32,
    /// Whatever else the two sides agree on.
    pub tag: u64,
}

impl Stamped {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.stamp.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.original_len.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.tag.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; RECORD_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, rest @ ..] = bytes;
        Self {
            stamp: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_ne_bytes([i, j, k, l]),
            original_len: u32::from_ne_bytes([m, n, o, p]),
            tag: u64::from_ne_bytes(rest),
        }
    }
}

/// A ring of `capacity_bytes`, all of it touched now so that no page is missing later.
#[must_use]
pub fn frame_ring(capacity_bytes: usize) -> (FrameProducer, FrameConsumer) {
    let (mut bytes, mut consumer) = RingBuffer::new(capacity_bytes);
    // Once round, a page at a time.
    let zeros = [0_u8; 4096];
    while bytes.slots() > 0 {
        let _ = bytes.push_partial_slice(&zeros);
    }
    if let Ok(chunk) = consumer.read_chunk(capacity_bytes) {
        chunk.commit_all();
    }
    (FrameProducer { bytes }, FrameConsumer { bytes: consumer })
}

/// The side that puts frames in.
#[derive(Debug)]
pub struct FrameProducer {
    bytes: Producer<u8>,
}

impl FrameProducer {
    /// Free bytes; a frame takes its own and [`RECORD_BYTES`].
    #[inline]
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        self.bytes.slots()
    }

    /// Whether the other side is gone: nobody will read what is in it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.bytes.is_abandoned()
    }

    /// Puts in the first `frame.len` bytes of `pieces`, one behind the other. Returns false, having done nothing, where
    /// there is no room or the pieces are shorter.
    #[inline]
    pub fn push<'a>(&mut self, frame: Stamped, pieces: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        let len = frame.len as usize;
        if self.bytes.slots() < RECORD_BYTES + len || pieces.clone().map(<[u8]>::len).sum::<usize>() < len {
            return false;
        }
        // The other side takes no frame of which a part is missing, so the parts may become visible one by one.
        let mut whole = self.bytes.push_entire_slice(&frame.to_bytes()).is_ok();
        let mut left = len;
        for piece in pieces {
            let here = left.min(piece.len());
            whole &= self.bytes.push_entire_slice(&piece[..here]).is_ok();
            left -= here;
        }
        debug_assert!(whole && left == 0, "there was room, and only we take it");
        true
    }
}

/// The side that takes frames out.
#[derive(Debug)]
pub struct FrameConsumer {
    bytes: Consumer<u8>,
}

impl FrameConsumer {
    /// What is known of the oldest frame, which stays; its bytes may still be coming.
    #[inline]
    #[must_use]
    pub fn peek(&mut self) -> Option<Stamped> {
        let chunk = self.bytes.read_chunk(RECORD_BYTES).ok()?;
        let (first, second) = chunk.as_slices();
        Some(header(first, second))
    }

    /// Takes the oldest frame out, once all of it is there, while `take` looks at it: it lies in one piece, or in two.
    #[inline]
    pub fn pop<R>(&mut self, take: impl FnOnce(Stamped, &[u8], &[u8]) -> R) -> Option<R> {
        let len = self.peek()?.len as usize;
        let chunk = self.bytes.read_chunk(RECORD_BYTES + len).ok()?;
        let (first, second) = chunk.as_slices();
        let frame = header(first, second);
        let (first, second) = if first.len() >= RECORD_BYTES {
            (&first[RECORD_BYTES..], second)
        } else {
            (&second[RECORD_BYTES - first.len()..], &[][..])
        };
        let taken = take(frame, first, second);
        chunk.commit_all();
        Some(taken)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the other side is gone: what is in it is all there will be.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.bytes.is_abandoned()
    }
}

/// The record at the beginning of two slices that have one.
#[inline]
fn header(first: &[u8], second: &[u8]) -> Stamped {
    let mut bytes = [0; RECORD_BYTES];
    let here = first.len().min(RECORD_BYTES);
    bytes[..here].copy_from_slice(&first[..here]);
    bytes[here..].copy_from_slice(&second[..RECORD_BYTES - here]);
    Stamped::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop(ring: &mut FrameConsumer) -> Option<(Stamped, Vec<u8>)> {
        ring.pop(|frame, first, second| (frame, [first, second].concat()))
    }

    #[test]
    fn frames_come_out_as_they_went_in_wherever_the_ring_wraps() {
        let (mut producer, mut consumer) = frame_ring(257);
        for round in 0u64..2000 {
            let len = (round * 7 % 100) as usize;
            let bytes: Vec<u8> = (0..len).map(|at| (at as u64 + round) as u8).collect();
            let (a, b) = bytes.split_at(len / 3);
            let frame = Stamped { stamp: round, len: len as u32, original_len: 1500, tag: !round };
            assert!(producer.push(frame, [a, b, &[9; 9][..]].into_iter()), "round {round}");
            assert_eq!(consumer.peek(), Some(frame));
            assert_eq!(pop(&mut consumer), Some((frame, bytes)));
            assert!(consumer.is_empty() && pop(&mut consumer).is_none());
        }
    }

    #[test]
    fn what_has_no_room_is_refused_and_leaves_nothing_behind() {
        let (mut producer, mut consumer) = frame_ring(100);
        let frame = |len| Stamped { len, ..Stamped::default() };
        assert!(producer.push(frame(60), [&[1; 60][..]].into_iter()));
        assert_eq!(producer.room_bytes(), 16);
        assert!(!producer.push(frame(0), std::iter::empty()), "24 bytes into 16");
        assert_eq!(pop(&mut consumer).unwrap().1, [1; 60]);
        assert!(!producer.push(frame(10), [&[1; 9][..]].into_iter()), "pieces shorter than said");
        assert!(!producer.push(frame(77), [&[1; 77][..]].into_iter()), "longer than the ring");
        assert_eq!(producer.room_bytes(), 100);
        assert!(producer.push(frame(76), [&[2; 76][..]].into_iter()));
        drop(producer);
        assert!(consumer.is_abandoned());
        assert_eq!(pop(&mut consumer).unwrap().1, [2; 76], "what was put in stays");
    }
}
