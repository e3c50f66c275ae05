//! What a frame still needs before it is complete, or what is known of it: a few bytes in its first mbuf.
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | flags | 1 | partial checksum, checksum good, hash present, kind of segmentation |
//! | header | 1 | bytes of all headers in front of the payload that is to be segmented |
//! | segment | 2 | payload bytes of each segment |
//! | start, offset | 2, 2 | where the checksummed bytes start; where the checksum goes, from there |
//!
//! The names are those of virtio 1.2 §5.1.6, and so is what they mean. Nothing here knows IP: a partial checksum is two
//! numbers, whatever the protocol. All places count from the first byte of the frame; who puts bytes in front of a frame
//! or takes some away moves them with [`Offload::moved`].

use std::num::NonZeroU16;

/// Flags. The first two have the values of virtio's header.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const HASH: u8 = 4;
const ECN: u8 = 8;
const KIND: u8 = 0x30;
const KIND_TCP4: u8 = 0x10;
const KIND_TCP6: u8 = 0x20;

/// What is to be done with a frame, or was found out about it. Eight bytes; [`Offload::NONE`] is all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Offload {
    flags: u8,
    header_bytes: u8,
    segment_bytes: u16,
    csum_start: u16,
    csum_offset: u16,
}

const _: () = assert!(size_of::<Offload>() == 8);

/// A checksum of which only the part over the pseudo-header is there: the 16 bits at `start + offset` are to become the
/// Internet checksum (RFC 1071) of all bytes from `start` to the end of the frame, those 16 bits included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that it covers, from the start of the frame.
    pub start: u16,
    /// Where it goes, from there.
    pub offset: u16,
}

/// Which protocol the segments of a frame belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// A frame that is longer than a link carries and stands for several: generic segmentation offload (TSO when a port
/// does it, LRO or GRO when the frame was received so).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Of which protocol.
    pub kind: SegmentKind,
    /// One of the segments is marked with TCP's CWR flag (virtio's `GSO_ECN`).
    pub ecn: bool,
    /// Payload bytes of each segment but the last, which may have fewer.
    pub segment_bytes: NonZeroU16,
    /// Bytes of all headers, from Ethernet to TCP.
    pub header_bytes: u8,
}

impl Offload {
    /// Nothing to do and nothing known: a frame like any other.
    pub const NONE: Offload =
        Offload { flags: 0, header_bytes: 0, segment_bytes: 0, csum_start: 0, csum_offset: 0 };

    /// Nothing to do; whoever received the frame vouches for its transport checksum.
    pub const GOOD: Offload = Offload { flags: DATA_VALID, ..Offload::NONE };

    /// The checksum is to be completed.
    #[inline]
    #[must_use]
    pub const fn partial(at: PartialChecksum) -> Offload {
        Offload { flags: NEEDS_CSUM, csum_start: at.start, csum_offset: at.offset, ..Offload::NONE }
    }

    /// The same, and the frame is to be segmented.
    #[inline]
    #[must_use]
    pub const fn segmented(self, by: Segmentation) -> Offload {
        let kind = match by.kind {
            SegmentKind::Tcp4 => KIND_TCP4,
            SegmentKind::Tcp6 => KIND_TCP6,
        };
        let flags = self.flags & !(KIND | ECN) | kind | if by.ecn { ECN } else { 0 };
        Offload { flags, header_bytes: by.header_bytes, segment_bytes: by.segment_bytes.get(), ..self }
    }

    /// The same for a frame that is to be segmented no more.
    #[inline]
    #[must_use]
    pub const fn whole(self) -> Offload {
        let flags = self.flags & !(KIND | ECN);
        Offload { flags, header_bytes: 0, segment_bytes: 0, ..self }
    }

    /// Whether there is anything to do before a port that does nothing itself can send the frame.
    #[inline]
    #[must_use]
    pub const fn is_complete(self) -> bool {
        self.flags & (NEEDS_CSUM | KIND) == 0
    }

    /// The checksum that is to be completed, if one is.
    #[inline]
    #[must_use]
    pub const fn partial_checksum(self) -> Option<PartialChecksum> {
        match self.flags & NEEDS_CSUM {
            0 => None,
            _ => Some(PartialChecksum { start: self.csum_start, offset: self.csum_offset }),
        }
    }

