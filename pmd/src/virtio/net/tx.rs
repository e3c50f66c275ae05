//! Transmitting: frames out, mbufs home.

use std::sync::Arc;

use crate::mem::{Iova, Mbuf, Region, RegionError};
use crate::port::{Burst, QueueCounters, QueueFault};
use crate::virtio::spec::net::HEADER_BYTES;
use crate::virtio::split::driver::{DriverQueue, Piece};

/// The transmit side of a queue pair.
pub(super) struct Transmitter {
    queue: DriverQueue,
    /// A zero header that frames share whose own headroom may not be written; never changed.
    header: Iova,
    pub counters: QueueCounters,
}

impl Transmitter {
    /// Bytes of a [`Region`] that the shared header takes, alignment included.
    pub(super) const REGION_BYTES: usize = 2 * 64;

    pub(super) fn new(queue: DriverQueue, region: &Arc<Region>) -> Result<Self, RegionError> {
        Ok(Self { queue, header: region.carve(HEADER_BYTES, 64)?.iova, counters: QueueCounters::default() })
    }

    pub(super) fn fault(&self) -> Option<QueueFault> {
        self.queue.fault()
    }

    pub(super) fn abandon(&mut self) {
        self.queue.abandon();
    }

    /// How many single-segment frames fit now.
    pub(super) fn room(&mut self) -> usize {
        self.reclaim();
        if self.fault().is_some() { 0 } else { usize::from(self.queue.free()) }
    }

    /// Frees the mbufs that the device has sent. The length it states means nothing for a buffer that it read
    /// (drivers that checked it had to stop) and is ignored.
    #[inline]
    pub(super) fn reclaim(&mut self) {
        // An error has stopped the queue; `fault` tells.
        let Ok(ready) = self.queue.ready() else { return };
        for _ in 0..ready {
            if self.queue.complete().is_err() {
                return;
            }
        }
    }

    /// Sends from the front of `burst` until the queue is full.
    #[inline]
    pub(super) fn transmit(&mut self, burst: &mut Burst) -> usize {
        let size = usize::from(self.queue.size());
        if usize::from(self.queue.free()) < size / 2 + burst.len() {
            self.reclaim();
        }
        if self.queue.fault().is_some() {
            return 0;
        }
        let mut room = usize::from(self.queue.free());
        let sendable = burst
            .iter()
            .take_while(|frame| match room.checked_sub(descriptors(frame).min(size)) {
                Some(left) => {
                    room = left;
                    true
                }
                None => false,
            })
            .count();
        for frame in burst.drain(..sendable) {
            self.post(frame);
        }
        self.counters.notifications += u64::from(self.queue.publish());
        sendable
    }

    #[inline]
    fn post(&mut self, mut frame: Mbuf) {
        let bytes = frame.len();
        if descriptors(&frame) > 1 || bytes == 0 {
            return self.post_pieces(frame);
        }
        // One descriptor: the header goes into the headroom. All zero: no offload is asked for, and num_buffers is
        // 0 on transmit (virtio 1.2 §5.1.6.2.1).
        let Ok(header) = frame.prepend(HEADER_BYTES) else { return self.post_pieces(frame) };
        header.fill(0);
        let piece = Piece::of(&frame);
        self.queue.post(frame, piece, false);
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += bytes as u64;
    }

    /// A chain, or a frame whose headroom is not ours to write: the header in a descriptor of its own.
    #[cold]
    fn post_pieces(&mut self, frame: Mbuf) {
        let bytes = frame.pkt_len();
        if bytes == 0 || descriptors(&frame) > usize::from(self.queue.size()) {
            self.counters.tx_errors += 1;
            return;
        }
        #[allow(clippy::cast_possible_truncation)] // 12
        let header = Piece { address: self.header.0, len: HEADER_BYTES as u32 };
        self.queue.post_chain(frame, header);
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += bytes as u64;
    }
}

/// Descriptors that the frame takes.
#[inline]
fn descriptors(frame: &Mbuf) -> usize {
    if frame.next().is_none() && frame.headroom() >= HEADER_BYTES && !frame.is_shared() {
        1
    } else {
        1 + frame.segments().filter(|segment| !segment.is_empty()).count()
    }
}
