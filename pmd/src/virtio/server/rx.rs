//! Taking frames out of the driver's transmit queue.
//!
//! In two passes over a burst: read the chains and fetch their buffers towards the cache, then copy. The first
//! access to a buffer is a miss on the driver's core's cache; the passes let a burst of them overlap.

use super::MAX_FRAME_BYTES;
use super::served::{Served, with_ring};
use crate::mem::{HomePool, Mbuf, Offload, prefetch};
use crate::port::{Burst, Offloads, QueueCounters, QueueFault};
use crate::virtio::BURST_BYTES;
use crate::virtio::attach::Follower;
use crate::virtio::header::{self, HeaderBytes, PLAIN};
use crate::virtio::ring::{Buffer, Chain, DeviceRing};
use crate::virtio::spec::net::HEADER_BYTES;

/// The receive side of a device's queue pair.
pub(super) struct Intake {
    pub served: Served,
    pub counters: QueueCounters,
}

/// What became of a chain.
enum Taken {
    Frame(Mbuf),
    /// Not a frame: shorter than a header, empty, or too long. It is given back all the same.
    Nonsense,
    /// No mbuf for it; it stays in the queue.
    NoMbuf,
}

impl Intake {
    pub(super) fn new(follower: Follower) -> Self {
        Self { served: Served::new(follower), counters: QueueCounters::default() }
    }