    /// Whether the transport checksum need not be looked at: it was verified by who received the frame, or the frame
    /// comes from memory and is to get it only when it leaves for a wire.
    #[inline]
    #[must_use]
    pub const fn is_checksum_good(self) -> bool {
        self.flags & (NEEDS_CSUM | DATA_VALID) != 0
    }

    /// How the frame is to be segmented, if it is.
    #[inline]
    #[must_use]
    pub const fn segmentation(self) -> Option<Segmentation> {
        let kind = match self.flags & KIND {
            0 => return None,
            KIND_TCP4 => SegmentKind::Tcp4,
            _ => SegmentKind::Tcp6,
        };
        let Some(segment_bytes) = NonZeroU16::new(self.segment_bytes) else { return None };
        let ecn = self.flags & ECN != 0;
        Some(Segmentation { kind, ecn, segment_bytes, header_bytes: self.header_bytes })
    }

    /// The same with all places moved by `bytes`: positive when bytes were put in front of the frame (a VLAN tag), and
    /// negative when some were taken away. `None` when a place would not fit its field.
    #[must_use]
    pub fn moved(self, bytes: i16) -> Option<Offload> {
        let mut moved = self;
        if self.flags & NEEDS_CSUM != 0 {
            moved.csum_start = self.csum_start.checked_add_signed(bytes)?;
        }
        if self.flags & KIND != 0 {
            let header = i16::from(self.header_bytes).checked_add(bytes)?;
            moved.header_bytes = u8::try_from(header).ok()?;
        }
        Some(moved)
    }

    /// Whether the mbuf's hash was set.
    #[inline]
    pub(super) const fn has_hash(self) -> bool {
        self.flags & HASH != 0
    }

    /// The same with the mark that the mbuf's hash was set, or without.
    #[inline]
    pub(super) const fn with_hash(self, set: bool) -> Offload {
        Offload { flags: if set { self.flags | HASH } else { self.flags & !HASH }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: PartialChecksum = PartialChecksum { start: 34, offset: 16 };

    fn by(kind: SegmentKind, ecn: bool) -> Segmentation {
        Segmentation { kind, ecn, segment_bytes: NonZeroU16::new(1448).unwrap(), header_bytes: 66 }
    }

    #[test]
    fn what_was_put_in_comes_out() {
        assert!(Offload::NONE.is_complete() && !Offload::NONE.is_checksum_good());
        assert!(Offload::GOOD.is_complete() && Offload::GOOD.is_checksum_good());
        let partial = Offload::partial(AT);
        assert_eq!((partial.partial_checksum(), partial.segmentation()), (Some(AT), None));
        assert!(!partial.is_complete() && partial.is_checksum_good());
        for (kind, ecn) in [(SegmentKind::Tcp4, true), (SegmentKind::Tcp6, false)] {
            let both = partial.segmented(by(kind, ecn));
            assert_eq!((both.partial_checksum(), both.segmentation()), (Some(AT), Some(by(kind, ecn))));
            assert_eq!(both.whole(), partial);
            assert_eq!(both.with_hash(true).with_hash(false), both);
            assert!(both.with_hash(true).has_hash() && !both.has_hash());
        }
        let received = Offload::GOOD.segmented(by(SegmentKind::Tcp4, false));
        assert!(!received.is_complete() && received.partial_checksum().is_none());
    }

    #[test]
    fn places_move_with_the_front_of_the_frame_as_far_as_they_fit() {
        let both = Offload::partial(AT).segmented(by(SegmentKind::Tcp4, false));
        let tagged = both.moved(4).unwrap();
        assert_eq!(tagged.partial_checksum().unwrap(), PartialChecksum { start: 38, offset: 16 });
        assert_eq!(tagged.segmentation().unwrap().header_bytes, 70);
        assert_eq!(tagged.moved(-4), Some(both));
        assert_eq!((both.moved(-35), both.moved(200)), (None, None));
        assert_eq!(Offload::NONE.moved(-100), Some(Offload::NONE));
    }
}
