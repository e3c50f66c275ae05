//! Constants and memory layouts of virtio 1.2. No logic: to be compared with the specification line by line.

/// Device status bits. virtio 1.2 §2.1.
pub mod status {
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error from which only a reset recovers.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The driver has given up on the device.
    pub const FAILED: u8 = 128;
}

/// Feature bits, as masks. virtio 1.2 §5.1.3 (network device), §6 (reserved bits).
pub mod feature {
    /// The device takes packets with a partial checksum.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes packets with a partial checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device states its maximum MTU.
    pub const MTU: u64 = 1 << 3;
    /// The device states its MAC address.
    pub const MAC: u64 = 1 << 5;
    /// A received packet may span several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device states its link status.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control virtqueue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// Several queue pairs.
    pub const MQ: u64 = 1 << 22;
    /// vhost-user's own bit: protocol features can be negotiated (never shown to the driver).
    pub const VHOST_USER_PROTOCOL: u64 = 1 << 30;
    /// Compliance with virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device uses addresses that the platform (an IOMMU) translates.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// The packed virtqueue layout.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order in which they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
    /// Memory accesses are ordered as the platform orders those of hardware.
    pub const ORDER_PLATFORM: u64 = 1 << 36;

    const NAMES: [(u64, &str); 14] = [
        (CSUM, "CSUM"),
        (GUEST_CSUM, "GUEST_CSUM"),
        (MTU, "MTU"),
        (MAC, "MAC"),
        (MRG_RXBUF, "MRG_RXBUF"),
        (STATUS, "STATUS"),
        (CTRL_VQ, "CTRL_VQ"),
        (MQ, "MQ"),
        (VHOST_USER_PROTOCOL, "VHOST_USER_PROTOCOL"),
        (VERSION_1, "VERSION_1"),
        (ACCESS_PLATFORM, "ACCESS_PLATFORM"),
        (RING_PACKED, "RING_PACKED"),
        (IN_ORDER, "IN_ORDER"),
        (ORDER_PLATFORM, "ORDER_PLATFORM"),
    ];

    /// The names of the set bits, `VERSION_1|MAC`; those without a name here as `bit 56`.
    #[must_use]
    pub fn names(features: u64) -> String {
        let name = |bit: u32| {
            let mask = 1 << bit;
            NAMES
                .iter()
                .find(|(named, _)| *named == mask)
                .map_or(format!("bit {bit}"), |(_, name)| (*name).into())
        };
        let set: Vec<String> = (0..64).filter(|bit| features >> bit & 1 == 1).map(name).collect();
        if set.is_empty() { "none".into() } else { set.join("|") }
    }
}

/// The split virtqueue. virtio 1.2 §2.7.
pub mod split {
    /// A descriptor. virtio 1.2 §2.7.5.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(C, align(16))]
    pub struct Descriptor {
        /// Device address of the buffer.
        pub address: u64,
        /// Its length in bytes.
        pub len: u32,
        /// `DESC_F_*`.
        pub flags: u16,
        /// The next descriptor of the chain, if `DESC_F_NEXT`.
        pub next: u16,
    }
    const _: () = assert!(size_of::<Descriptor>() == 16);

    /// An element of the used ring. virtio 1.2 §2.7.8.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(C, align(4))]
    pub struct UsedElement {
        /// Head of the descriptor chain.
        pub id: u32,
        /// Bytes written to it.
        pub len: u32,
    }
    const _: () = assert!(size_of::<UsedElement>() == 8);

    /// The chain goes on at `next`.
    pub const DESC_F_NEXT: u16 = 1;
    /// The device writes the buffer (else it reads it).
    pub const DESC_F_WRITE: u16 = 2;
    /// The buffer holds a table of descriptors.
    pub const DESC_F_INDIRECT: u16 = 4;
    /// `avail.flags`: the driver wants no used buffer notifications.
    pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
    /// `used.flags`: the device wants no available buffer notifications.
    pub const USED_F_NO_NOTIFY: u16 = 1;
    /// Largest queue size.
    pub const MAX_SIZE: u16 = 32_768;

    /// Offsets in either ring: `flags`, `idx`, then the entries. virtio 1.2 §2.7.6, §2.7.8.
    pub const RING_IDX: usize = 2;
    /// First entry.
    pub const RING_ENTRIES: usize = 4;

    /// Bytes of the descriptor table.
    #[must_use]
    pub const fn descriptors_bytes(size: u16) -> usize {
        16 * size as usize
    }

    /// Bytes of the available ring, `used_event` included.
    #[must_use]
    pub const fn available_bytes(size: u16) -> usize {
        RING_ENTRIES + 2 * size as usize + 2
    }

    /// Bytes of the used ring, `avail_event` included.
    #[must_use]
    pub const fn used_bytes(size: u16) -> usize {
        RING_ENTRIES + 8 * size as usize + 2
    }
}

/// The network device. virtio 1.2 §5.1.
pub mod net {
    /// PCI subsystem and virtio device id.
    pub const DEVICE_ID: u16 = 1;

    /// Precedes every packet. virtio 1.2 §5.1.6.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(C)]
    pub struct Header {
        /// `HDR_F_*`.
        pub flags: u8,
        /// `GSO_*`.
        pub gso_type: u8,
        /// Bytes of headers in front of the segmented payload.
        pub hdr_len: u16,
        /// Payload bytes per segment.
        pub gso_size: u16,
        /// Start of the checksummed bytes.
        pub csum_start: u16,
        /// Where the checksum goes, from there.
        pub csum_offset: u16,
        /// Buffers the received packet spans; 0 on transmit.
        pub num_buffers: u16,
    }
    const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

    /// Size of [`Header`] with VERSION_1.
    pub const HEADER_BYTES: usize = 12;

    /// Offsets in the configuration space. virtio 1.2 §5.1.4.
    pub mod config {
        /// `mac`, 6 bytes.
        pub const MAC: usize = 0;
        /// `status`, 2 bytes.
        pub const STATUS: usize = 6;
        /// `mtu`, 2 bytes.
        pub const MTU: usize = 10;
    }

    /// `status`: the link is up.
    pub const STATUS_LINK_UP: u16 = 1;
    /// Least MTU a device may state. virtio 1.2 §5.1.4.1.
    pub const MIN_MTU: u16 = 68;

    /// Receive queue of queue pair `pair`. virtio 1.2 §5.1.2.
    #[must_use]
    pub const fn receive_queue(pair: u16) -> u16 {
        2 * pair
    }

    /// Transmit queue of queue pair `pair`.
    #[must_use]
    pub const fn transmit_queue(pair: u16) -> u16 {
        2 * pair + 1
    }
}

#[cfg(test)]
mod tests {
    use super::{feature, split};

    #[test]
    fn ring_sizes_are_those_of_the_specification() {
        // virtio 1.2 §2.7: 16*size, 6+2*size, 6+8*size bytes.
        for size in [1_u16, 8, 256, 32_768] {
            let wide = usize::from(size);
            assert_eq!(split::descriptors_bytes(size), 16 * wide);
            assert_eq!(split::available_bytes(size), 6 + 2 * wide);
            assert_eq!(split::used_bytes(size), 6 + 8 * wide);
        }
    }

    #[test]
    fn features_are_shown_by_name_or_bit() {
        assert_eq!(feature::names(feature::VERSION_1 | feature::MAC | 1 << 56), "MAC|VERSION_1|bit 56");
        assert_eq!(feature::names(0), "none");
    }
}
