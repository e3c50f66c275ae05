//! Putting frames into the driver's receive queue.

use arrayvec::ArrayVec;

use super::served::{Served, with_ring};
use crate::mem::{Mbuf, copy};
use crate::port::{Burst, MAX_BURST, Offloads, QueueCounters, QueueFault};
use crate::virtio::attach::Follower;
use crate::virtio::header::{self, HeaderBytes, PLAIN};
use crate::virtio::ring::{Buffer, Chain, DeviceRing};
use crate::virtio::spec::net::HEADER_BYTES;

/// The most buffers one frame is spread over: 64 KiB in buffers of 1.5 KiB, with some to spare.
const MAX_PIECES: usize = 64;

/// More room than this need not be counted.
const ENOUGH: usize = 4 * MAX_BURST;

/// The transmit side of a device's queue pair.
pub(super) struct Outlet {
    pub served: Served,
    pub counters: QueueCounters,
}

/// Where a frame can go. On the stack of the rare path only.
#[allow(clippy::large_enum_variant)]
enum Place {
    /// These buffers, of these chains (each with the number of its buffers).
    Here(ArrayVec<Buffer, MAX_PIECES>, ArrayVec<(Chain, usize), MAX_PIECES>),
    /// Not enough buffers yet.
    Later,
    /// Nowhere, however many buffers there will be.
    Never,
}

impl Outlet {
    pub(super) fn new(follower: Follower) -> Self {
        Self { served: Served::new(follower), counters: QueueCounters::default() }
    }

    /// How many frames fit if each takes one chain: all, or enough for some bursts.
    pub(super) fn room(&mut self) -> usize {
        let Some(queue) = self.served.attend() else { return 0 };
        with_ring!(queue, ring => ring.ready(ENOUGH).map_or(0, usize::from))
    }

    /// Has the lines fetched that the next frame will need, while what was just received is being worked on: an answer then
    /// waits for none of the driver's cache.
    #[inline]
    pub(super) fn look_ahead(&mut self) {
        if let Some(queue) = self.served.attend() {
            with_ring!(queue, ring => drop(ring.fetch(1, true)));
        }
    }

    /// How many receive buffers of the driver are filled and not posted anew.
    pub(super) fn waiting(&mut self) -> usize {
        let Some(queue) = self.served.attend() else { return 0 };
        with_ring!(queue, ring => {
            let size = ring.size();
            ring.ready(usize::MAX).map_or(0, |ready| size.saturating_sub(ready).into())
        })
    }

    /// Sends from the front of `burst` as long as the driver has buffers.
    pub(super) fn transmit(&mut self, burst: &mut Burst) -> usize {
        let counters = &mut self.counters;
        let Some((queue, mergeable, offloads)) = self.served.attend_knowing() else { return 0 };
        with_ring!(queue, ring => transmit(ring, mergeable, offloads, counters, burst))
    }
}

fn transmit(
    ring: &mut impl DeviceRing,
    mergeable: bool,
    offloads: Offloads,
    counters: &mut QueueCounters,
    burst: &mut Burst,
) -> usize {
    let Ok(chains) = ring.fetch(burst.len(), true) else { return 0 };
    let (mut sent, mut next) = (0, 0);
    let (mut packets, mut sent_bytes) = (0, 0);
    for frame in burst.iter_mut() {
        let bytes = frame.pkt_len();
        if !header::prepare(frame, offloads) {
            counters.tx_errors += 1;
            sent += 1;
            continue;
        }
        let header = header(frame, offloads);
        let used = match chains.get(next) {
            Some(&chain) if chain.single().is_some_and(|buffer| put_single(frame, header, buffer)) => {
                #[allow(clippy::cast_possible_truncation)] // it fitted into a buffer of u32 bytes
                ring.give_back(chain, (HEADER_BYTES + bytes) as u32);
                Ok(Some(1))
            }
            _ => put_pieces(ring, frame, header, mergeable),
        };
        match used {
            Ok(Some(0)) => counters.tx_errors += 1,
            Ok(Some(used)) => {
                next += used;
                packets += 1;
                sent_bytes += bytes as u64;
            }
            Ok(None) | Err(_) => break,
        }
        sent += 1;
    }
    counters.notifications += u64::from(ring.publish());
    counters.tx_packets += packets;
    counters.tx_bytes += sent_bytes;
    burst.drain(..sent);
    sent
}

