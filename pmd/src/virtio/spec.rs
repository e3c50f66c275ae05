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
    macro_rules! features {
        ($($(#[$doc:meta])* $name:ident = $bit:literal),+ $(,)?) => {
            $($(#[$doc])* pub const $name: u64 = 1 << $bit;)+
            const NAMES: &[(u64, &str)] = &[$(($name, stringify!($name))),+];
        };
    }

    features! {
        /// The device takes packets with a partial checksum.
        CSUM = 0,
        /// The driver takes packets with a partial checksum.
        GUEST_CSUM = 1,
        /// The driver may switch its receive offloads while it runs.
        CTRL_GUEST_OFFLOADS = 2,
        /// The device states its maximum MTU.
        MTU = 3,
        /// The device states its MAC address.
        MAC = 5,
        /// The driver takes TCP segments over IPv4 that were joined.
        GUEST_TSO4 = 7,
        /// The same over IPv6.
        GUEST_TSO6 = 8,
        /// The same with explicit congestion notification.
        GUEST_ECN = 9,
        /// The driver takes UDP datagrams larger than the MTU.
        GUEST_UFO = 10,
        /// The device segments TCP over IPv4.
        HOST_TSO4 = 11,
        /// The same over IPv6.
        HOST_TSO6 = 12,
        /// The same with explicit congestion notification.
        HOST_ECN = 13,
        /// The device fragments UDP datagrams.
        HOST_UFO = 14,
        /// A received packet may span several buffers.
        MRG_RXBUF = 15,
        /// The device states its link status.
        STATUS = 16,
        /// There is a control virtqueue.
        CTRL_VQ = 17,
        /// It sets which packets are received: promiscuous, all multicast, MAC table.
        CTRL_RX = 18,
        /// It filters by VLAN.
        CTRL_VLAN = 19,
        /// It sets more of what is received: all unicast, no broadcast and the like.
        CTRL_RX_EXTRA = 20,
        /// The device asks the driver to announce itself.
        GUEST_ANNOUNCE = 21,
        /// Several queue pairs.
        MQ = 22,
        /// The control queue sets the MAC address.
        CTRL_MAC_ADDR = 23,
        /// A descriptor may refer to a table of descriptors.
        INDIRECT_DESC = 28,
        /// Each side says at which index it wants the next notification.
        EVENT_IDX = 29,
        /// vhost-user's own bit: protocol features can be negotiated (never shown to the driver).
        VHOST_USER_PROTOCOL = 30,
        /// Compliance with virtio 1.0 or later.
        VERSION_1 = 32,
        /// The device uses addresses that the platform (an IOMMU) translates.
        ACCESS_PLATFORM = 33,
        /// The packed virtqueue layout.
        RING_PACKED = 34,
        /// Buffers are used in the order in which they were made available.
        IN_ORDER = 35,
        /// Memory accesses are ordered as the platform orders those of hardware.
        ORDER_PLATFORM = 36,
        /// Virtual functions.
        SR_IOV = 37,
        /// A notification says how far the driver has come.
        NOTIFICATION_DATA = 38,
        /// A notification carries what the device has stated for it.
        NOTIF_CONFIG_DATA = 39,
        /// A single virtqueue can be reset.
        RING_RESET = 40,
        /// The control queue moderates notifications.
        NOTF_COAL = 53,
        /// The driver takes UDP datagrams over IPv4 that were joined.
        GUEST_USO4 = 54,
        /// The same over IPv6.
        GUEST_USO6 = 55,
        /// The device segments UDP.
        HOST_USO = 56,
        /// Each received packet comes with its hash.
        HASH_REPORT = 57,
        /// The driver's `hdr_len` is exact.
        GUEST_HDRLEN = 59,
        /// Receive-side scaling: the device deals packets to queues by their hash.
        RSS = 60,
        /// Coalesced segments are counted in the header.
        RSC_EXT = 61,
        /// The device stands by for another with the same MAC address.
        STANDBY = 62,
        /// The device states its speed and duplex mode.
        SPEED_DUPLEX = 63,
    }

    /// Bits that are not a matter of choice: without the first nothing works, the others belong to the transport.
    const FIXED: u64 = VERSION_1 | ACCESS_PLATFORM | VHOST_USER_PROTOCOL;

    /// The bit that an option of a port string names: its name in lower case, or what DPDK and QEMU call it where that
    /// is something else. `None` if there is none, or none to choose.
    #[must_use]
    pub fn by_option(name: &str) -> Option<u64> {
        let name = match name {
            "packed_vq" | "packed" => "ring_packed",
            "hash" => "hash_report",
            name => name,
        };
        let found = NAMES.iter().find(|(_, named)| named.to_ascii_lowercase() == name);
        found.map(|(bit, _)| *bit).filter(|bit| bit & FIXED == 0)
    }

    /// The names of the set bits, `VERSION_1|MAC`; those without a name here as `bit 50`.
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

/// The packed virtqueue. virtio 1.2 §2.8.
pub mod packed {
    pub use super::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

    /// A descriptor, available or used. virtio 1.2 §2.8.13.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(C, align(16))]
    pub struct Descriptor {
        /// Device address of the buffer; means nothing in a used one.
        pub address: u64,
        /// Its length in bytes; in a used one, the bytes written.
        pub len: u32,
        /// Buffer id: of the whole chain, stated in its last descriptor.
        pub id: u16,
        /// `DESC_F_*`.
        pub flags: u16,
    }
    const _: () = assert!(size_of::<Descriptor>() == 16);

    /// Equal to the driver's wrap counter when the descriptor was made available. virtio 1.2 §2.8.1.
    pub const DESC_F_AVAIL: u16 = 1 << 7;
    /// Equal to [`DESC_F_AVAIL`] once used, its inverse while available.
    pub const DESC_F_USED: u16 = 1 << 15;

    /// Bytes of an event suppression structure: `off_wrap`, then `flags`, both 16 bits. virtio 1.2 §2.8.14.
    pub const EVENT_BYTES: usize = 4;
    /// `flags`: every event is wanted.
    pub const EVENT_F_ENABLE: u16 = 0;
    /// `flags`: none is wanted.
    pub const EVENT_F_DISABLE: u16 = 1;
    /// `flags`: the event of the descriptor at `off_wrap` is wanted (`EVENT_IDX`).
    pub const EVENT_F_DESC: u16 = 2;
    /// `off_wrap`: the wrap counter, above the descriptor's position.
    pub const EVENT_WRAP: u16 = 1 << 15;

    /// Largest queue size; it need not be a power of two.
    pub const MAX_SIZE: u16 = 32_768;

    /// Bytes of the descriptor ring.
    #[must_use]
    pub const fn descriptors_bytes(size: u16) -> usize {
        16 * size as usize
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

    /// `flags`: the checksum is partial, to be completed from `csum_start` on.
    pub const HDR_F_NEEDS_CSUM: u8 = 1;
    /// `flags`: the device has verified the checksum.
    pub const HDR_F_DATA_VALID: u8 = 2;
    /// `gso_type`: the packet is one as it is.
    pub const GSO_NONE: u8 = 0;
    /// `gso_type`: segments of TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// `gso_type`: segments of TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// `gso_type`, in addition: a segment is marked with CWR.
    pub const GSO_ECN: u8 = 0x80;

    /// Size of [`Header`] with VERSION_1.
    pub const HEADER_BYTES: usize = 12;
    /// The same with HASH_REPORT: `hash_value` (4 bytes), `hash_report` (2) and padding (2) follow. On transmit all zero.
    /// virtio 1.2 §5.1.6.
    pub const HASHED_HEADER_BYTES: usize = 20;

    /// Offsets in the configuration space. virtio 1.2 §5.1.4.
    pub mod config {
        /// `mac`, 6 bytes.
        pub const MAC: usize = 0;
        /// `status`, 2 bytes.
        pub const STATUS: usize = 6;
        /// `max_virtqueue_pairs`, 2 bytes.
        pub const MAX_VIRTQUEUE_PAIRS: usize = 8;
        /// `mtu`, 2 bytes.
        pub const MTU: usize = 10;
        /// `speed` in Mbit/s, 4 bytes.
        pub const SPEED: usize = 12;
        /// `duplex`, 1 byte.
        pub const DUPLEX: usize = 16;
        /// `rss_max_key_size`, 1 byte.
        pub const RSS_MAX_KEY_SIZE: usize = 17;
        /// `rss_max_indirection_table_length`, 2 bytes.
        pub const RSS_MAX_TABLE_LENGTH: usize = 18;
        /// `supported_hash_types`, 4 bytes.
        pub const SUPPORTED_HASH_TYPES: usize = 20;
        /// Bytes of all of it.
        pub const BYTES: usize = 24;
    }

    /// The control queue. virtio 1.2 §5.1.6.5.
    pub mod control {
        /// `ack`: done.
        pub const OK: u8 = 0;
        /// `ack`: not done.
        pub const ERR: u8 = 1;
        /// Class: modes of receiving; the command is the mode.
        pub const RX: u8 = 0;
        /// Class: MAC addresses.
        pub const MAC: u8 = 1;
        /// The tables of addresses that are received.
        pub const MAC_TABLE_SET: u8 = 0;
        /// The device's address.
        pub const MAC_ADDR_SET: u8 = 1;
        /// Class: VLAN filter.
        pub const VLAN: u8 = 2;
        /// Lets one in.
        pub const VLAN_ADD: u8 = 0;
        /// Lets it in no longer.
        pub const VLAN_DEL: u8 = 1;
        /// The highest VLAN.
        pub const MAX_VLAN: u16 = 4095;
        /// Class: announcements.
        pub const ANNOUNCE: u8 = 3;
        /// The announcement was made.
        pub const ANNOUNCE_ACK: u8 = 0;
        /// Class: several queue pairs.
        pub const MQ: u8 = 4;
        /// So many are in use.
        pub const MQ_VQ_PAIRS_SET: u8 = 0;
        /// They are dealt to by key and table.
        pub const MQ_RSS_CONFIG: u8 = 1;
        /// The hash that is reported.
        pub const MQ_HASH_CONFIG: u8 = 2;
    }

    /// `status`: the link is up.
    pub const STATUS_LINK_UP: u16 = 1;
    /// `status`: the driver is to announce itself.
    pub const STATUS_ANNOUNCE: u16 = 2;
    /// `speed`: not known.
    pub const SPEED_UNKNOWN: u32 = u32::MAX;
    /// `duplex`: full.
    pub const DUPLEX_FULL: u8 = 1;
    /// `duplex`: not known.
    pub const DUPLEX_UNKNOWN: u8 = 0xff;
    /// The most queue pairs. virtio 1.2 §5.1.4.1.
    pub const MAX_PAIRS: u16 = 0x8000;
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
        assert_eq!(feature::names(feature::VERSION_1 | feature::MAC | 1 << 50), "MAC|VERSION_1|bit 50");
        assert_eq!(feature::names(0), "none");
    }
}
