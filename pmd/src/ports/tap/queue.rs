//! One queue of a TAP interface: a frame a system call, straight into and out of mbufs.
//!
//! The header travels beside the frame and not in its headroom: gathered by the same system call, and a frame whose
//! headroom is a clone's, or whose segments are many, is sent like any other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::Shared;
use super::sys::{self, MAX_PIECES};
use crate::mem::{HomePool, Mbuf};
use crate::port::{Arm, Burst, Offloads, PortInfo, QueueCounters, QueueFault, QueuePair};
use crate::virtio::header::{self, HeaderBytes};
use crate::virtio::spec::net::HEADER_BYTES;

/// Ethernet header and one VLAN tag.
const LINK_HEADER_BYTES: usize = 18;

/// The longest IP packet: what a frame may carry that stands for several segments.
const LONGEST_PACKET_BYTES: usize = 65_535;

/// One file descriptor of the interface.
pub(super) struct TapQueue {
    file: Arc<OwnedFd>,
    shared: Arc<Shared>,
    /// How often the port had revived when the fault below was cleared last.
    revivals: u32,
    offloads: Offloads,
    /// Bytes that the buffers must have room for: more than the longest frame.
    longest: usize,
    /// Empty, for the next frame to be read into.
    buffers: ArrayVec<Mbuf, MAX_PIECES>,
    tx_descriptors: usize,
    /// The core has stopped polling.
    quiesced: bool,
    counters: QueueCounters,
    fault: Option<QueueFault>,
}

impl TapQueue {
    pub(super) fn new(file: Arc<OwnedFd>, shared: Arc<Shared>, info: &PortInfo) -> Self {
        let offloads = info.offloads;
        let packet = if offloads.lro4 { LONGEST_PACKET_BYTES } else { usize::from(info.mtu) };
        Self {
            file,
            shared,
            revivals: 0,
            offloads,
            // One byte more: a buffer that is full to the brim means that the kernel cut the frame.
            longest: LINK_HEADER_BYTES + packet + 1,
            buffers: ArrayVec::new(),
            tx_descriptors: info.tx_descriptors.into(),
            quiesced: false,
            counters: QueueCounters::default(),
            fault: None,
        }
    }

    #[inline]
    fn is_still(&mut self) -> bool {
        // ORDERING: Relaxed. A flag on its own; see `TapPort::stop`, its partner.
        self.quiesced
            || (self.fault.is_some() && !self.has_revived())
            || self.shared.stopped.load(Ordering::Relaxed)
    }

    /// Whether the interface that was deleted is there again, and the fault with that forgotten.
    #[cold]
    fn has_revived(&mut self) -> bool {
        // ORDERING: Relaxed. A count on its own; see `TapPort::events`, its partner.
        let revivals = self.shared.revivals.load(Ordering::Relaxed);
        let revived = std::mem::replace(&mut self.revivals, revivals) != revivals;
        if revived && self.fault == Some(QueueFault::InterfaceGone) {
            self.fault = None;
        }
        self.fault.is_none()
    }

    /// Makes sure that a frame can be read: into one mbuf that holds most frames, and behind it into a long one if there
    /// is need and such a pool, else into as many as it takes.
    #[inline]
    fn refill(&mut self, pool: &HomePool) -> bool {
        let mut missing = self.longest.saturating_sub(self.capacity());
        while missing > 0 && !self.buffers.is_full() {
            let long = if self.buffers.is_empty() { None } else { pool.alloc_for(missing) };
            let Some(buffer) = long.or_else(|| pool.alloc()) else { return false };
            missing = missing.saturating_sub(buffer.tailroom());
            self.buffers.push(buffer);
        }
        // Buffers so small that not even the most of them hold the longest frame: those that fit are received.
        true
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.buffers.iter().map(Mbuf::tailroom).sum()
    }

    /// Makes a frame of the first `bytes` that were read into the buffers; `None` if they are none, or damaged, or what
    /// the header says is wrong: another user of the interface may have changed its offloads.
    #[inline]
    fn take(&mut self, header: &HeaderBytes, bytes: usize) -> Option<Mbuf> {
        if bytes == 0 || bytes >= self.capacity() {
            return None;
        }
        let offload = header::read(header, bytes, self.offloads).ok()?;
        let mut left = bytes;
        let used = self.buffers.iter().position(|buffer| {
            let here = left.min(buffer.tailroom());
            left -= here;
            left == 0
        })?;
        left = bytes;
        let mut frame: Option<Mbuf> = None;
        for mut buffer in self.buffers.drain(..=used) {
            let here = left.min(buffer.tailroom());
            left -= here;
            buffer.set_bounds(buffer.headroom(), here);
            frame = Some(match frame {
                None => buffer,
                Some(head) => join(head, buffer),
            });
        }
        let mut frame = frame?;
        frame.set_offload(offload);
        Some(frame)
    }

