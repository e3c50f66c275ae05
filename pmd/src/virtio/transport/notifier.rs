//! How a driver tells its device that there is something in a virtqueue, and how either side hears of it.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The available buffer notification of one virtqueue. Source: virtio 1.2 §2.7.13.4, §4.1.5.2.
#[derive(Debug)]
pub enum Notifier {
    /// The device polls and never wants a notification.
    Polled,
    /// A write to the device's notification register.
    Mmio(MmioNotify),
    /// A write to an eventfd that the other side waits on ("kick").
    EventFd(Arc<EventFd>),
    /// A call of the device, which is in this process: for the control queue, which nobody polls.
    Call(Called),
}

/// What a notification calls.
pub struct Called(pub(crate) Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Called")
    }
}

impl Notifier {
    /// Notifies. One register write or one syscall, which does not block; or a call.
    #[inline]
    pub fn notify(&self) {
        match self {
            Notifier::Polled => {}
            Notifier::Mmio(mmio) => mmio.notify(),
            // A full counter (EAGAIN) means the other side has a notification waiting already.
            Notifier::EventFd(event) => drop(event.write(1)),
            Notifier::Call(Called(call)) => call(),
        }
    }
}

/// What one side of a virtqueue sleeps on, and the other side (or the kernel, for a device of its own) signals: a
/// driver's interrupt, a device's kick. One core waits for it, and drains it.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<EventFd>);

impl Interrupt {
    /// A new one.
    ///
    /// # Errors
    /// errno of `eventfd(2)`.
    pub fn new() -> io::Result<Self> {
        // Never blocks who signals it, nor us.
        EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map(|event| Self(Arc::new(event)))
    }

    /// To be given to the side that signals.
    #[must_use]
    pub fn event(&self) -> &Arc<EventFd> {
        &self.0
    }

    /// Forgets the signals until now. One system call. Does not block, unless another process that shares the eventfd
    /// made it blocking and drained it in this very moment.
    pub fn drain(&self) {
        drop(self.0.read());
    }

    /// Signals it. One system call.
    pub fn signal(&self) {
        // A counter that is full has been signalled already.
        drop(self.0.write(1));
    }
}

impl From<Arc<EventFd>> for Interrupt {
    fn from(event: Arc<EventFd>) -> Self {
        Self(event)
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the event's, which the borrow keeps open.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// The notification register of one virtqueue of a PCI device.
pub struct MmioNotify {
    register: *mut u16,
    queue: u16,
    _mapping: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the register is a device's, which takes writes from any CPU; the mapping is kept alive.
unsafe impl Send for MmioNotify {}

impl MmioNotify {
    /// # Safety
    /// `register` is the 2-byte aligned notify address of virtqueue `queue` and stays mapped as long as
    /// `mapping` lives.
    pub unsafe fn new(register: *mut u16, queue: u16, mapping: Arc<dyn Any + Send + Sync>) -> Self {
        Self { register, queue, _mapping: mapping }
    }

    #[inline]
    fn notify(&self) {
        // SAFETY: mapped and aligned, as `new` was promised.
        unsafe { self.register.write_volatile(self.queue) }
    }
}

impl fmt::Debug for MmioNotify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioNotify").field("queue", &self.queue).finish_non_exhaustive()
    }
}
