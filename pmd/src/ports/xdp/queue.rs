//! One queue: mbufs move into the fill and tx rings, and out of the rx and completion rings.
//!
//! | ring | an entry is | the mbuf is found by |
//! |---|---|---|
//! | fill → rx | the address of a room; back come it, an offset, a length | the room: no two that are posted begin in the same 2 KiB |
//! | tx → completion | the address of the data, lowered by the number of a slot that is its offset; back comes the same | the slot |
//!
//! A frame to send that lies in more than one piece, or where the kernel cannot reach it, is copied into one of a few
//! spare mbufs. In copy mode the kernel sends only within our system call, one or two a burst; no other call is made
//! between bursts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arrayvec::ArrayVec;
use libc::xdp_desc;

use super::abi::{MIN_CHUNK_BYTES, OFFSET_SHIFT, PACKET_HEADROOM};
use super::probe::Probe;
use super::ring::{Consumer, Producer};
use super::sys;
use super::umem::PADDING_BYTES;
use crate::mem::{HomePool, Mbuf, PageSize, Region};
use crate::port::{Arm, Burst, MAX_BURST, QueueCounters, QueueFault, QueuePair};

/// Mbufs that are kept for copies.
const SPARES: usize = 16;

/// The most calls that one burst costs: the kernel sends 32 frames in each unless it was told otherwise.
const MAX_WAKEUPS: usize = 8;

/// Addresses carry these bits beside an offset.
const ADDRESS_MASK: u64 = (1 << OFFSET_SHIFT) - 1;

/// A socket and its four rings. The kernel writes no mbuf of ours any more when it is dropped: the last reference to the
/// socket goes with it, and its end waits until nobody uses it (`xsk_unbind_dev`).
pub(super) struct Socket {
    pub fill: Producer<u64>,
    pub rx: Consumer<xdp_desc>,
    pub tx: Producer<xdp_desc>,
    pub completion: Consumer<u64>,
    pub fd: OwnedFd,
}

/// What a queue needs to know.
#[derive(Clone)]
pub(super) struct QueueConfig {
    pub region: Arc<Region>,
    pub rx_descriptors: u16,
    pub tx_descriptors: u16,
    pub chunk_bytes: u32,
    /// Frames are not copied by the kernel.
    pub zero_copy: bool,
    /// The driver's receive work is done in our calls.
    pub busy_poll: bool,
    /// The port has been stopped, or its interface is gone.
    pub state: Arc<PortState>,
}

/// What the port tells its queues.
#[derive(Debug, Default)]
pub(super) struct PortState {
    pub stopped: AtomicBool,
    pub gone: AtomicBool,
    /// The longest frame that the interface takes, in bytes.
    frame_bytes: AtomicU32,
}

impl PortState {
    pub(super) fn set_mtu(&self, mtu: u16) {
        // ORDERING: Relaxed. A number on its own. Partner: the load in `XdpQueue::post`.
        self.frame_bytes.store(u32::from(mtu) + super::LINK_HEADER_BYTES, Ordering::Relaxed);
    }
}

/// One queue of the interface.
pub(super) struct XdpQueue {
    socket: Option<Socket>,
    probe: Option<Probe>,
    config: QueueConfig,
    /// By where in the region the room begins, in 2 KiB: the mbufs in the fill and rx rings, or with the kernel.
    posted: Box<[Option<Mbuf>]>,
    posted_count: u16,
    /// By slot: the mbufs in the tx and completion rings, or with the kernel.
    sent: Box<[Option<Mbuf>]>,
    free_slots: Vec<u16>,
    spares: ArrayVec<Mbuf, SPARES>,
    /// Zero-copy only: rooms that no device can be given, across two pages.
    misfits: Vec<Mbuf>,
    /// The kernel has not taken all that is in the tx ring.
    unsent: bool,
    counters: QueueCounters,
    fault: Option<QueueFault>,
    last_statistics: Statistics,
}

