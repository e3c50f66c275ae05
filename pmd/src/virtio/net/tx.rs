//! Transmitting: frames out, mbufs home.

use std::sync::Arc;

use crate::mem::{Freeing, Iova, Mbuf, Region, RegionError};
use crate::port::{Burst, Offloads, QueueCounters, QueueFault};
use crate::virtio::header;
use crate::virtio::ring::{DriverRing, Piece, Tables};
use crate::virtio::spec::net::HEADER_BYTES;

/// Bytes of a [`Region`] that a transmitter's shared header and indirect tables take, alignment included.
pub(super) const REGION_BYTES: usize = 2 * 64 + Tables::REGION_BYTES;

/// The transmit side of a queue pair.
pub(super) struct Transmitter<R> {
    queue: R,
    /// A zero header that frames share whose own headroom may not be written; never changed.
    header: Iova,
    /// What the device does with a frame whose header asks for it.
    offloads: Offloads,
    /// The last frame that was not complete is to be segmented.
    long: bool,
    pub counters: QueueCounters,
}

impl<R: DriverRing> Transmitter<R> {
    /// Lends the queue indirect tables.
    pub(super) fn with_tables(mut self, region: &Region, packed: bool) -> Result<Self, RegionError> {
        self.queue.lend(Tables::new(region, self.queue.size(), packed)?);
        Ok(self)
    }

    pub(super) fn new(queue: R, region: &Arc<Region>, offloads: Offloads) -> Result<Self, RegionError> {
        let header = region.carve(HEADER_BYTES, 64)?.iova;
        Ok(Self { queue, header, offloads, long: false, counters: QueueCounters::default() })
    }

    /// What the device does with frames that are sent.
    pub(super) fn offloads(&self) -> Offloads {
        self.offloads
    }

    pub(super) fn fault(&self) -> Option<QueueFault> {
        self.queue.fault()
    }

    pub(super) fn abandon(&mut self) {
        self.queue.abandon();
    }

    /// How many single-segment frames fit now.
    pub(super) fn room(&mut self) -> usize {
        self.reclaim_for(0);
        if self.fault().is_some() { 0 } else { usize::from(self.queue.free()) }
    }

    /// How many descriptors the device has not given back.
    pub(super) fn waiting(&mut self) -> usize {
        self.reclaim();
        usize::from(self.queue.size() - self.queue.free())
    }

    /// Frees the mbufs that the device has sent. The length it states means nothing for a buffer that it read
    /// (drivers that checked it had to stop) and is ignored.
    #[inline]
    pub(super) fn reclaim(&mut self) {
        let mut freeing = Freeing::default();
        self.take_sent(usize::MAX, |mbuf| freeing.add(mbuf));
    }

    /// Gives `each` at most `most` of the mbufs that the device has sent.
    #[inline]
    pub(super) fn take_sent(&mut self, most: usize, mut each: impl FnMut(Mbuf)) {
        // A lie stops the queue; `fault` tells.
        self.queue.take_each::<false>(most, |mbuf, _| {
            each(mbuf);
            true
        });
    }

    /// How many frames are with the device.
    #[inline]
    pub(super) fn outstanding(&self) -> usize {
        self.queue.outstanding().into()
    }

    /// The same where it matters: if `count` frames would leave less than half of the queue free, or if frames are long,
    /// whose mbufs are few and best used again while they are near. Who has plenty does not wait for the device's cache.
    #[inline]
    fn reclaim_for(&mut self, count: usize) {
        if self.long || usize::from(self.queue.free()) < usize::from(self.queue.size()) / 2 + count {
            self.reclaim();
        }
    }

    /// Sends from the front of `burst` until the queue is full.
    #[inline]
    pub(super) fn transmit(&mut self, burst: &mut Burst) -> usize {
        let count = burst.len();
        self.reclaim_for(count);
        if self.queue.fault().is_some() {
            return 0;
        }
        let mut frames = std::mem::take(burst).into_iter();
        for frame in frames.by_ref() {
            if let Err(frame) = self.post(frame) {
                burst.push(frame);
                break;
            }
        }
        burst.extend(frames);
        self.counters.notifications += u64::from(self.queue.publish());
        count - burst.len()
    }

    /// Posts one frame, or gives it back if there is no room for it now.
    #[inline]
    fn post(&mut self, mut frame: Mbuf) -> Result<(), Mbuf> {
        let bytes = frame.len();
        if !header::prepare(&mut frame, self.offloads) {
            self.counters.tx_errors += 1;
            return Ok(());
        }
        if frame.next().is_some() || bytes == 0 || self.queue.free() == 0 {
            return self.post_pieces(frame);
        }
        // One descriptor: the header goes into the headroom; num_buffers is 0 on transmit (virtio 1.2 §5.1.6.2.1).
        let offload = frame.offload();
        let Ok(header) = frame.prepend(HEADER_BYTES) else { return self.post_pieces(frame) };
        if offload.is_complete() {
            header.copy_from_slice(&header::PLAIN);
        } else {
            self.long = offload.segmentation().is_some();
            header.copy_from_slice(&header::write(offload, false));
        }
        let piece = Piece::of(&frame);
        self.queue.post(frame, piece, false);
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += bytes as u64;
        Ok(())
    }

    /// A chain, or a frame whose headroom is not ours to write: the header in a descriptor of its own.
    #[cold]
    fn post_pieces(&mut self, mut frame: Mbuf) -> Result<(), Mbuf> {
        let bytes = frame.pkt_len();
        let descriptors = 1 + frame.segments().filter(|segment| !segment.is_empty()).count();
        if bytes == 0 || descriptors > usize::from(self.queue.size()) {
            self.counters.tx_errors += 1;
            return Ok(());
        }
        if self.queue.needs(descriptors) > usize::from(self.queue.free()) {
            return Err(frame);
        }
        let offload = frame.offload();
        let address = if offload.is_complete() {
            self.header.0
        } else if frame.prepend(HEADER_BYTES).is_ok_and(|header| {
            header.copy_from_slice(&header::write(offload, false));
            true
        }) {
            // It stays in the headroom, which is the frame's as long as its data is.
            let address = frame.iova().0;
            let restored = frame.adj(HEADER_BYTES);
            debug_assert!(restored.is_ok(), "it was put there just now");
            address
        } else {
            self.counters.tx_errors += 1;
            return Ok(());
        };
        #[allow(clippy::cast_possible_truncation)] // 12
        let header = Piece { address, len: HEADER_BYTES as u32 };
        self.queue.post_chain(frame, header);
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += bytes as u64;
        Ok(())
    }
}