    #[cold]
    fn set_fault(&mut self, errno: &io::Error) {
        self.fault = Some(match errno.raw_os_error() {
            Some(libc::EBADFD) => QueueFault::InterfaceGone,
            errno => QueueFault::SystemCall { errno: errno.unwrap_or_default() },
        });
        self.counters.faults += 1;
    }

    /// Sends one frame, or gives it back if the interface does not take it now.
    #[inline]
    fn send(&mut self, mut frame: Mbuf) -> Result<(), Mbuf> {
        let bytes = frame.pkt_len();
        let written = if bytes == 0 || !header::prepare(&mut frame, self.offloads) {
            None
        } else {
            sys::write(&self.file, &header::write(frame.offload(), false), &frame)
        };
        match written.map(|written| written.map_err(|error| (error.raw_os_error(), error))) {
            Some(Ok(())) => {
                self.counters.tx_packets += 1;
                self.counters.tx_bytes += bytes as u64;
                Ok(())
            }
            // The interface is down (EIO), or the kernel has no memory or room for the moment.
            Some(Err((Some(libc::EIO | libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR), _))) => {
                Err(frame)
            }
            Some(Err((Some(libc::EBADFD), error))) => {
                self.set_fault(&error);
                Err(frame)
            }
            // Shorter than an Ethernet header, longer than the kernel takes.
            Some(Err(_)) | None => {
                self.counters.tx_errors += 1;
                Ok(())
            }
        }
    }
}

/// The next piece behind what there is: in one mbuf if the piece's headroom holds what there is, as that of long mbufs
/// does, else as a chain.
#[inline]
fn join(mut head: Mbuf, mut piece: Mbuf) -> Mbuf {
    if head.next().is_none()
        && let Ok(front) = piece.prepend(head.len())
    {
        front.copy_from_slice(head.data());
        return piece;
    }
    head.chain(piece);
    head
}

impl QueuePair for TapQueue {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let budget = budget.min(burst.remaining_capacity());
        if self.is_still() {
            return 0;
        }
        let before = burst.len();
        for _ in 0..budget {
            if !self.refill(pool) {
                self.counters.rx_nombuf += 1;
                break;
            }
            let mut header = header::PLAIN;
            match sys::read(&self.file, &mut header, &mut self.buffers) {
                Ok(bytes) => match self.take(&header, bytes.saturating_sub(HEADER_BYTES)) {
                    Some(frame) => {
                        self.counters.rx_packets += 1;
                        self.counters.rx_bytes += frame.pkt_len() as u64;
                        burst.push(frame);
                    }
                    None => self.counters.rx_errors += 1,
                },
                Err(error) => {
                    if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
                        self.set_fault(&error);
                    }
                    break;
                }
            }
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if self.is_still() {
            return 0;
        }
        let count = burst.len();
        let mut unsent = Burst::new();
        for frame in burst.drain(..) {
            if !unsent.is_empty() {
                unsent.push(frame);
            } else if let Err(frame) = self.send(frame) {
                unsent.push(frame);
            }
        }
        let sent = count - unsent.len();
        burst.extend(unsent);
        sent
    }

    /// The kernel takes a frame within the call, so there is always room, while the interface is there.
    fn tx_room(&mut self) -> usize {
        if self.is_still() { 0 } else { self.tx_descriptors }
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn quiesce(&mut self) {
        self.quiesced = true;
        self.buffers.clear();
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    /// The file descriptor is readable while a frame waits, so there is nothing to ask for and no frame to miss.
    fn arm(&mut self) -> Arm {
        // An interface that is back has to be found by a turn.
        if self.fault.is_some() && !self.is_still() { Arm::Ready } else { Arm::Armed }
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        // Without an interface it is broken, and would end each sleep at once.
        if self.fault.is_none() {
            visit(self.file.as_fd());
        }
    }
}
