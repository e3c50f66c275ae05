//! Reassembly of IPv4 and IPv6 fragments into datagrams of up to 65,535 bytes.
//!
//! Sources: RFC 791 §3.2, RFC 815, RFC 8200 §4.5; overlaps by RFC 5722: any overlap drops the whole datagram,
//! for IPv4 too. An exact duplicate (same place, same bytes) is no overlap. Memory is bounded by the number of
//! datagrams and by bytes; the oldest datagram makes room for a new one.

use core::time::Duration;

use arrayvec::ArrayVec;
use smoltcp::wire::{IpAddress, IpProtocol};

use crate::clock::Time;

/// Time for all fragments of a datagram to come. Sources: RFC 1122 §3.3.2 (60 to 120 s asked of hosts of 1989;
/// 30 s is what hosts use today), RFC 8200 §4.5.
const TIMEOUT_V4: Duration = Duration::from_secs(30);
const TIMEOUT_V6: Duration = Duration::from_secs(60);
/// Separate runs of bytes that one datagram may have at a time. In order there is one; the reordering of any
/// real network needs few.
const MAX_RUNS: usize = 32;
/// Largest payload that a datagram can have behind its header.
const MAX_PAYLOAD: usize = 65_535;
/// Room kept before the payload for a plain IP header, so that the datagram is whole without another copy.
const HEADER_ROOM: usize = 40;
/// Bytes of the first fragment's own header that are kept, for an error about the datagram.
const MAX_HEADER: usize = 60;

/// What makes fragments belong together. Sources: RFC 791 §3.2, RFC 8200 §4.5 (IPv6 does not compare the protocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) src: IpAddress,
    pub(crate) dst: IpAddress,
    pub(crate) ident: u32,
    /// `None` for IPv6.
    pub(crate) protocol: Option<IpProtocol>,
}

/// One fragment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment<'a> {
    pub(crate) key: Key,
    /// Upper protocol, as this fragment states it. The first fragment's word counts.
    pub(crate) protocol: IpProtocol,
    /// Place of `data` in the datagram's payload, bytes.
    pub(crate) offset: usize,
    /// More fragments follow.
    pub(crate) more: bool,
    /// The IP header, up to what is fragmented.
    pub(crate) header: &'a [u8],
    pub(crate) data: &'a [u8],
}

/// Why a fragment was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Offset and length cannot be.
    Bad,
    /// Overlaps others: the datagram is dropped, with all of its fragments still to come.
    Overlap,
    /// Too many gaps, or larger than all memory for reassembly: the datagram is dropped.
    Full,
}

/// What came of a fragment.
#[derive(Debug)]
pub(crate) enum Added {
    /// More fragments are missing.
    Waiting,
    /// The datagram is whole: `HEADER_ROOM` bytes free for the header, then the payload.
    Whole(Whole),
}

/// A datagram put together.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Upper protocol.
    pub(crate) protocol: IpProtocol,
    /// Memory: give it back with [`Reassembly::recycle`].
    memory: Vec<u8>,
}

impl Whole {
    /// The payload's length.
    pub(crate) fn payload_len(&self) -> usize {
        self.memory.len() - HEADER_ROOM
    }

    /// The datagram with a header of `len` bytes, at most [`HEADER_ROOM`], which `fill` writes.
    pub(crate) fn with_header(mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
        self.memory.copy_within(HEADER_ROOM.., len);
        let total = self.payload_len() + len;
        self.memory.truncate(total);
        fill(&mut self.memory[..len]);
        self.memory
    }
}

/// A datagram that did not become whole in time, of which the first fragment is there.
#[derive(Debug)]
pub(crate) struct TimedOut<'a> {
    /// Upper protocol.
    pub(crate) protocol: IpProtocol,
    /// Where the error goes, and whom it is about.
    pub(crate) src: IpAddress,
    pub(crate) dst: IpAddress,
    /// Header of the first fragment.
    pub(crate) header: &'a [u8],
    /// Its payload.
    pub(crate) payload: &'a [u8],
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    until: Time,
    /// Fragments still to come are dropped too.
    poisoned: bool,
    /// Payload length, once the last fragment told it.
    total: Option<usize>,
    protocol: Option<IpProtocol>,
    /// Bytes that are there, as sorted `[start, end)` runs that do not touch.
    runs: ArrayVec<(usize, usize), MAX_RUNS>,
    /// Header of the first fragment, and the length of its payload.
    first: Option<(ArrayVec<u8, MAX_HEADER>, usize)>,
    memory: Vec<u8>,
}