/// What the kernel counts, in its own words.
type Statistics = [(&'static str, u64); 5];

impl XdpQueue {
    pub(super) fn new(socket: Socket, probe: Probe, config: QueueConfig) -> Self {
        let granules = config.region.len_bytes() / MIN_CHUNK_BYTES as usize + 1;
        let pages = config.region.len_bytes() / config.region.page_size().bytes() + 1;
        Self {
            socket: Some(socket),
            probe: Some(probe),
            posted: (0..granules).map(|_| None).collect(),
            posted_count: 0,
            sent: (0..config.tx_descriptors).map(|_| None).collect(),
            free_slots: (0..config.tx_descriptors).rev().collect(),
            spares: ArrayVec::new(),
            misfits: Vec::with_capacity(if config.zero_copy { pages } else { 0 }),
            unsent: false,
            counters: QueueCounters::default(),
            fault: None,
            last_statistics: statistics_of(None),
            config,
        }
    }

    #[inline]
    fn is_still(&mut self) -> bool {
        // ORDERING: Relaxed. Flags on their own; see `XdpPort::stop` and `XdpPort::is_gone`, their partners.
        if self.config.state.gone.load(Ordering::Relaxed) {
            self.set_fault(QueueFault::InterfaceGone);
        }
        self.socket.is_none() || self.fault.is_some() || self.config.state.stopped.load(Ordering::Relaxed)
    }

    #[cold]
    fn set_fault(&mut self, fault: QueueFault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.counters.faults += 1;
        }
    }

    /// Gives the kernel as many empty mbufs as it may hold.
    #[inline]
    fn refill(&mut self, pool: &HomePool) -> Result<(), QueueFault> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let wanted = self.config.rx_descriptors - self.posted_count;
        if wanted == 0 {
            return Ok(());
        }
        let room = socket.fill.free(wanted.into())?;
        let wanted = usize::from(wanted).min(room);
        let mut added = 0;
        let mut taken = 0;
        for mbuf in pool.alloc_bulk(wanted) {
            taken += 1;
            match chunk_of(&self.config, &mbuf) {
                Chunk::At(offset) => {
                    socket.fill.put((PADDING_BYTES + offset) as u64);
                    let slot = &mut self.posted[offset / MIN_CHUNK_BYTES as usize];
                    debug_assert!(slot.is_none(), "two rooms in one place");
                    std::mem::forget(slot.replace(mbuf));
                    added += 1;
                }
                Chunk::Misfit if self.misfits.len() < self.misfits.capacity() => self.misfits.push(mbuf),
                Chunk::Misfit | Chunk::Foreign => self.counters.rx_nombuf += 1,
            }
        }
        if taken < wanted {
            self.counters.rx_nombuf += 1;
        }
        self.posted_count += added;
        if socket.fill.publish() && socket.fill.needs_wakeup() {
            self.counters.notifications += 1;
            sys::wake_rx(socket.fd.as_fd());
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst, budget: usize) -> Result<(), QueueFault> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let ready = socket.rx.ready(MAX_BURST)?.min(budget);
        for _ in 0..ready {
            let xdp_desc { addr, len, .. } = socket.rx.take();
            let frame = take_frame(&mut self.posted, &self.config, addr, len)?;
            self.posted_count -= 1;
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += u64::from(len);
            burst.push(frame);
        }
        socket.rx.release();
        Ok(())
    }

    /// Takes back what was sent.
    #[inline]
    fn complete(&mut self) -> Result<(), QueueFault> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if self.free_slots.len() == self.sent.len() {
            return Ok(());
        }
        let ready = socket.completion.ready(1)?;
        for _ in 0..ready {
            let address = socket.completion.take();
            #[allow(clippy::cast_possible_truncation)] // 16 bits are left
            let slot = (address >> OFFSET_SHIFT) as u16;
            let held = self.sent.get_mut(usize::from(slot)).and_then(Option::take);
            let Some(mbuf) = held.filter(|mbuf| is_about(mbuf, &self.config.region, address)) else {
                return Err(QueueFault::XdpAddressUnknown { ring: "completion", address });
            };
            self.free_slots.push(slot);
            drop(mbuf);
        }
        socket.completion.release();
        Ok(())
    }

    /// Puts frames from the front of `burst` into the tx ring while there is room.
    #[inline]
    fn post(&mut self, burst: &mut Burst) -> Result<usize, QueueFault> {
        let Some(socket) = &mut self.socket else { return Ok(0) };
        let room = socket.tx.free(burst.len())?.min(self.free_slots.len());
        // ORDERING: Relaxed. See `PortState::set_mtu`.
        let longest =
            self.config.state.frame_bytes.load(Ordering::Relaxed).min(self.config.chunk_bytes) as usize;
        let mut taken = 0;
        let mut left = ArrayVec::<Mbuf, MAX_BURST>::new();
        for frame in burst.drain(..) {
            if taken >= room || !left.is_empty() {
                left.push(frame);
                continue;
            }
            let bytes = frame.pkt_len();
            let complete = frame.offload().is_complete();
            if bytes < ETHERNET_BYTES || bytes > longest || frame.offload().segmentation().is_some() {
                self.counters.tx_errors += 1;
                taken += 1;
                continue;
            }
            let (frame, offset) = match reachable(&self.config, &frame) {
                Some(offset) if complete => (frame, offset),
                _ => match completed(&mut self.spares, &self.config, frame) {
                    Ok(Some(complete)) => complete,
                    Ok(None) => {
                        self.counters.tx_errors += 1;
                        taken += 1;
                        continue;
                    }
                    Err(frame) => {
                        left.push(frame);
                        continue;
                    }
                },
            };
            let Some(slot) = self.free_slots.pop() else {
                left.push(frame);
                continue;
            };
            let address =
                ((PADDING_BYTES + offset) as u64 - u64::from(slot)) | u64::from(slot) << OFFSET_SHIFT;
            #[allow(clippy::cast_possible_truncation)] // at most a chunk
            socket.tx.put(xdp_desc { addr: address, len: bytes as u32, options: 0 });
            self.counters.tx_packets += 1;
            self.counters.tx_bytes += bytes as u64;
            std::mem::forget(self.sent[usize::from(slot)].replace(frame));
            taken += 1;
        }
        burst.extend(left);
        self.unsent |= socket.tx.publish();
        Ok(taken)
    }

    /// Makes the kernel send what is in the tx ring.
    #[inline]
    fn wake(&mut self) -> Result<(), QueueFault> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if !self.unsent {
            return Ok(());
        }
        if !socket.tx.needs_wakeup() {
            self.unsent = false;
            return Ok(());
        }
        for _ in 0..MAX_WAKEUPS {
            self.counters.notifications += 1;
            match sys::wake_tx(socket.fd.as_fd()) {
                Ok(()) => {
                    self.unsent = false;
                    return Ok(());
                }
                // There is more than it sends in one call, one frame was refused, or memory is short.
                Err(libc::EAGAIN | libc::EBUSY | libc::EINTR) => {
                    if socket.tx.waiting()? == 0 {
                        self.unsent = false;
                        return Ok(());
                    }
                }
                // The interface is down, or memory is short: the next turn tries again.
                Err(libc::ENETDOWN | libc::ENOBUFS | libc::ENOMEM) => return Ok(()),
                Err(libc::ENXIO | libc::EBADF) => return Err(QueueFault::InterfaceGone),
                Err(errno) => return Err(QueueFault::SystemCall { errno }),
            }
        }
        Ok(())
    }

    /// Has the driver take what has arrived: the next poll finds it in the rx ring.
    #[inline]
    fn poll_driver(&self) {
        if let Some(socket) = &self.socket {
            sys::wake_rx(socket.fd.as_fd());
        }
    }

    #[cold]
    fn refill_spares(&mut self, pool: &HomePool) {
        let missing = self.spares.remaining_capacity();
        for mbuf in pool.alloc_bulk(missing) {
            match chunk_of(&self.config, &mbuf) {
                Chunk::At(_) => self.spares.push(mbuf),
                Chunk::Misfit if self.misfits.len() < self.misfits.capacity() => self.misfits.push(mbuf),
                Chunk::Misfit | Chunk::Foreign => {}
            }
        }
    }

    fn statistics(&self) -> Statistics {
        match &self.socket {
            Some(socket) => statistics_of(Some(socket.fd.as_fd())),
            None => self.last_statistics,
        }
    }
}

