//! The driver's side of the control virtqueue: one command at a time, and a bounded wait for its answer.
//!
//! A chain of two descriptors, always: the command, which the device reads, and one byte that it writes. Nothing else is
//! ever outstanding, so the ring's indices are all there is to keep, in either format, and IN_ORDER and EVENT_IDX change
//! nothing. Both buffers lie in memory that is carved once and used for nothing else: a device that answers late, after
//! we gave up on it, writes over a byte that nobody reads any more.

use std::sync::atomic::{Ordering, fence};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::command::MAX_BYTES;
use super::{Command, ControlError};
use crate::mem::{Carved, Region, RegionError};
use crate::port::QueueFault;
use crate::virtio::packed::{self, Cursor, Event, Tail};
use crate::virtio::ring::QueueMemory;
use crate::virtio::spec::net::control;
use crate::virtio::spec::packed as packed_spec;
use crate::virtio::spec::split::{AVAIL_F_NO_INTERRUPT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElement};
use crate::virtio::split;
use crate::virtio::transport::{Notifier, RingLayout};

/// Descriptors of the queue: one command needs two.
pub(crate) const SIZE: u16 = 4;

/// How long an answer may take. A hypervisor answers within microseconds, one that reprograms a NIC within some
/// milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What is in the acknowledgement before the device has written it.
const UNANSWERED: u8 = 0xaa;

enum Ring {
    Split(split::Areas, u16),
    Packed(packed::Areas, Cursor),
}

/// The control virtqueue of a device, driver side. Every call is cold: it may sleep, and allocates.
pub(crate) struct ControlQueue {
    ring: Ring,
    notifier: Notifier,
    layout: RingLayout,
    command: Carved,
    answer: Carved,
    pub(super) answer_within: Duration,
    /// A queue that broke the rules, or did not answer, is not used again.
    stopped: Option<Stopped>,
}

#[derive(Clone, Copy)]
enum Stopped {
    Late,
    Fault(QueueFault),
}

// SAFETY: the carved memory is plain bytes that nobody else in this process points at; the region that they belong to
//         is Send + Sync.
unsafe impl Send for ControlQueue {}

impl ControlQueue {
    /// Bytes of a [`Region`] that it carves at most, alignment included.
    pub(crate) const REGION_BYTES: usize = QueueMemory::region_bytes(SIZE) + MAX_BYTES + 64 + 2 * 64;

    /// A queue over fresh memory, with `size` descriptors of at least two: [`SIZE`], or fewer where a device has fewer.
    /// To be enabled at [`layout`](Self::layout), then told how to notify.
    pub(crate) fn new(region: &Region, size: u16, is_packed: bool) -> Result<Self, RegionError> {
        let memory = QueueMemory::carve(region, size, is_packed)?;
        let QueueMemory { descriptors, driver_area, device_area, .. } = &memory;
        let ring = if is_packed {
            // SAFETY: carved from the region with these sizes and alignment, each byte given out once; the owner of
            //         this queue keeps the region.
            let areas =
                unsafe { packed::Areas::new(descriptors.ptr, driver_area.ptr, device_area.ptr, size) };
            areas.set_driver_event(Event { off_wrap: 0, flags: packed_spec::EVENT_F_DISABLE });
            let start = areas.cursor(0, true);
            Ring::Packed(areas, start)
        } else {
            // SAFETY: as above.
            let areas = unsafe { split::Areas::new(descriptors.ptr, driver_area.ptr, device_area.ptr, size) };
            areas.set_available_flags(AVAIL_F_NO_INTERRUPT);
            Ring::Split(areas, 0)
        };
        Ok(Self {
            ring,
            notifier: Notifier::Polled,
            layout: memory.layout(),
            command: region.carve(MAX_BYTES, 64)?,
            answer: region.carve(1, 64)?,
            answer_within: ANSWER_WITHIN,
            stopped: None,
        })
    }

    pub(crate) fn layout(&self) -> RingLayout {
        self.layout
    }

    pub(crate) fn set_notifier(&mut self, notifier: Notifier) {
        self.notifier = notifier;
    }

