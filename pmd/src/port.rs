//! Ports: the cold side (open, info, link, close) and the hot side (bursts in, bursts out).

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::mem::{HomePool, Mbuf};
use crate::virtio::transport::TransportError;

/// The most packets one call moves: NAPI's weight.
pub const MAX_BURST: usize = 64;

/// Packets on their way, in order. Lives on the loop's stack or in its state; never allocates.
pub type Burst = ArrayVec<Mbuf, MAX_BURST>;

/// A network device, as the control thread sees it. All calls may block, allocate and make syscalls.
pub trait Port: Send {
    /// The port string it was opened with.
    fn name(&self) -> &str;

    /// What it is; fixed while it is open.
    fn info(&self) -> &PortInfo;

    /// Whether frames can pass, as of now.
    fn link(&self) -> Link;

    /// The queue pairs, each to be polled by one core. They can be taken once; later calls return none.
    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>>;

    /// Stops the device. Afterwards it touches no memory of ours and the queue pairs move nothing.
    /// Idempotent; dropping the port does the same.
    ///
    /// # Errors
    /// [`TransportError`] when the device cannot be made to stop; its memory is then kept, not reused.
    fn stop(&mut self) -> Result<(), TransportError>;
}

/// A receive and a transmit queue, polled by one core. No call blocks, allocates, locks or logs.
pub trait QueuePair: Send {
    /// Receives at most `budget` frames and at most what `burst` has room for, appended in order of arrival;
    /// refills the receive queue from `pool`, also when nothing came. Returns how many it appended.
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize;

    /// Sends frames from the front of `burst` until the transmit queue is full; what is left in `burst` was
    /// not sent. One notification at most. Returns how many it took.
    fn tx_burst(&mut self, burst: &mut Burst) -> usize;

    /// How many single-segment frames `tx_burst` would take now.
    fn tx_room(&mut self) -> usize;

    /// Counts since the queue pair was made.
    fn counters(&self) -> QueueCounters;

    /// Why the queue pair stopped moving frames, if it did.
    fn fault(&self) -> Option<QueueFault>;
}

/// What a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Which driver: `virtio-net (vfio)` and the like.
    pub driver: &'static str,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Largest Ethernet payload in bytes, headers not included. virtio 1.2 §5.1.4 `mtu`.
    pub mtu: u16,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// How many queue pairs.
    pub queue_pairs: u16,
    /// Negotiated virtio feature bits; for a device side that no driver has joined yet, the offered ones.
    pub features: u64,
}

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Frames pass.
    Up,
    /// The device says there is no link, or the other side is not there (yet, or any more).
    Down,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counts of one queue pair, in DPDK's names. Plain numbers, written by the polling core alone.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct QueueCounters { $($(#[$doc])* pub $name: u64),+ }

        impl QueueCounters {
            /// Every counter with its name, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// Adds another queue's counts, or another interval's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// Frames received.
    rx_packets,
    /// Their bytes, Ethernet header included, FCS not.
    rx_bytes,
    /// Times a receive slot could not be refilled, or a frame not be taken, because the pool was empty.
    rx_nombuf,
    /// Frames the device delivered shorter than a header, with an impossible header or in too many pieces.
    rx_errors,
    /// Frames sent.
    tx_packets,
    /// Their bytes, Ethernet header included, FCS not.
    tx_bytes,
    /// Frames given to `tx_burst` that can never be sent (empty, longer than the other side's buffers) and
    /// were dropped.
    tx_errors,
    /// Notifications sent to the other side.
    notifications,
    /// Lies of the other side that stopped a queue.
    faults,
}

/// Why a queue stopped: the other side broke the rules. Each names the value and the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueFault {
    /// A used element names a descriptor that the queue does not have.
    #[error("device returned descriptor {id} of a virtqueue of {size} (virtio 1.2 §2.7.8)")]
    UsedIdOutOfRange {
        /// What it named.
        id: u32,
        /// Size of the queue.
        size: u16,
    },
    /// A used element names a descriptor that is not with the device.
    #[error("device returned descriptor {id}, which it does not hold (virtio 1.2 §2.7.8)")]
    UsedIdNotOutstanding {
        /// What it named.
        id: u32,
    },
    /// A used element claims more bytes than the buffer has.
    #[error("device claims to have written {len} bytes into a buffer of {posted} (virtio 1.2 §2.7.8.2)")]
    UsedLenTooLong {
        /// Bytes claimed.
        len: u32,
        /// Bytes posted.
        posted: u32,
    },
    /// The used index moved further than there are buffers with the device.
    #[error(
        "device moved its used index by {moved} with {outstanding} buffers outstanding (virtio 1.2 §2.7.8)"
    )]
    UsedIndexJump {
        /// How far it moved.
        moved: u16,
        /// Buffers it held.
        outstanding: u16,
    },
    /// The available index moved further than the queue is long.
    #[error("driver moved its available index by {moved} in a virtqueue of {size} (virtio 1.2 §2.7.13)")]
    AvailIndexJump {
        /// How far it moved.
        moved: u16,
        /// Size of the queue.
        size: u16,
    },
    /// An available ring entry or a `next` field names a descriptor that the queue does not have.
    #[error("driver named descriptor {id} of a virtqueue of {size} (virtio 1.2 §2.7.5, §2.7.6)")]
    DescriptorOutOfRange {
        /// What it named.
        id: u16,
        /// Size of the queue.
        size: u16,
    },
    /// A descriptor chain is longer than the queue: it has a loop.
    #[error(
        "driver made a descriptor chain longer than its virtqueue of {size}: it loops (virtio 1.2 §2.7.5.2)"
    )]
    ChainTooLong {
        /// Size of the queue.
        size: u16,
    },
    /// A descriptor points outside the memory that the driver shared.
    #[error("driver's descriptor {address:#x}+{len} lies outside the memory it shared")]
    AddressNotShared {
        /// Where it points.
        address: u64,
        /// How far.
        len: u32,
    },
    /// A descriptor has a flag that was not negotiated, or the wrong direction.
    #[error("driver's descriptor has flags {flags:#x}, which mean nothing here (virtio 1.2 §2.7.5)")]
    BadDescriptorFlags {
        /// The flags.
        flags: u16,
    },
    /// A merged receive buffer count that is zero or more than were used.
    #[error("device says the frame spans {num_buffers} buffers, {ready} are there (virtio 1.2 §5.1.6.4)")]
    BadNumBuffers {
        /// What the header says.
        num_buffers: u16,
        /// How many used elements are there.
        ready: u16,
    },
}
