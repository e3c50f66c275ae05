//! A single-producer single-consumer ring of bytes, or of datagrams, over memory that both sides map.
//!
//! | who | calls | publishes | caches |
//! |---|---|---|---|
//! | producer | [`Producer::room`], [`push`](Producer::push), [`push_datagram`](Producer::push_datagram) | `tail`, once a call, after the bytes | `head` |
//! | consumer | [`Consumer::len`], [`pop`](Consumer::pop), [`peek`](Consumer::peek), [`pop_datagram`](Consumer::pop_datagram), … | `head`, once a call, after the copy | `tail` |
//!
//! Each side keeps its own index in private memory and never reads back what it published. The other side's index is
//! read once an operation, and only when the cached one does not suffice. It may only move forward, and not past what this
//! side allows: anything else is a [`Lie`], after which the ring must not be used any more. A bad index can thus neither
//! panic nor reach outside the ring.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::layout::RingHeader;
use crate::memory::Area;
use crate::sync::Ordering;

#[cfg(loom)]
#[cfg(test)]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

/// The other side wrote something impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// An index went backwards, or past the other.
    #[error("the other side moved its index by {moved} bytes where at most {allowed} were possible")]
    Index {
        /// By how much it moved, mod 2^32.
        moved: u32,
        /// By how much it could have moved.
        allowed: u32,
    },
    /// A datagram longer than what was published, or from an address of no known family.
    #[error("the other side published a datagram of {len} bytes, family {family}, in {available} bytes")]
    Datagram {
        /// Bytes that it claims.
        len: u32,
        /// Its family.
        family: u16,
        /// Bytes in the ring.
        available: u32,
    },
}

/// The shared part of a ring: borrowed for each operation, so that a ring owns nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring<'a> {
    header: &'a RingHeader,
    area: Area<'a>,
}

impl<'a> Ring<'a> {
    #[inline]
    pub(crate) fn new(header: &'a RingHeader, area: Area<'a>) -> Self {
        Self { header, area }
    }

    pub(crate) fn header(&self) -> &'a RingHeader {
        self.header
    }
}

/// The producer's private half.
#[derive(Debug, Default)]
pub(crate) struct Producer {
    tail: u32,
    /// The consumer's index as last seen.
    head: u32,
}

/// The consumer's private half.
#[derive(Debug, Default)]
pub(crate) struct Consumer {
    head: u32,
    /// The producer's index as last seen.
    tail: u32,
}

impl Producer {
    #[cfg(test)]
    pub(crate) fn starting_at(start: u32) -> Self {
        Self { tail: start, head: start }
    }

    /// Bytes that the consumer has not popped yet, as far as this side knows.
    #[inline]
    fn used(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// Bytes of room: at least `wanted` if there are, else how many there are now.
    #[inline]
    pub(crate) fn room(&mut self, ring: Ring<'_>, wanted: u32) -> Result<u32, Lie> {
        let size = ring.area.len();
        if size - self.used() < wanted {
            // ORDERING: Acquire. The consumer has copied the bytes before it gave the room back.
            // Partner: `Consumer::publish`.
            let head = ring.header.head.0.load(Ordering::Acquire);
            let (moved, allowed) = (head.wrapping_sub(self.head), self.used());
            if moved > allowed {
                return Err(Lie::Index { moved, allowed });
            }
            self.head = head;
        }
        Ok(size - self.used())
    }

    /// Whether the consumer has popped all, seen afresh.
    pub(crate) fn is_drained(&mut self, ring: Ring<'_>) -> Result<bool, Lie> {
        let size = ring.area.len();
        Ok(self.room(ring, size)? == size)
    }

    /// Appends as much of `data` as there is room for, and says how much.
    #[inline]
    pub(crate) fn push(&mut self, ring: Ring<'_>, data: &[u8]) -> Result<usize, Lie> {
        let wanted = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let count = self.room(ring, wanted)?.min(wanted);
        if count > 0 {
            ring.area.copy_in(self.tail, &data[..count as usize]);
            self.publish(ring, count);
        }
        Ok(count as usize)
    }

    /// Appends one datagram with the address it comes from or goes to; `false` if there is no room for it.
    pub(crate) fn push_datagram(
        &mut self,
        ring: Ring<'_>,
        address: SocketAddr,
        data: &[u8],
    ) -> Result<bool, Lie> {
        let Ok(len) = u32::try_from(data.len()) else { return Ok(false) };
        let Some(record) = len.checked_add(RECORD_BYTES) else { return Ok(false) };
        if self.room(ring, record)? < record {
            return Ok(false);
        }
        ring.area.copy_in(self.tail, &Record { len, address }.emit());
        ring.area.copy_in(self.tail.wrapping_add(RECORD_BYTES), data);
        self.publish(ring, record);
        Ok(true)
    }

    #[inline]
    fn publish(&mut self, ring: Ring<'_>, count: u32) {
        self.tail = self.tail.wrapping_add(count);
        // ORDERING: Release. The bytes above come first. Partner: `Consumer::len`.
        ring.header.tail.0.store(self.tail, Ordering::Release);
    }
}

impl Consumer {
    #[cfg(test)]
    pub(crate) fn starting_at(start: u32) -> Self {
        Self { head: start, tail: start }
    }