/// Bounds of reassembly.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ReassemblyLimits {
    /// Datagrams at a time.
    pub(crate) datagrams: usize,
    /// Bytes in all of them. The memory behind is up to twice that, and up to four idle buffers.
    pub(crate) bytes: usize,
}

/// Datagrams in the making.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// Oldest first.
    datagrams: Vec<Datagram>,
    bytes: usize,
    /// Memory of earlier datagrams.
    spare: Vec<Vec<u8>>,
    limits: ReassemblyLimits,
}

impl Reassembly {
    pub(crate) fn new(limits: ReassemblyLimits) -> Self {
        let datagrams = limits.datagrams.max(1);
        Self {
            datagrams: Vec::with_capacity(datagrams),
            bytes: 0,
            spare: Vec::with_capacity(4),
            limits: ReassemblyLimits { datagrams, ..limits },
        }
    }

    /// Datagrams in the making.
    pub(crate) fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Bytes they hold, at most `limits.bytes`.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in a fragment. `evicted` counts datagrams that had to make room.
    ///
    /// A datagram's memory grows as its fragments come, so that a lone fragment at the far end costs 64 KiB at
    /// most, which counts against the limit. May allocate, up to that limit.
    ///
    /// # Errors
    ///
    /// Why the fragment, or with it the whole datagram, was dropped.
    pub(crate) fn add(
        &mut self,
        now: Time,
        fragment: &Fragment<'_>,
        evicted: &mut u64,
    ) -> Result<Added, Refused> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.data.len());
        let odd = fragment.more && !fragment.data.len().is_multiple_of(8);
        // IPv4 counts the header in its total length, IPv6 does not.
        let header_len = if fragment.key.protocol.is_some() { fragment.header.len() } else { 0 };
        if end + header_len > MAX_PAYLOAD || fragment.data.is_empty() || odd {
            return Err(Refused::Bad);
        }
        let at = match self.datagrams.iter().position(|d| d.key == fragment.key) {
            Some(at) => at,
            None => {
                if self.datagrams.len() >= self.limits.datagrams {
                    self.give_up(0);
                    *evicted += 1;
                }
                self.begin(now, fragment.key)
            }
        };
        let datagram = &mut self.datagrams[at];
        if datagram.poisoned {
            return Err(Refused::Overlap);
        }
        match place(datagram, start, end, fragment) {
            Ok(Place::New) => {}
            Ok(Place::Duplicate) => return Ok(Added::Waiting),
            Err(why) => {
                self.poison(at);
                return Err(why);
            }
        }
        let grown = (end + HEADER_ROOM).saturating_sub(self.datagrams[at].memory.len());
        let Some(at) = self.make_room(at, grown, evicted) else {
            return Err(Refused::Full);
        };
        self.bytes += grown;
        let datagram = &mut self.datagrams[at];
        if grown > 0 {
            datagram.memory.resize(end + HEADER_ROOM, 0);
        }
        datagram.memory[HEADER_ROOM + start..HEADER_ROOM + end].copy_from_slice(fragment.data);
        if start == 0 {
            datagram.protocol = Some(fragment.protocol);
            let header = ArrayVec::try_from(fragment.header).ok();
            datagram.first = header.map(|header| (header, end));
        }
        match (datagram.total, datagram.runs.as_slice()) {
            (Some(total), &[(0, end)]) if end == total => Ok(Added::Whole(self.finish(at))),
            _ => Ok(Added::Waiting),
        }
    }

    /// Empty memory for a packet that is made anew.
    pub(crate) fn memory(&mut self) -> Vec<u8> {
        let mut memory = self.spare.pop().unwrap_or_default();
        memory.clear();
        memory
    }

    /// Takes back the memory of a datagram. Keeps a few buffers, so that steady reassembly allocates nothing.
    pub(crate) fn recycle(&mut self, memory: Vec<u8>) {
        if self.spare.len() < self.spare.capacity() {
            self.spare.push(memory);
        }
    }

    /// Drops one datagram whose time is over; `report` sees its first fragment, if that is there and not
    /// poisoned. `false` if none was due.
    pub(crate) fn expire(&mut self, now: Time, report: impl FnOnce(TimedOut<'_>)) -> bool {
        let Some(at) = self.datagrams.iter().position(|d| d.until <= now) else {
            return false;
        };
        let datagram = &self.datagrams[at];
        if let (Some((header, len)), Some(protocol)) = (&datagram.first, datagram.protocol) {
            let payload = &datagram.memory[HEADER_ROOM..HEADER_ROOM + len];
            let Key { src, dst, .. } = datagram.key;
            report(TimedOut { protocol, src, dst, header, payload });
        }
        self.give_up(at);
        true
    }

    /// When [`Reassembly::expire`] has something to do.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        self.datagrams.iter().map(|d| d.until).min()
    }

    fn begin(&mut self, now: Time, key: Key) -> usize {
        let timeout = if matches!(key.src, IpAddress::Ipv4(_)) { TIMEOUT_V4 } else { TIMEOUT_V6 };
        let memory = self.memory();
        self.datagrams.push(Datagram {
            key,
            until: now + timeout,
            poisoned: false,
            total: None,
            protocol: None,
            runs: ArrayVec::new(),
            first: None,
            memory,
        });
        self.datagrams.len() - 1
    }

    /// Gives up the oldest other datagrams until `grown` bytes more are allowed; returns where `at` is now.
    fn make_room(&mut self, mut at: usize, grown: usize, evicted: &mut u64) -> Option<usize> {
        while self.bytes + grown > self.limits.bytes {
            let oldest = (0..self.datagrams.len()).find(|&n| n != at && !self.datagrams[n].memory.is_empty());
            let Some(oldest) = oldest else {
                self.poison(at);
                return None;
            };
            self.give_up(oldest);
            *evicted += 1;
            if oldest < at {
                at -= 1;
            }
        }
        Some(at)
    }

    /// Frees the memory of a datagram but remembers it, so that its later fragments are dropped as well.
    fn poison(&mut self, at: usize) {
        let datagram = &mut self.datagrams[at];
        datagram.poisoned = true;
        datagram.first = None;
        self.bytes -= datagram.memory.len();
        let memory = core::mem::take(&mut datagram.memory);
        self.recycle(memory);
    }

    fn give_up(&mut self, at: usize) {
        let datagram = self.datagrams.remove(at);
        self.bytes -= datagram.memory.len();
        self.recycle(datagram.memory);
    }

    fn finish(&mut self, at: usize) -> Whole {
        let datagram = self.datagrams.remove(at);
        self.bytes -= datagram.memory.len();
        // A run from 0 is only there when the first fragment came, and it brought the protocol.
        let protocol = datagram.protocol.unwrap_or(IpProtocol::Ipv6NoNxt);
        Whole { protocol, memory: datagram.memory }
    }
}