/// What the driver is told of a frame in one buffer: `num_buffers` is 1 also where buffers are not merged (virtio 1.2
/// §5.1.6.4).
#[inline]
fn header(frame: &Mbuf, offloads: Offloads) -> HeaderBytes {
    let offload = frame.offload();
    let plain = offload.is_complete() && !(offloads.tx_checksum && offload.is_checksum_good());
    let header = if plain { PLAIN } else { header::write(offload, offloads.tx_checksum) };
    spanning(header, 1)
}

/// The same header of a frame in `num_buffers`.
#[inline]
fn spanning(mut header: HeaderBytes, num_buffers: u16) -> HeaderBytes {
    header[HEADER_BYTES - 2..].copy_from_slice(&num_buffers.to_le_bytes());
    header
}

/// The usual frame: one segment into one buffer that holds it. Returns whether it was that.
#[inline]
fn put_single(frame: &Mbuf, header: HeaderBytes, Buffer { ptr, len }: Buffer) -> bool {
    let data = frame.data();
    if frame.next().is_some() || data.is_empty() || (len as usize) < HEADER_BYTES + data.len() {
        return false;
    }
    // SAFETY: the buffer was translated with its length, which holds header and data, and its memory is held by
    // the queue. Nobody in this process borrows it: it is the driver's.
    unsafe {
        ptr.cast::<HeaderBytes>().write_unaligned(header);
        copy(data.as_ptr(), ptr.add(HEADER_BYTES), data.len());
    }
    true
}

/// Any frame: over several buffers of a chain, and over several chains if the driver allows it. Returns how many
/// chains it took: 0 if it was dropped for good, `None` if there are not enough yet.
#[cold]
fn put_pieces(
    ring: &mut impl DeviceRing,
    frame: &Mbuf,
    header: HeaderBytes,
    mergeable: bool,
) -> Result<Option<usize>, QueueFault> {
    let total = HEADER_BYTES + frame.pkt_len();
    let (buffers, chains) = match place(ring, total, mergeable)? {
        Place::Here(buffers, chains) if frame.pkt_len() > 0 => (buffers, chains),
        Place::Later => return Ok(None),
        _ => return Ok(Some(0)),
    };
    #[allow(clippy::cast_possible_truncation)] // at most MAX_PIECES
    let header = spanning(header, chains.len() as u16);
    let mut sources = std::iter::once(&header[..]).chain(frame.segments().map(Mbuf::data));
    let mut source: &[u8] = &[];
    let mut buffers = buffers.into_iter();
    for &(chain, pieces) in &chains {
        let mut written = 0;
        for Buffer { ptr, len } in buffers.by_ref().take(pieces) {
            let (mut at, mut room) = (ptr, len as usize);
            while room > 0 {
                if source.is_empty() {
                    match sources.next() {
                        Some(next) => source = next,
                        None => break,
                    }
                }
                let bytes = room.min(source.len());
                // SAFETY: `bytes` is at most what is left of the buffer; else as in `put_single`.
                unsafe { at.copy_from_nonoverlapping(source.as_ptr(), bytes) };
                (source, at, room) = (&source[bytes..], at.wrapping_add(bytes), room - bytes);
                written += bytes;
            }
        }
        #[allow(clippy::cast_possible_truncation)] // a frame is at most some 100 KiB
        ring.give_back(chain, written as u32);
    }
    Ok(Some(chains.len()))
}

/// Finds buffers for `total` bytes from the next chain on.
fn place(ring: &mut impl DeviceRing, total: usize, mergeable: bool) -> Result<Place, QueueFault> {
    let (mut buffers, mut chains, mut room) = (ArrayVec::new(), ArrayVec::new(), 0);
    let mut ahead = 0;
    while let Some(chain) = ring.chain(ahead, true) {
        let before = buffers.len();
        for &buffer in ring.walk(chain, ahead, true)? {
            // A chain with more buffers than any frame needs is taken as far as it is of use.
            if room < total {
                room += buffer.len as usize;
                if buffers.try_push(buffer).is_err() {
                    return Ok(Place::Never);
                }
            }
        }
        chains.push((chain, buffers.len() - before));
        if room >= total {
            return Ok(Place::Here(buffers, chains));
        }
        if !mergeable || chains.is_full() {
            return Ok(Place::Never);
        }
        ahead += chain.slots;
    }
    // What does not fit into all there can be never will.
    Ok(if ahead == ring.size() { Place::Never } else { Place::Later })
}
