//! A virtqueue as its driver sees it, of either format.

use std::sync::Arc;

use super::{QueueMemory, Tables};
use crate::mem::{Mbuf, Region};
use crate::port::QueueFault;
use crate::virtio::transport::Notifier;

/// The pieces of a chain: `first`, then each segment that holds data.
pub(crate) fn pieces(first: Piece, mbuf: &Mbuf) -> impl Iterator<Item = Piece> + '_ {
    std::iter::once(first).chain(mbuf.segments().filter(|segment| !segment.is_empty()).map(Piece::of))
}

/// How many used buffers ahead of the one in hand are fetched into the cache.
pub(crate) const FETCH_AHEAD: u16 = 4;

/// A piece of memory to put into one descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub address: u64,
    pub len: u32,
}

impl Piece {
    /// The data of one segment.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // a room is at most 68 KiB
    pub(crate) fn of(segment: &Mbuf) -> Self {
        Self { address: segment.iova().0, len: segment.len() as u32 }
    }

    /// All of the room of one segment behind its headroom: what a device may write to.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // a room is at most 68 KiB
    pub(crate) fn room_of(segment: &Mbuf) -> Self {
        Self { address: segment.iova().0, len: (segment.room_bytes() - segment.headroom()) as u32 }
    }
}

/// One virtqueue, driver side: mbufs move in when they are posted, out when the device used them.
///
/// ```text
///   post, post_chain ─► publish ─► (the device) ─► has_next, ready ─► peek, complete
/// ```
///
/// No call blocks or allocates; each is bounded by the queue's size. The device is believed nothing: a lie stops the
/// queue with a named [`QueueFault`], and only a new queue goes on.
pub(crate) trait DriverRing: Send + Sized + 'static {
    /// A queue over fresh memory, as the negotiated `features` want it, to be finished before the device is told of
    /// it. It asks for no used buffer notifications: we poll.
    fn new(memory: &QueueMemory, region: &Arc<Region>, features: u64) -> Self;

    /// How to tell the device of new buffers, once it knows the queue.
    fn set_notifier(&mut self, notifier: Notifier);

    /// Descriptors of the queue.
    fn size(&self) -> u16;

    /// Descriptors that may be posted.
    fn free(&self) -> u16;

    /// Buffers (chains) that are with the device, published or not.
    fn outstanding(&self) -> u16;

    /// Why the queue stopped, if it did.
    fn fault(&self) -> Option<QueueFault>;

    /// Stops the queue for good; the first fault stays.
    fn set_fault(&mut self, fault: QueueFault) -> QueueFault;

    /// Moves `mbuf` to the device as one buffer at `piece`: to be read, or, if `writable`, to be written, and then it
    /// is [`Piece::room_of`] an empty `mbuf`. The caller made sure that a descriptor is free.
    fn post(&mut self, mbuf: Mbuf, piece: Piece, writable: bool);

    /// Indirect tables to put long chains into, where `INDIRECT_DESC` was negotiated.
    fn lend(&mut self, tables: Tables);

    /// How many free descriptors a chain of `descriptors` takes now: one, if it goes into an indirect table.
    fn needs(&self, descriptors: usize) -> usize;

    /// Moves `mbuf` to the device as a chain to be read: `first`, then each of its segments that holds data. The
    /// caller made sure that there is one, and that as many descriptors are free as it [needs](Self::needs).
    fn post_chain(&mut self, mbuf: Mbuf, first: Piece);

    /// Shows the device what was posted since the last call, and notifies it if it asks for that. Returns
    /// whether it did. One fence and at most one notification, however many buffers.
    fn publish(&mut self) -> bool;

    /// Whether the device has used a buffer that we have not taken back. `false` also when it lies, which
    /// [`fault`](Self::fault) tells.
    fn has_next(&mut self) -> bool;

    /// How many such buffers there are: all of them, or at least `most`.
    ///
    /// # Errors
    /// The [`QueueFault`] that has stopped the queue, now or before.
    fn ready(&mut self, most: usize) -> Result<u16, QueueFault>;

    /// The mbuf of the next used buffer, which is there, to be looked at; `None` if its element is a lie (which
    /// [`complete`](Self::complete) will name).
    fn peek(&self) -> Option<&Mbuf>;

    /// Takes back the mbuf of the next used buffer, with the length the device states: all of it, for one that another's
    /// used element speaks for (`IN_ORDER`, virtio 1.2 §2.7.9, §2.8.9). The caller knows from
    /// [`has_next`](Self::has_next) or [`ready`](Self::ready) that there is one. `None` when the device named no buffer that it holds: the
    /// queue has stopped, and [`fault`](Self::fault) says with which lie.
    fn complete(&mut self) -> Option<(Mbuf, u32)>;

    /// Fetches the data of the buffer into the cache that comes back [`FETCH_AHEAD`] behind the next one if the device
    /// works in order. Reads nothing that the device writes, whose cache lines are better left alone until they are
    /// full.
    fn fetch(&self);

    /// Takes back used buffers, at most `most`, and gives each to `each` with its length, until that says `false` or
    /// there are no more. With `FETCH` the data of those that follow is fetched into the cache.
    fn take_each<const FETCH: bool>(&mut self, most: usize, each: impl FnMut(Mbuf, u32) -> bool);

    /// Moves each of `mbufs`, all empty, to the device to be written ([`Piece::room_of`]), and returns how many there
    /// were. The caller made sure that as many descriptors are free.
    fn post_rooms(&mut self, mbufs: impl Iterator<Item = Mbuf>) -> u16;

    /// Asks the device for a notification of the next buffer it uses, then looks again: `false` when there is one
    /// already, and nobody may go to sleep.
    fn arm(&mut self) -> bool;

    /// Asks for no notifications any more: we poll. One may come all the same.
    fn disarm(&mut self);

    /// Gives up every mbuf that is with a device which cannot be stopped: neither they nor the region are ever
    /// used again.
    fn abandon(&mut self);
}
