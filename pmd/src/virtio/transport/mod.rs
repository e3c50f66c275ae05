//! What carries a driver's requests to its device: PCI registers, a vhost-user socket, or a shared
//! structure in this process.
//!
//! Everything in [`Transport`] is cold (it may block, allocate and make syscalls) and is called by
//! `virtio/init.rs` in the order of virtio 1.2 §3.1.1. The data path uses only the [`Notifier`] that
//! [`Transport::enable_queue`] returned.

pub(crate) mod in_process;
#[allow(unsafe_code)]
mod notifier;
#[allow(unsafe_code)]
pub(crate) mod poll;
#[allow(unsafe_code)]
pub(crate) mod vfio;
pub mod vhost_user;
pub mod vhost_user_server;
#[cfg(any(test, fuzzing))]
pub(crate) mod willing;

use thiserror::Error;

use crate::mem::Iova;
pub use notifier::{Called, Interrupt, MmioNotify, Notifier};

/// Where a virtqueue lies, in the address space the device uses. Source: virtio 1.2 §2.7, §2.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors, at most 32,768; a power of two unless the queue is packed.
    pub size: u16,
    /// Whether it is packed (`RING_PACKED` was negotiated), else split.
    pub packed: bool,
    /// Descriptor table, or packed descriptor ring (16 B each, 16-byte aligned). virtio 1.2 §2.7.5, §2.8.13.
    pub descriptors: Iova,
    /// The driver area: available ring (2-byte aligned), or driver event suppression (4-byte aligned).
    /// virtio 1.2 §2.7.6, §2.8.14.
    pub available: Iova,
    /// The device area: used ring, or device event suppression (both 4-byte aligned). virtio 1.2 §2.7.8, §2.8.14.
    pub used: Iova,
}

/// A driver's view of one virtio device. Source: virtio 1.2 §2.1–§2.4, §4.
///
/// Implementations give the device access to the engine's one [`Region`](crate::Region) when they are
/// opened, and keep it alive until they are dropped. Dropping a transport resets the device first.
pub trait Transport: Send + Sync {
    /// Feature bits without which this transport cannot work, beyond `VERSION_1`: `ACCESS_PLATFORM` where an IOMMU
    /// translates, since a device without it would take our addresses for physical ones.
    fn required_features(&self) -> u64 {
        0
    }

    /// Whether the device is still there: socket connected, device plugged in. Cheap; may make a syscall.
    fn is_present(&self) -> bool {
        true
    }

    /// Why the device cannot be used any more, if that is so: it has left, or has to be let go of. Cheap; may make a
    /// syscall.
    fn gone(&self) -> Option<String> {
        (!self.is_present()).then(|| "the device has left".to_owned())
    }

    /// The feature bits the device offers.
    fn device_features(&self) -> Result<u64, TransportError>;

    /// Accepts a subset of them.
    fn set_driver_features(&self, features: u64) -> Result<(), TransportError>;

    /// The device status byte. virtio 1.2 §2.1.
    fn status(&self) -> Result<u8, TransportError>;

    /// Adds to the device status byte; never used to write 0, which is [`reset`](Self::reset).
    fn set_status(&self, status: u8) -> Result<(), TransportError>;

    /// Takes the device back to its initial state and waits, at most one second, until it says it is
    /// there: from then on it touches no memory of ours. Idempotent. virtio 1.2 §2.4, §4.1.4.3.1.
    fn reset(&self) -> Result<(), TransportError>;

    /// Copies device configuration bytes, all from one generation. Only fields whose feature was
    /// negotiated may be asked for. virtio 1.2 §2.5.
    fn read_config(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TransportError>;

    /// How many virtqueues the device has.
    fn queue_count(&self) -> Result<u16, TransportError>;

    /// The largest size of virtqueue `queue`, 0 if it does not exist. virtio 1.2 §4.1.5.1.3.
    fn max_queue_size(&self, queue: u16) -> Result<u16, TransportError>;

    /// Tells the device where virtqueue `queue` lies and enables it.
    fn enable_queue(&self, queue: u16, layout: &RingLayout) -> Result<Notifier, TransportError>;

    /// What the device signals when it has used a buffer of `queue`, where the driver asked for that: of a queue that was
    /// enabled, the same as long as the transport lives. `None`: the queue has to be polled. virtio 1.2 §2.7.7, §2.8.10.
    fn interrupt(&self, _queue: u16) -> Option<Interrupt> {
        None
    }
}

/// A request that a transport could not carry out.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The other side is gone: socket closed, device unplugged.
    #[error("the device is gone ({what})")]
    Gone {
        /// What was tried.
        what: &'static str,
    },
    /// The other side did not do in time what it has to.
    #[error("the device did not {what} within {limit_ms} ms")]
    Timeout {
        /// What it should have done.
        what: &'static str,
        /// How long we waited.
        limit_ms: u64,
    },
    /// The other side answered what the specification does not allow.
    #[error("the device broke the protocol: {0}")]
    Protocol(String),
    /// The virtqueue does not exist or cannot have this size.
    #[error("virtqueue {queue} cannot have {size} descriptors (the device allows {max})")]
    Queue {
        /// Which virtqueue.
        queue: u16,
        /// The size asked for.
        size: u16,
        /// The largest size allowed, 0 if there is no such queue.
        max: u16,
    },
    /// The system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// errno.
        source: std::io::Error,
    },
}
