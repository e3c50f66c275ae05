//! The lies that stop a queue.

use thiserror::Error;

/// Why a queue stopped: the other side broke the rules, or is gone. Each names the value and the rule.
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
    /// A chain of a packed ring goes on in a descriptor that is not available.
    #[error(
        "driver's chain runs into a descriptor, number {descriptors}, that it has not made available (virtio 1.2 §2.8.6)"
    )]
    ChainNotAvailable {
        /// Which descriptor of the chain, from 1 on.
        descriptors: u16,
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
    /// A descriptor refers to a table that cannot be one.
    #[error(
        "driver's descriptor table of {len} bytes is not one of 1 to {size} descriptors of 16 bytes (virtio 1.2 §2.7.5.3)"
    )]
    BadIndirectTable {
        /// Its length.
        len: u32,
        /// The most descriptors a chain may have.
        size: u16,
    },
    /// A descriptor in such a table refers to another one.
    #[error("driver's descriptor table refers to another table, flags {flags:#x} (virtio 1.2 §2.7.5.3)")]
    IndirectNested {
        /// The descriptor's flags.
        flags: u16,
    },
    /// A descriptor that refers to a table is not the last of its chain.
    #[error("driver's chain goes on behind a descriptor table, flags {flags:#x} (virtio 1.2 §2.7.5.3)")]
    IndirectChained {
        /// The descriptor's flags.
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
    /// An index of an AF_XDP ring went back, or further than there are entries.
    #[error(
        "kernel moved an index of the {ring} ring by {by} to {index}, it has {size} entries (af_xdp.rst)"
    )]
    XdpIndexJump {
        /// Which ring.
        ring: &'static str,
        /// The index.
        index: u32,
        /// How far it moved.
        by: u32,
        /// Entries of the ring.
        size: u32,
    },
    /// An AF_XDP ring returns an address that the kernel does not hold.
    #[error("kernel returned address {address:#x} in the {ring} ring, which it does not hold (af_xdp.rst)")]
    XdpAddressUnknown {
        /// Which ring.
        ring: &'static str,
        /// What it returned.
        address: u64,
    },
    /// A received frame does not lie in the chunk that it was written to.
    #[error("kernel says that a frame has {len} bytes at {offset} of a chunk of {chunk} (af_xdp.rst)")]
    XdpFrameOutside {
        /// Where in the chunk, in bytes.
        offset: u32,
        /// How long, in bytes.
        len: u32,
        /// Bytes of the chunk.
        chunk: u32,
    },
    /// The interface behind the queue was deleted.
    #[error("the interface is gone: it was deleted while it was open; create it again and start again")]
    InterfaceGone,
    /// The capture that frames come from makes no sense from here on.
    #[error("the capture is damaged at offset {offset}; what is before was received")]
    FileDamaged {
        /// Bytes from its start.
        offset: u64,
    },
    /// The device, or the process that was it, has gone; the port may be waiting for it.
    #[error("the device is gone")]
    DeviceGone,
    /// The system refuses what it took before.
    #[error("a system call on the queue failed: {}", std::io::Error::from_raw_os_error(*errno))]
    SystemCall {
        /// errno.
        errno: i32,
    },
}