enum Place {
    New,
    Duplicate,
}

/// Enters `[start, end)` into the runs of a datagram.
fn place(
    datagram: &mut Datagram,
    start: usize,
    end: usize,
    fragment: &Fragment<'_>,
) -> Result<Place, Refused> {
    let last = datagram.runs.last().map_or(0, |r| r.1);
    match (datagram.total, fragment.more) {
        (Some(total), true) if end >= total => return Err(Refused::Overlap),
        (Some(total), false) if end != total => return Err(Refused::Overlap),
        (None, false) if end < last => return Err(Refused::Overlap),
        _ => {}
    }
    // The run behind which this one goes, and the one before which.
    let next = datagram.runs.partition_point(|r| r.0 < start);
    let covers = |r: &(usize, usize)| r.0 <= start && end <= r.1;
    let around = next.saturating_sub(1)..(next + 1).min(datagram.runs.len());
    if datagram.runs[around].iter().any(covers) {
        let have = &datagram.memory[HEADER_ROOM + start..HEADER_ROOM + end];
        return if have == fragment.data { Ok(Place::Duplicate) } else { Err(Refused::Overlap) };
    }
    let overlaps_before = next > 0 && datagram.runs[next - 1].1 > start;
    let overlaps_after = next < datagram.runs.len() && datagram.runs[next].0 < end;
    if overlaps_before || overlaps_after {
        return Err(Refused::Overlap);
    }
    let joins_before = next > 0 && datagram.runs[next - 1].1 == start;
    let joins_after = next < datagram.runs.len() && datagram.runs[next].0 == end;
    match (joins_before, joins_after) {
        (true, true) => {
            datagram.runs[next - 1].1 = datagram.runs[next].1;
            datagram.runs.remove(next);
        }
        (true, false) => datagram.runs[next - 1].1 = end,
        (false, true) => datagram.runs[next].0 = start,
        (false, false) => {
            if datagram.runs.is_full() {
                return Err(Refused::Full);
            }
            datagram.runs.insert(next, (start, end));
        }
    }
    if !fragment.more {
        datagram.total = Some(end);
    }
    Ok(Place::New)
}

#[cfg(test)]
mod tests;