/// Nothing shorter is a frame.
const ETHERNET_BYTES: usize = 14;

/// Where an empty mbuf's room lies.
enum Chunk {
    /// In the region, this far from its beginning.
    At(usize),
    /// In it, but across two pages.
    Misfit,
    /// Outside, or too short.
    Foreign,
}

#[inline]
fn room_offset(region: &Region, mbuf: &Mbuf) -> usize {
    (mbuf.data_ptr() as usize).wrapping_sub(mbuf.headroom()).wrapping_sub(region.base() as usize)
}

#[inline]
fn chunk_of(config: &QueueConfig, mbuf: &Mbuf) -> Chunk {
    let offset = room_offset(&config.region, mbuf);
    let chunk = config.chunk_bytes as usize;
    let inside = offset < config.region.len_bytes() && config.region.len_bytes() - offset >= chunk;
    if !inside || mbuf.room_bytes() < chunk {
        Chunk::Foreign
    } else if config.zero_copy && crosses_pages(config.region.page_size(), offset, chunk) {
        Chunk::Misfit
    } else {
        Chunk::At(offset)
    }
}

/// Whether bytes lie in two pages, which may be anywhere for a device.
#[inline]
fn crosses_pages(page: PageSize, offset: usize, len: usize) -> bool {
    offset / page.bytes() != (offset + len - 1) / page.bytes()
}

