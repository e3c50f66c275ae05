//! What a device states of itself: its configuration space, and where its control queue is. virtio 1.2 §5.1.2, §5.1.4.

use crate::virtio::rss::{KEY_BYTES, MAX_TABLE, hash_type};
use crate::virtio::spec::{feature, net};

/// Features that stand for a field of the configuration space.
pub(crate) const FIELDS: u64 = feature::MAC
    | feature::STATUS
    | feature::MTU
    | feature::SPEED_DUPLEX
    | feature::RSS
    | feature::HASH_REPORT;

/// What can be asked of a device by its control queue.
pub(crate) const CONTROL: u64 = feature::CTRL_VQ
    | feature::CTRL_RX
    | feature::CTRL_RX_EXTRA
    | feature::CTRL_VLAN
    | feature::CTRL_MAC_ADDR;

/// What takes several queue pairs; the latter a control queue as well.
pub(crate) const SEVERAL: u64 = feature::MQ | feature::RSS;

/// The MTU that a device states.
pub(crate) const MTU: u16 = 1500;

/// The configuration space of a device with so many queue pairs, in this state. There is no wire, so no speed is known.
pub(crate) fn config_space(pairs: u16, status: u16) -> [u8; net::config::BYTES] {
    let mut space = [0; net::config::BYTES];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(net::config::STATUS, &status.to_le_bytes());
    put(net::config::MAX_VIRTQUEUE_PAIRS, &pairs.to_le_bytes());
    put(net::config::MTU, &MTU.to_le_bytes());
    put(net::config::SPEED, &net::SPEED_UNKNOWN.to_le_bytes());
    put(net::config::DUPLEX, &[net::DUPLEX_FULL]);
    #[allow(clippy::cast_possible_truncation)] // 40 and 128
    let (key_bytes, table) = (KEY_BYTES as u8, MAX_TABLE as u16);
    put(net::config::RSS_MAX_KEY_SIZE, &[key_bytes]);
    put(net::config::RSS_MAX_TABLE_LENGTH, &table.to_le_bytes());
    put(net::config::SUPPORTED_HASH_TYPES, &hash_type::SUPPORTED.to_le_bytes());
    space
}

/// The number of the control queue, if the negotiated `features` have one: behind all pairs of the device, or behind the
/// first if the driver knows of no more.
pub(crate) fn control_queue(features: u64, pairs: u16) -> Option<u16> {
    let pairs = if features & SEVERAL != 0 { pairs } else { 1 };
    (features & feature::CTRL_VQ != 0).then(|| net::receive_queue(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_where_the_specification_has_it() {
        let space = config_space(3, net::STATUS_LINK_UP | net::STATUS_ANNOUNCE);
        let expected =
            [&[0; 6][..], &[3, 0], &[3, 0], &[0xdc, 5], &[0xff; 4], &[1], &[40], &[128, 0], &[0x3f, 0, 0, 0]];
        assert_eq!(space[..], expected.concat());
    }

    #[test]
    fn the_control_queue_is_behind_the_pairs_that_the_driver_knows_of() {
        assert_eq!(control_queue(feature::CTRL_VQ, 4), Some(2));
        assert_eq!(control_queue(feature::CTRL_VQ | feature::MQ, 4), Some(8));
        assert_eq!(control_queue(feature::CTRL_VQ | feature::RSS, 4), Some(8));
        assert_eq!(control_queue(feature::MQ, 4), None);
    }
}
