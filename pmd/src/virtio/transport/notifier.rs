//! How a driver tells its device that there is something in a virtqueue.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// The available buffer notification of one virtqueue. Source: virtio 1.2 §2.7.13.4, §4.1.5.2.
#[derive(Debug)]
pub enum Notifier {
    /// The device polls and never wants a notification.
    Polled,
    /// A write to the device's notification register.
    Mmio(MmioNotify),
    /// A write to an eventfd that the other side waits on ("kick").
    EventFd(EventFd),
}

impl Notifier {
    /// Notifies. One register write or one syscall; never blocks.
    #[inline]
    pub fn notify(&self) {
        match self {
            Notifier::Polled => {}
            Notifier::Mmio(mmio) => mmio.notify(),
            // A full counter (EAGAIN) means the other side has a notification waiting already.
            Notifier::EventFd(event) => drop(event.write(1)),
        }
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