/// The mbuf that a received descriptor names, as a frame.
#[inline]
fn take_frame(
    posted: &mut [Option<Mbuf>],
    config: &QueueConfig,
    address: u64,
    len: u32,
) -> Result<Mbuf, QueueFault> {
    let unknown = || QueueFault::XdpAddressUnknown { ring: "rx", address };
    let base = ((address & ADDRESS_MASK) as usize).wrapping_sub(PADDING_BYTES);
    let data_offset = (address >> OFFSET_SHIFT) as u32;
    let slot = posted.get_mut(base / MIN_CHUNK_BYTES as usize).ok_or_else(unknown)?;
    let mut mbuf = slot.take().ok_or_else(unknown)?;
    if room_offset(&config.region, &mbuf) != base {
        *slot = Some(mbuf);
        return Err(unknown());
    }
    let end = u64::from(data_offset) + u64::from(len);
    if data_offset < PACKET_HEADROOM || end > u64::from(config.chunk_bytes) || len == 0 {
        *slot = Some(mbuf);
        return Err(QueueFault::XdpFrameOutside { offset: data_offset, len, chunk: config.chunk_bytes });
    }
    mbuf.set_bounds(data_offset as usize, len as usize);
    Ok(mbuf)
}

/// Where the kernel finds a frame's bytes, from the region's beginning; `None` where it does not.
#[inline]
fn reachable(config: &QueueConfig, frame: &Mbuf) -> Option<usize> {
    let (offset, len) =
        ((frame.data_ptr() as usize).wrapping_sub(config.region.base() as usize), frame.len());
    let inside = offset < config.region.len_bytes() && config.region.len_bytes() - offset >= len;
    let whole = frame.next().is_none() && len <= config.chunk_bytes as usize;
    let split = config.zero_copy && crosses_pages(config.region.page_size(), offset, len);
    (inside && whole && !split).then_some(offset)
}

/// The frame with its checksum made, where the kernel reaches it: a copy if need be. Given back while there is no spare
/// mbuf for one; `None` if its checksum lies nowhere.
#[cold]
fn completed(
    spares: &mut ArrayVec<Mbuf, SPARES>,
    config: &QueueConfig,
    mut frame: Mbuf,
) -> Result<Option<(Mbuf, usize)>, Mbuf> {
    // A frame whose bytes a clone shares is not written, but copied like one that lies in pieces.
    if let Some(offset) = reachable(config, &frame)
        && frame.complete_checksum().is_ok()
    {
        return Ok(Some((frame, offset)));
    }
    let Some(mut copy) = spares.pop() else { return Err(frame) };
    copy.set_offload(frame.offload());
    let copied = frame
        .segments()
        .try_for_each(|segment| copy.append(segment.len()).map(|to| to.copy_from_slice(segment.data())));
    let offset = copied.and_then(|()| copy.complete_checksum()).ok().and_then(|()| reachable(config, &copy));
    Ok(offset.map(|offset| (copy, offset)))
}