    /// Asks the device, and waits for its answer: at most a second.
    ///
    /// # Errors
    /// [`ControlError`]. After a timeout or a fault the queue is not used again, and every command fails.
    pub(crate) fn send(&mut self, command: &Command) -> Result<(), ControlError> {
        let what = command.what();
        match self.stopped {
            Some(Stopped::Late) => return Err(self.timeout(what)),
            Some(Stopped::Fault(fault)) => return Err(fault.into()),
            None => {}
        }
        let bytes = command.encode()?;
        debug_assert!(bytes.len() <= MAX_BYTES, "the encoder keeps to it");
        // SAFETY: carved with these lengths, and not with the device: nothing is outstanding.
        unsafe {
            self.command.ptr.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.answer.ptr.write_volatile(UNANSWERED);
        }
        #[allow(clippy::cast_possible_truncation)] // at most 4,096
        self.post(bytes.len() as u32);
        // ORDERING: SeqCst. The command is visible before the device is told. It may sleep, and commands are rare, so it
        //           is told always, whatever it asks for. virtio 1.2 §2.7.13.4.1.
        fence(Ordering::SeqCst);
        self.notifier.notify();
        let deadline = Instant::now() + self.answer_within;
        let mut pause = Duration::from_micros(1);
        while !self.take_back().inspect_err(|fault| self.stopped = Some(Stopped::Fault(*fault)))? {
            if Instant::now() >= deadline {
                self.stopped = Some(Stopped::Late);
                return Err(self.timeout(what));
            }
            sleep(pause);
            pause = (2 * pause).min(Duration::from_millis(5));
        }
        // SAFETY: carved with a byte; the device has given it back.
        match unsafe { self.answer.ptr.read_volatile() } {
            control::OK => Ok(()),
            _ => Err(ControlError::Refused(what)),
        }
    }

    fn timeout(&self, what: &'static str) -> ControlError {
        let limit_ms = u64::try_from(self.answer_within.as_millis()).unwrap_or(u64::MAX);
        ControlError::Timeout { what, limit_ms }
    }

    /// Makes the chain available.
    fn post(&mut self, len: u32) {
        let (command, answer) = (self.command.iova.0, self.answer.iova.0);
        match &mut self.ring {
            Ring::Split(areas, next) => {
                areas.write_descriptor(0, Descriptor { address: command, len, flags: DESC_F_NEXT, next: 1 });
                areas.write_descriptor(
                    1,
                    Descriptor { address: answer, len: 1, flags: DESC_F_WRITE, next: 0 },
                );
                areas.write_available(*next, 0);
                *next = next.wrapping_add(1);
                areas.publish_available(*next);
            }
            Ring::Packed(areas, next) => {
                let second = areas.advance(*next, 1);
                areas.write_address(*next, command);
                areas.write_address(second, answer);
                areas.write_tail(
                    second,
                    Tail { len: 1, id: 0, flags: second.available_flags() | DESC_F_WRITE },
                );
                // The first last: from here on the device may take the whole chain. virtio 1.2 §2.8.21.
                areas.write_tail(*next, Tail { len, id: 0, flags: next.available_flags() | DESC_F_NEXT });
            }
        }
    }

    /// Whether the device has given the chain back.
    fn take_back(&mut self) -> Result<bool, QueueFault> {
        match &mut self.ring {
            Ring::Split(areas, next) => {
                // What was used before is one less than what was made available.
                let before = next.wrapping_sub(1);
                match areas.used_index().wrapping_sub(before) {
                    0 => return Ok(false),
                    1 => {}
                    moved => return Err(QueueFault::UsedIndexJump { moved, outstanding: 1 }),
                }
                let UsedElement { id, len } = areas.read_used(before);
                check(id, len, areas.size())?;
            }
            Ring::Packed(areas, next) => {
                let used = areas.read_tail(*next);
                if !next.is_used(used.flags) {
                    return Ok(false);
                }
                check(used.id.into(), used.len, areas.size())?;
                *next = areas.advance(*next, 2);
            }
        }
        Ok(true)
    }
}

/// A used buffer is ours, with at most its one byte written. A device that writes the byte and says 0 is let off.
fn check(id: u32, len: u32, size: u16) -> Result<(), QueueFault> {
    match (id, len) {
        (0, 0 | 1) => Ok(()),
        (0, len) => Err(QueueFault::UsedLenTooLong { len, posted: 1 }),
        (id, _) if id >= size.into() => Err(QueueFault::UsedIdOutOfRange { id, size }),
        (id, _) => Err(QueueFault::UsedIdNotOutstanding { id }),
    }
}
