//! What one does with an mbuf: the field's push, put, pull and trim, chains and clones. Safe code only.

use std::fmt;

use thiserror::Error;

use super::element::Mbuf;
use super::pool::HomePool;

/// A change of an mbuf that did not fit; the mbuf is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoRoom {
    /// The headroom, tailroom or data is shorter than asked for.
    #[error("{asked} bytes asked for, room for {room}")]
    Short {
        /// Bytes asked for.
        asked: usize,
        /// Bytes there are.
        room: usize,
    },
    /// A clone shares the bytes, so they may not be written.
    #[error("the bytes are shared with a clone; copy the mbuf first")]
    Shared,
    /// The pool had no mbuf left for the result.
    #[error("the pool is empty")]
    Empty,
}

impl Mbuf {
    /// Bytes of the whole frame, all segments together.
    #[inline]
    #[must_use]
    pub fn pkt_len(&self) -> usize {
        match self.next() {
            None => self.len(),
            Some(_) => self.segments().map(Mbuf::len).sum(),
        }
    }

    /// Free bytes behind the data of this segment.
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.room_bytes() - self.headroom() - self.len()
    }

    /// Cuts `count` bytes off the front of this segment (`skb_pull`).
    ///
    /// # Errors
    /// [`NoRoom::Short`] when the segment holds fewer.
    #[inline]
    pub fn adj(&mut self, count: usize) -> Result<(), NoRoom> {
        let room = self.len();
        let left = room.checked_sub(count).ok_or(NoRoom::Short { asked: count, room })?;
        self.set_bounds(self.headroom() + count, left);
        Ok(())
    }

    /// Cuts `count` bytes off the end of this segment (`skb_trim` by a difference).
    ///
    /// # Errors
    /// [`NoRoom::Short`] when the segment holds fewer.
    #[inline]
    pub fn trim(&mut self, count: usize) -> Result<(), NoRoom> {
        let room = self.len();
        let left = room.checked_sub(count).ok_or(NoRoom::Short { asked: count, room })?;
        self.set_bounds(self.headroom(), left);
        Ok(())
    }

    /// Appends the segments of `tail` to this frame. Walks this frame's segments.
    pub fn chain(&mut self, tail: Mbuf) {
        let mut end = self.next_mut();
        while let Some(segment) = end {
            end = segment.next_mut();
        }
        *end = Some(tail);
    }

    /// Cuts the frame behind this segment and returns the rest.
    pub fn unchain(&mut self) -> Option<Mbuf> {
        self.next_mut().take()
    }

    /// The segments in order, this one first.
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self) }
    }

    /// Another handle to the same bytes, segment by segment, nothing copied. Neither can be written while
    /// both exist.
    ///
    /// # Errors
    /// [`NoRoom::Empty`] when the pool runs out: one element per segment is needed.
    pub fn clone_ref(&self, pool: &HomePool) -> Result<Mbuf, NoRoom> {
        let mut clone: Option<Mbuf> = None;
        for segment in self.segments() {
            let mut part = pool.alloc().ok_or(NoRoom::Empty)?;
            segment.share_with(&mut part);
            part.set_rx_ticks(segment.rx_ticks());
            match &mut clone {
                None => clone = Some(part),
                Some(head) => head.chain(part),
            }
        }
        clone.ok_or(NoRoom::Empty)
    }

    /// A copy of the whole frame in one segment of `pool`, or of the one beside it if the frame is long; stamp, hash
    /// and offload included.
    ///
    /// # Errors
    /// [`NoRoom::Empty`] when there is no mbuf that holds it.
    pub fn copy_linear(&self, pool: &HomePool) -> Result<Mbuf, NoRoom> {
        let bytes = self.pkt_len();
        let mut copy = pool.alloc_for(bytes).ok_or(NoRoom::Empty)?;
        let mut to = copy.append(bytes)?;
        for segment in self.segments() {
            let (here, rest) = to.split_at_mut(segment.len());
            here.copy_from_slice(segment.data());
            to = rest;
        }
        copy.set_rx_ticks(self.rx_ticks());
        copy.set_offload(self.offload());
        if let Some(hash) = self.rx_hash() {
            copy.set_rx_hash(hash);
        }
        Ok(copy)
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths: Vec<usize> = self.segments().map(Mbuf::len).collect();
        f.debug_struct("Mbuf").field("segments", &lengths).field("rx_ticks", &self.rx_ticks()).finish()
    }
}

/// The segments of one frame, in order.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    next: Option<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a Mbuf;

    fn next(&mut self) -> Option<&'a Mbuf> {
        let segment = self.next?;
        self.next = segment.next();
        Some(segment)
    }
}

#[cfg(test)]
mod tests;