/// Whether a completion's address is the one that the mbuf was posted with. Some kernels lose the lowest bit.
#[inline]
fn is_about(mbuf: &Mbuf, region: &Region, address: u64) -> bool {
    let offset = (mbuf.data_ptr() as usize).wrapping_sub(region.base() as usize);
    let slot = address >> OFFSET_SHIFT;
    let posted = ((PADDING_BYTES + offset) as u64).wrapping_sub(slot);
    (posted ^ address) & ADDRESS_MASK & !1 == 0
}

fn statistics_of(socket: Option<BorrowedFd<'_>>) -> Statistics {
    let told = socket.and_then(|fd| sys::statistics(fd).ok());
    let told = |pick: fn(&libc::xdp_statistics) -> u64| told.as_ref().map_or(0, pick);
    [
        ("xdp_rx_dropped", told(|told| told.rx_dropped)),
        ("xdp_rx_ring_full", told(|told| told.rx_ring_full)),
        ("xdp_rx_fill_ring_empty", told(|told| told.rx_fill_ring_empty_descs)),
        ("xdp_rx_invalid_descs", told(|told| told.rx_invalid_descs)),
        ("xdp_tx_invalid_descs", told(|told| told.tx_invalid_descs)),
    ]
}

impl QueuePair for XdpQueue {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        let before = burst.len();
        let budget = budget.min(burst.remaining_capacity());
        if self.is_still() {
            return 0;
        }
        let done = self.receive(burst, budget).and_then(|()| self.refill(pool));
        if let Err(fault) = done.and_then(|()| self.wake()) {
            self.set_fault(fault);
        }
        if self.config.busy_poll && burst.len() == before {
            self.poll_driver();
        }
        if self.spares.is_empty() {
            self.refill_spares(pool);
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if burst.is_empty() || self.is_still() {
            return 0;
        }
        let posted = self.complete().and_then(|()| self.post(burst));
        let woken = self.wake();
        match (&posted, woken) {
            (Err(fault), _) => self.set_fault(*fault),
            (_, Err(fault)) => self.set_fault(fault),
            (Ok(_), Ok(())) => {}
        }
        posted.unwrap_or(0)
    }

    fn tx_room(&mut self) -> usize {
        if self.is_still() {
            return 0;
        }
        if let Err(fault) = self.complete() {
            self.set_fault(fault);
            return 0;
        }
        self.free_slots.len()
    }

    fn tx_waiting(&mut self) -> usize {
        self.sent.len() - self.free_slots.len()
    }

    fn quiesce(&mut self) {
        self.last_statistics = self.statistics();
        let Some(socket) = self.socket.take() else { return };
        drop(socket);
        let released = self.probe.take().is_some_and(Probe::wait_until_released);
        let keep = self.config.zero_copy && !released;
        for slot in self.posted.iter_mut().chain(&mut self.sent) {
            // A device that has not let go may still write the former and read the latter: they are never used again.
            if keep {
                std::mem::forget(slot.take());
            } else {
                *slot = None;
            }
        }
        self.spares.clear();
        self.misfits.clear();
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn extra_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.statistics().into_iter().for_each(|(name, count)| visit(name, count));
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    /// The kernel tells of every frame anyway: the socket is readable while there is one in the rx ring.
    fn arm(&mut self) -> Arm {
        let Some(socket) = &mut self.socket else { return Arm::Armed };
        match socket.rx.ready(1) {
            Ok(0) => Arm::Armed,
            Ok(_) => Arm::Ready,
            Err(fault) => {
                self.set_fault(fault);
                Arm::Ready
            }
        }
    }

    fn wait_fds(&self, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        // One that is at its end would be readable for ever.
        if let Some(socket) = self.socket.as_ref().filter(|_| self.fault.is_none()) {
            visit(socket.fd.as_fd());
        }
    }
}

impl Drop for XdpQueue {
    fn drop(&mut self) {
        self.quiesce();
    }
}
