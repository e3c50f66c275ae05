//! Receiving: buffers out, frames in.
//!
//! A receive buffer starts on a cache line with the 12-byte header, so that header and Ethernet addresses
//! share a line: an application that rewrites addresses takes one line from the device's core, not two.

use crate::mem::{HomePool, Mbuf};
use crate::port::{Burst, QueueCounters, QueueFault};
use crate::virtio::ring::{DriverRing, Piece};
use crate::virtio::spec::net::HEADER_BYTES;

/// Bytes in front of a frame.
#[allow(clippy::cast_possible_truncation)] // 12
const HEADER: u32 = HEADER_BYTES as u32;

/// How many frames ahead of the one in hand are fetched into the cache.
const PREFETCH_AHEAD: u16 = 4;

/// The receive side of a queue pair.
pub(super) struct Receiver<R> {
    queue: R,
    /// A frame may span several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    mergeable: bool,
    pub counters: QueueCounters,
}

impl<R: DriverRing> Receiver<R> {
    pub(super) fn new(queue: R, mergeable: bool) -> Self {
        Self { queue, mergeable, counters: QueueCounters::default() }
    }

    pub(super) fn fault(&self) -> Option<QueueFault> {
        self.queue.fault()
    }

    pub(super) fn abandon(&mut self) {
        self.queue.abandon();
    }

    /// Appends received frames to `burst`: at most `budget`, at most what it has room for.
    pub(super) fn receive(&mut self, burst: &mut Burst, budget: usize) -> usize {
        let budget = budget.min(burst.remaining_capacity());
        let before = burst.len();
        // A fault stops the queue; what came before the lie is good.
        match self.queue.ready(budget) {
            Ok(0) | Err(_) => return 0,
            Ok(ready) if self.mergeable => self.receive_merged(burst, budget, ready),
            Ok(ready) => self.receive_single(burst, budget, ready),
        }
        let received = burst.len() - before;
        self.counters.rx_packets += received as u64;
        received
    }

    /// One buffer a frame: nothing of the header is of use, since no offload was negotiated, and it is not read.
    #[inline]
    fn receive_single(&mut self, burst: &mut Burst, budget: usize, ready: u16) {
        for _ in 0..budget.min(usize::from(ready)) {
            self.prefetch();
            let Some((mut mbuf, len)) = self.queue.complete() else { return };
            if len > HEADER && mbuf.set_written(HEADER, len) {
                self.counters.rx_bytes += mbuf.len() as u64;
                burst.push(mbuf);
            } else if !self.is_only_empty(&mbuf, len) {
                return;
            }
        }
    }

    /// The header of the first buffer says how many buffers the frame spans. virtio 1.2 §5.1.6.4.
    fn receive_merged(&mut self, burst: &mut Burst, budget: usize, ready: u16) {
        let mut left = ready;
        for _ in 0..budget {
            if left == 0 {
                return;
            }
            self.prefetch();
            let Some(num_buffers) = self.peek_num_buffers() else {
                self.queue.complete(); // names the lie
                return;
            };
            if num_buffers == 0 || num_buffers > self.queue.outstanding() {
                self.queue.set_fault(QueueFault::BadNumBuffers { num_buffers, ready });
                return;
            }
            if num_buffers > left {
                return; // a frame whose buffers are not all there yet stays for the next poll
            }
            left -= num_buffers;
            if let Some(frame) = self.complete_merged(num_buffers) {
                self.counters.rx_bytes += frame.pkt_len() as u64;
                burst.push(frame);
            }
        }
    }

    /// Joins the next `num_buffers` used buffers. A piece that makes no sense spoils its frame (`None`); the queue
    /// stays in step, unless the piece is a lie.
    fn complete_merged(&mut self, num_buffers: u16) -> Option<Mbuf> {
        let (mut frame, mut spoilt): (Option<Mbuf>, bool) = (None, false);
        for piece in 0..num_buffers {
            let skip = if piece == 0 { HEADER } else { 0 };
            let (mut mbuf, len) = self.queue.complete()?;
            if len > skip && mbuf.set_written(skip, len) {
                match &mut frame {
                    None => frame = Some(mbuf),
                    Some(head) => head.chain(mbuf),
                }
            } else if self.is_only_empty(&mbuf, len) {
                spoilt = true;
            } else {
                return None;
            }
        }
        frame.filter(|_| !spoilt)
    }

    #[inline]
    fn prefetch(&self) {
        if let Some(mbuf) = self.queue.peek(PREFETCH_AHEAD) {
            mbuf.prefetch_data();
        }
    }

    /// `num_buffers` of the next used buffer's header, read once.
    #[inline]
    fn peek_num_buffers(&self) -> Option<u16> {
        Some(u16::from_le_bytes(self.queue.peek(0)?.read_room(HEADER_BYTES - 2)?))
    }

    /// A buffer with no data in it is an error of the device's, and counted; one with more in it than fits is a lie,
    /// which stops the queue.
    #[cold]
    fn is_only_empty(&mut self, mbuf: &Mbuf, len: u32) -> bool {
        let posted = Piece::room_of(mbuf).len;
        if len > posted {
            self.queue.set_fault(QueueFault::UsedLenTooLong { len, posted });
            return false;
        }
        self.counters.rx_errors += 1;
        true
    }

    /// Posts fresh buffers wherever there is none: on every poll, also an empty one, or the ring starves.
    #[inline]
    pub(super) fn refill(&mut self, pool: &HomePool) {
        let free = usize::from(self.queue.free());
        if free == 0 || self.queue.fault().is_some() {
            return;
        }
        let mut posted = 0;
        for mbuf in pool.alloc_bulk(free) {
            let piece = Piece::room_of(&mbuf);
            self.queue.post(mbuf, piece, true);
            posted += 1;
        }
        self.counters.rx_nombuf += u64::from(posted < free);
        self.counters.notifications += u64::from(self.queue.publish());
    }
}
