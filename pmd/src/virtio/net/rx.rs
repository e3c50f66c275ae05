//! Receiving: buffers out, frames in.
//!
//! A receive buffer starts on a cache line with the 12-byte header, so that header and Ethernet addresses
//! share a line: an application that rewrites addresses takes one line from the device's core, not two.

use arrayvec::ArrayVec;

use super::tx::Transmitter;
use crate::mem::{HomePool, Mbuf};
use crate::port::{Arm, Burst, Offloads, QueueCounters, QueueFault};
use crate::virtio::BURST_BYTES;
use crate::virtio::header::{self, HeaderBytes};
use crate::virtio::ring::{DriverRing, Piece};
use crate::virtio::spec::net::HEADER_BYTES;

/// Bytes in front of a frame.
#[allow(clippy::cast_possible_truncation)] // 12
const HEADER: u32 = HEADER_BYTES as u32;

/// The most buffers a frame spans that are joined without a walk for each: 64 KiB in buffers of 1 KiB.
const MAX_PIECES: usize = 65;

/// How many places of the ring at most wait for what is being sent: a burst that the device is sending, and one that it
/// has not seen yet.
const ABOUT_TO_COME_BACK: usize = 2 * 32;

/// The receive side of a queue pair.
pub(super) struct Receiver<R> {
    queue: R,
    /// A frame may span several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    mergeable: bool,
    /// What the header may say of a frame.
    offloads: Offloads,
    pub counters: QueueCounters,
}

impl<R: DriverRing> Receiver<R> {
    pub(super) fn new(queue: R, mergeable: bool, offloads: Offloads) -> Self {
        Self { queue, mergeable, offloads, counters: QueueCounters::default() }
    }

    pub(super) fn fault(&self) -> Option<QueueFault> {
        self.queue.fault()
    }

    pub(super) fn abandon(&mut self) {
        self.queue.abandon();
    }

    /// Asks for a notification of the next frame, and looks whether it is there. With no buffer posted none can come
    /// before there are mbufs again, of which nobody tells.
    pub(super) fn arm(&mut self) -> Arm {
        if self.queue.fault().is_some() {
            return Arm::Armed;
        }
        if self.queue.arm() && self.queue.outstanding() > 0 { Arm::Armed } else { Arm::Ready }
    }

    pub(super) fn disarm(&mut self) {
        self.queue.disarm();
    }

    /// Appends received frames to `burst`: at most `budget`, at most what it has room for.
    pub(super) fn receive(&mut self, burst: &mut Burst, budget: usize) -> usize {
        let budget = budget.min(burst.remaining_capacity());
        let before = burst.len();
        // A fault stops the queue; what came before the lie is good.
        if self.mergeable {
            self.receive_merged(burst, budget);
        } else if self.offloads.rx_checksum {
            self.receive_single::<true>(burst, budget);
        } else {
            self.receive_single::<false>(burst, budget);
        }
        let received = burst.len() - before;
        self.counters.rx_packets += received as u64;
        received
    }

    /// One buffer a frame. Where no offload was negotiated (`READ` is false) nothing of the header is of use, and it is
    /// not read.
    #[inline]
    fn receive_single<const READ: bool>(&mut self, burst: &mut Burst, budget: usize) {
        let Self { queue, counters, offloads, .. } = self;
        let mut odd = None;
        queue.take_each::<true>(budget, |mut mbuf, len| {
            let header = if READ { mbuf.read_room(0) } else { None };
            if len <= HEADER || !mbuf.set_written(HEADER, len) {
                return match is_only_empty(&mbuf, len) {
                    Ok(()) => {
                        counters.rx_errors += 1;
                        true
                    }
                    Err(lie) => {
                        odd = Some(lie);
                        false
                    }
                };
            }
            if READ && !mark(counters, *offloads, &mut mbuf, header) {
                return true;
            }
            counters.rx_bytes += mbuf.len() as u64;
            burst.push(mbuf);
            true
        });
        if let Some(lie) = odd {
            self.queue.set_fault(lie);
        }
    }