    /// Appends frames of the driver to `burst`: at most `budget`, at most what it has room for.
    pub(super) fn receive(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let counters = &mut self.counters;
        let Some((queue, _, offloads)) = self.served.attend_knowing() else { return 0 };
        if offloads.rx_checksum {
            with_ring!(queue, ring => receive::<_, true>(ring, offloads, counters, pool, burst, budget))
        } else {
            with_ring!(queue, ring => receive::<_, false>(ring, offloads, counters, pool, burst, budget))
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Where no offload was negotiated (`READ` is false) a header is not read.
fn receive<R: DeviceRing, const READ: bool>(
    ring: &mut R,
    offloads: Offloads,
    counters: &mut QueueCounters,
    pool: &HomePool,
    burst: &mut Burst,
    budget: usize,
) -> usize {
    // An error has stopped the queue; `fault` tells.
    let Ok(chains) = ring.fetch(budget.min(burst.remaining_capacity()), false) else { return 0 };
    if chains.is_empty() {
        return 0;
    }
    for Buffer { ptr, len } in chains.iter().filter_map(Chain::single) {
        // A small TCP segment ends in the third line; the first two were asked for.
        if ptr as usize % LINE + len as usize > 2 * LINE {
            prefetch(ptr.wrapping_add(2 * LINE));
        }
    }
    let mut mbufs = pool.alloc_bulk(chains.len());
    let (before, mut bytes) = (burst.len(), 0);
    for chain in chains {
        if READ && bytes >= BURST_BYTES {
            break;
        }
        let mut header = PLAIN;
        let taken = match (mbufs.next(), chain.single()) {
            (None, _) => Ok(Taken::NoMbuf),
            (Some(mbuf), Some(buffer)) => match take_single::<READ>(mbuf, buffer, &mut header) {
                Ok(frame) => Ok(Taken::Frame(frame)),
                // Too long for one mbuf, or not a frame: the general way decides.
                Err(mbuf) => take_pieces(ring, chain, mbuf, pool, &mut header),
            },
            (Some(mbuf), None) => take_pieces(ring, chain, mbuf, pool, &mut header),
        };
        match taken {
            Ok(Taken::Frame(mut frame)) => {
                let length = frame.pkt_len();
                match if READ { header::read(&header, length, offloads) } else { Ok(Offload::NONE) } {
                    Ok(offload) => {
                        if READ {
                            frame.set_offload(offload);
                        }
                        bytes += length;
                        burst.push(frame);
                    }
                    Err(_) => counters.rx_errors += 1,
                }
            }
            Ok(Taken::Nonsense) => counters.rx_errors += 1,
            Ok(Taken::NoMbuf) => {
                counters.rx_nombuf += 1;
                break;
            }
            Err(_) => break, // the queue has stopped
        }
        ring.give_back_read(chain);
    }
    counters.notifications += u64::from(ring.publish());
    let frames = burst.len() - before;
    counters.rx_packets += frames as u64;
    counters.rx_bytes += bytes as u64;
    frames
}

/// The usual frame: one buffer, header and data, that fits in one mbuf. Gives the mbuf back if it is not that.
#[inline]
fn take_single<const READ: bool>(
    mut mbuf: Mbuf,
    Buffer { ptr, len }: Buffer,
    header: &mut HeaderBytes,
) -> Result<Mbuf, Mbuf> {
    let Some(bytes @ 1..) = (len as usize).checked_sub(HEADER_BYTES) else { return Err(mbuf) };
    if READ {
        // SAFETY: the buffer is longer than a header, and else as below. A volatile copy: what is looked at is what was
        // read, once.
        *header = unsafe { ptr.cast::<HeaderBytes>().read_volatile() };
    }
    // SAFETY: the buffer was translated with its length and its memory is held by the queue; the driver may write
    // it meanwhile, which only spoils its own frame.
    match unsafe { mbuf.append_from(ptr.add(HEADER_BYTES), bytes) } {
        Ok(()) => Ok(mbuf),
        Err(_) => Err(mbuf),
    }
}

/// Any frame: pieces of any length, the header wherever it falls, as many mbufs as it takes.
#[cold]
fn take_pieces(
    ring: &mut impl DeviceRing,
    chain: Chain,
    first: Mbuf,
    pool: &HomePool,
    header: &mut HeaderBytes,
) -> Result<Taken, QueueFault> {
    let pieces = ring.walk(chain, 0, false)?;
    // First its length, so that no mbufs are spent on what is not a frame.
    let total: usize = pieces.iter().map(|piece| piece.len as usize).sum();
    if !(HEADER_BYTES + 1..=HEADER_BYTES + MAX_FRAME_BYTES).contains(&total) {
        return Ok(Taken::Nonsense);
    }
    let frame_bytes = total - HEADER_BYTES;
    // One mbuf for all of it, if there are long ones.
    let long = if frame_bytes > first.tailroom() { pool.alloc_for(frame_bytes) } else { None };
    let (mut full, mut current): (Option<Mbuf>, Mbuf) = (None, long.unwrap_or(first));
    let mut rest: &mut [u8] = header;
    for &Buffer { mut ptr, len } in pieces {
        let mut left = len as usize;
        let here = rest.len().min(left);
        let (front, behind) = std::mem::take(&mut rest).split_at_mut(here);
        // SAFETY: as in `take_single`; `here` is at most the buffer, and what it is copied to is ours alone.
        unsafe { front.as_mut_ptr().copy_from_nonoverlapping(ptr, here) };
        (rest, left, ptr) = (behind, left - here, ptr.wrapping_add(here));
        while left > 0 {
            if current.tailroom() == 0 {
                let Some(next) = pool.alloc() else { return Ok(Taken::NoMbuf) };
                let done = std::mem::replace(&mut current, next);
                match &mut full {
                    None => full = Some(done),
                    Some(head) => head.chain(done),
                }
            }
            let bytes = left.min(current.tailroom());
            // SAFETY: as in `take_single`; `bytes` is at most what is left of the buffer.
            let appended = unsafe { current.append_from(ptr, bytes) };
            debug_assert!(appended.is_ok(), "a fresh mbuf has the tailroom it says");
            (left, ptr) = (left - bytes, ptr.wrapping_add(bytes));
        }
    }
    Ok(Taken::Frame(match full {
        None => current,
        Some(mut head) => {
            head.chain(current);
            head
        }
    }))
}