    #[inline]
    fn known(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// Bytes to pop: at least `wanted` if there are, else how many there are now.
    #[inline]
    pub(crate) fn len(&mut self, ring: Ring<'_>, wanted: u32) -> Result<u32, Lie> {
        if self.known() < wanted {
            // ORDERING: Acquire. The bytes were there before the index. Partner: `Producer::publish`.
            let tail = ring.header.tail.0.load(Ordering::Acquire);
            let (moved, allowed) = (tail.wrapping_sub(self.tail), ring.area.len() - self.known());
            if moved > allowed {
                return Err(Lie::Index { moved, allowed });
            }
            self.tail = tail;
        }
        Ok(self.known())
    }

    /// Moves as many bytes to the front of `data` as there are and fit, and says how many.
    #[inline]
    pub(crate) fn pop(&mut self, ring: Ring<'_>, data: &mut [u8]) -> Result<usize, Lie> {
        let count = self.peek(ring, data)?;
        self.publish(ring, count);
        Ok(count as usize)
    }

    /// As [`pop`](Self::pop), but the bytes stay.
    #[inline]
    pub(crate) fn peek(&mut self, ring: Ring<'_>, data: &mut [u8]) -> Result<u32, Lie> {
        let wanted = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let count = self.len(ring, wanted)?.min(wanted);
        ring.area.copy_out(self.head, &mut data[..count as usize]);
        Ok(count)
    }

    /// Copies the next datagram to `data`, cut off where that ends, and returns its address and its whole length. It stays
    /// until [`pop_datagram`](Self::pop_datagram).
    pub(crate) fn peek_datagram(
        &mut self,
        ring: Ring<'_>,
        data: &mut [u8],
    ) -> Result<Option<(SocketAddr, usize)>, Lie> {
        let Some(Record { len, address }) = self.record(ring)? else { return Ok(None) };
        let copied = data.len().min(len as usize);
        ring.area.copy_out(self.head.wrapping_add(RECORD_BYTES), &mut data[..copied]);
        Ok(Some((address, len as usize)))
    }

    /// Removes the next datagram.
    pub(crate) fn pop_datagram(&mut self, ring: Ring<'_>) -> Result<bool, Lie> {
        let Some(Record { len, .. }) = self.record(ring)? else { return Ok(false) };
        self.publish(ring, RECORD_BYTES + len);
        Ok(true)
    }

    /// The next datagram's head. Its length was checked against what is in the ring.
    fn record(&mut self, ring: Ring<'_>) -> Result<Option<Record>, Lie> {
        // A producer publishes whole datagrams: with one byte there are all.
        let available = self.len(ring, 1)?;
        if available == 0 {
            return Ok(None);
        }
        let mut head = [0; RECORD_BYTES as usize];
        if available < RECORD_BYTES {
            return Err(Lie::Datagram { len: 0, family: 0, available });
        }
        ring.area.copy_out(self.head, &mut head);
        let (len, family, address) = Record::parse(&head);
        match address {
            Some(address) if len <= available - RECORD_BYTES => Ok(Some(Record { len, address })),
            _ => Err(Lie::Datagram { len, family, available }),
        }
    }

    #[inline]
    fn publish(&mut self, ring: Ring<'_>, count: u32) {
        if count > 0 {
            self.head = self.head.wrapping_add(count);
            // ORDERING: Release. The copies above are done before the room is given back. Partner: `Producer::room`.
            ring.header.head.0.store(self.head, Ordering::Release);
        }
    }
}

/// Bytes before each datagram: length (4), family (2: 4 or 6), port (2), address (16).
pub(crate) const RECORD_BYTES: u32 = 24;

/// What stands before each datagram.
#[derive(Clone, Copy, Debug)]
struct Record {
    len: u32,
    address: SocketAddr,
}

impl Record {
    fn emit(&self) -> [u8; RECORD_BYTES as usize] {
        let mut bytes = [0; RECORD_BYTES as usize];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.address.port().to_le_bytes());
        match self.address.ip() {
            IpAddr::V4(address) => {
                bytes[4] = 4;
                bytes[8..12].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes[4] = 6;
                bytes[8..].copy_from_slice(&address.octets());
            }
        }
        bytes
    }

    /// Length, family, and the address if the family is one.
    fn parse(bytes: &[u8; RECORD_BYTES as usize]) -> (u32, u16, Option<SocketAddr>) {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut address = [0; 16];
        address.copy_from_slice(&bytes[8..]);
        let ip = match word(4) {
            4 => Some(IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3]))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(address))),
            _ => None,
        };
        (len, word(4), ip.map(|ip| SocketAddr::new(ip, word(6))))
    }
}