    /// The header of the first buffer says how many buffers the frame spans. virtio 1.2 §5.1.6.4.
    fn receive_merged(&mut self, burst: &mut Burst, budget: usize) {
        // All of them: any number may belong to one frame.
        let Ok(ready) = self.queue.ready(usize::MAX) else { return };
        let (mut left, mut bytes) = (ready, 0);
        for _ in 0..budget {
            if left == 0 || bytes >= BURST_BYTES {
                return;
            }
            self.queue.fetch();
            let Some(header) = self.peek_header() else {
                self.queue.complete(); // names the lie
                return;
            };
            let num_buffers = u16::from_le_bytes([header[HEADER_BYTES - 2], header[HEADER_BYTES - 1]]);
            if num_buffers == 0 || num_buffers > self.queue.outstanding() {
                self.queue.set_fault(QueueFault::BadNumBuffers { num_buffers, ready });
                return;
            }
            if num_buffers > left {
                return; // a frame whose buffers are not all there yet stays for the next poll
            }
            left -= num_buffers;
            if let Some(mut frame) = self.complete_merged(num_buffers) {
                if self.offloads.rx_checksum
                    && !mark(&mut self.counters, self.offloads, &mut frame, Some(header))
                {
                    continue;
                }
                let length = frame.pkt_len();
                bytes += length;
                self.counters.rx_bytes += length as u64;
                burst.push(frame);
            }
        }
    }

    /// Joins the next `num_buffers` used buffers. A piece that makes no sense spoils its frame (`None`); the queue
    /// stays in step, unless the piece is a lie.
    fn complete_merged(&mut self, num_buffers: u16) -> Option<Mbuf> {
        let (mut pieces, mut spoilt): (ArrayVec<Mbuf, MAX_PIECES>, bool) = (ArrayVec::new(), false);
        for piece in 0..num_buffers {
            let skip = if piece == 0 { HEADER } else { 0 };
            let (mut mbuf, len) = self.queue.complete()?;
            if len > skip && mbuf.set_written(skip, len) {
                if let Err(more) = pieces.try_push(mbuf)
                    && let Some(last) = pieces.last_mut()
                {
                    last.chain(more.element());
                }
            } else if let Err(lie) = is_only_empty(&mbuf, len) {
                self.queue.set_fault(lie);
                return None;
            } else {
                self.counters.rx_errors += 1;
                spoilt = true;
            }
        }
        // From the back, so that no piece is walked to.
        let mut frame = pieces.pop()?;
        while let Some(mut piece) = pieces.pop() {
            piece.chain(frame);
            frame = piece;
        }
        (!spoilt).then_some(frame)
    }

    /// The next used buffer's header, read once.
    #[inline]
    fn peek_header(&self) -> Option<HeaderBytes> {
        self.queue.peek()?.read_room(0)
    }

    /// Posts buffers wherever there is none: on every poll, also an empty one, or the ring starves. First those mbufs that
    /// `sent` has done with, which then come round without the pool's having a part in it, and where a program sends back
    /// what it receives come to the same places again; then fresh ones, but for the few that are about to come back: a
    /// ring with many places left empty would lose what the device receives in a burst.
    #[inline]
    pub(super) fn refill(&mut self, pool: &HomePool, sent: &mut Transmitter<R>) {
        let queue = &mut self.queue;
        if queue.free() == 0 || queue.fault().is_some() {
            return;
        }
        sent.take_sent(queue.free().into(), |mbuf| {
            if let Some(mbuf) = pool.renew(mbuf) {
                let room = Piece::room_of(&mbuf);
                queue.post(mbuf, room, true);
            }
        });
        let lean = sent.outstanding().min(ABOUT_TO_COME_BACK).min(usize::from(queue.size()) / 2);
        let missing = usize::from(queue.free()).saturating_sub(lean);
        if missing > 0 {
            let posted = usize::from(queue.post_rooms(pool.alloc_bulk(missing)));
            self.counters.rx_nombuf += u64::from(posted < missing);
        }
        self.counters.notifications += u64::from(queue.publish());
    }
}

/// Notes what the header says of a frame; a frame whose header lies is dropped (`false`) and counted.
#[inline]
fn mark(
    counters: &mut QueueCounters,
    offloads: Offloads,
    frame: &mut Mbuf,
    header: Option<HeaderBytes>,
) -> bool {
    match header.map(|header| header::read(&header, frame.pkt_len(), offloads)) {
        Some(Ok(offload)) => {
            frame.set_offload(offload);
            true
        }
        _ => {
            counters.rx_errors += 1;
            false
        }
    }
}

/// A buffer with no data in it is an error of the device's, to be counted; one with more in it than fits is a lie,
/// which stops the queue.
#[cold]
fn is_only_empty(mbuf: &Mbuf, len: u32) -> Result<(), QueueFault> {
    let posted = Piece::room_of(mbuf).len;
    if len > posted { Err(QueueFault::UsedLenTooLong { len, posted }) } else { Ok(()) }
}
