//! What a port does with frames that the software above would otherwise have to do.

use crate::mem::{Mbuf, SegmentKind};
use crate::virtio::spec::feature;

/// What a port does itself. Everything off is a port that takes and gives complete frames only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// It sends frames whose [checksum is partial](crate::mem::PartialChecksum).
    pub tx_checksum: bool,
    /// It sends frames that stand for several segments of TCP over IPv4.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
    /// The same where one of the segments is marked with CWR (RFC 3168).
    pub tso_ecn: bool,
    /// Received frames may have a partial checksum, or one that was verified.
    pub rx_checksum: bool,
    /// Received frames may stand for several segments of TCP over IPv4.
    pub lro4: bool,
    /// The same over IPv6.
    pub lro6: bool,
}

impl Offloads {
    /// Everything.
    pub const ALL: Offloads = Offloads {
        tx_checksum: true,
        tso4: true,
        tso6: true,
        tso_ecn: true,
        rx_checksum: true,
        lro4: true,
        lro6: true,
    };

    /// Whether it has everything that `other` has.
    pub(crate) fn cover(self, other: Offloads) -> bool {
        let all = |o: Offloads| [o.tx_checksum, o.tso4, o.tso6, o.tso_ecn, o.rx_checksum, o.lro4, o.lro6];
        all(self).iter().zip(all(other)).all(|(have, need)| *have || !need)
    }

    /// The virtio features of a device that are about offloads. virtio 1.2 §5.1.3.
    pub(crate) const FEATURES: u64 = feature::CSUM
        | feature::GUEST_CSUM
        | feature::HOST_TSO4
        | feature::HOST_TSO6
        | feature::HOST_ECN
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::GUEST_ECN;

    /// `features` without those whose condition they lack: segmentation needs checksums, and ECN segmentation, commands a
    /// control queue (virtio 1.2 §5.1.3.1); and frames of 64 KiB need several receive buffers each (§5.1.6.3.1), as ours hold less.
    pub(crate) fn consistent(mut features: u64) -> u64 {
        for (bits, needs) in Self::CONDITIONS {
            if features & needs == 0 {
                features &= !bits;
            }
        }
        features
    }

    /// `features`, and what those about offloads among them need.
    pub(crate) fn implied(features: u64) -> u64 {
        let implied = |features: u64, (bits, needs): &(u64, u64)| {
            if features & bits != 0 && needs.is_power_of_two() { features | needs } else { features }
        };
        Self::CONDITIONS.iter().fold(features, implied)
    }

    /// These bits mean nothing without any of those. In an order in which one pass is enough.
    const CONDITIONS: [(u64, u64); 6] = [
        (feature::HOST_TSO4 | feature::HOST_TSO6, feature::CSUM),
        (feature::GUEST_TSO4 | feature::GUEST_TSO6, feature::GUEST_CSUM),
        (feature::GUEST_TSO4 | feature::GUEST_TSO6, feature::MRG_RXBUF),
        (feature::HOST_ECN, feature::HOST_TSO4 | feature::HOST_TSO6),
        (feature::GUEST_ECN, feature::GUEST_TSO4 | feature::GUEST_TSO6),
        (Self::BY_CONTROL_QUEUE, feature::CTRL_VQ),
    ];

    /// What is asked for through the control queue. MQ is not among them: a vhost-user backend is told by its socket.
    const BY_CONTROL_QUEUE: u64 = feature::CTRL_RX
        | feature::CTRL_RX_EXTRA
        | feature::CTRL_VLAN
        | feature::CTRL_MAC_ADDR
        | feature::GUEST_ANNOUNCE
        | feature::RSS
        | feature::HASH_REPORT;

    /// What a driver has that negotiated these virtio features.
    pub(crate) fn of_driver(features: u64) -> Offloads {
        let has = |bit| features & bit != 0;
        Offloads {
            tx_checksum: has(feature::CSUM),
            tso4: has(feature::HOST_TSO4),
            tso6: has(feature::HOST_TSO6),
            tso_ecn: has(feature::HOST_ECN),
            rx_checksum: has(feature::GUEST_CSUM),
            lro4: has(feature::GUEST_TSO4),
            lro6: has(feature::GUEST_TSO6),
        }
    }

    /// What a device has whose driver negotiated these.
    pub(crate) fn of_device(features: u64) -> Offloads {
        let has = |bit| features & bit != 0;
        Offloads {
            tx_checksum: has(feature::GUEST_CSUM),
            tso4: has(feature::GUEST_TSO4),
            tso6: has(feature::GUEST_TSO6),
            tso_ecn: has(feature::GUEST_ECN),
            rx_checksum: has(feature::CSUM),
            lro4: has(feature::HOST_TSO4),
            lro6: has(feature::HOST_TSO6),
        }
    }

    /// Whether the port segments this frame itself, or need not.
    #[inline]
    #[must_use]
    pub fn can_segment(self, frame: &Mbuf) -> bool {
        let Some(by) = frame.offload().segmentation() else { return true };
        let kind = match by.kind {
            SegmentKind::Tcp4 => self.tso4,
            SegmentKind::Tcp6 => self.tso6,
        };
        // A device is told of segments by a header that has to say where their checksum goes.
        kind && (self.tso_ecn || !by.ecn) && frame.offload().partial_checksum().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_without_their_condition_are_left_out() {
        let all = Offloads::FEATURES | feature::MRG_RXBUF;
        assert_eq!(Offloads::consistent(all), all);
        assert_eq!(Offloads::consistent(all & !feature::CSUM & !feature::GUEST_CSUM), feature::MRG_RXBUF);
        let without_lro = feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_ECN;
        assert_eq!(Offloads::consistent(Offloads::FEATURES), Offloads::FEATURES & !without_lro);
        let v6 = feature::CSUM | feature::HOST_TSO6 | feature::HOST_ECN | feature::GUEST_ECN;
        assert_eq!(Offloads::consistent(v6), v6 & !feature::GUEST_ECN);
        assert_eq!(Offloads::consistent(feature::MAC | feature::HOST_TSO4), feature::MAC);
        let implied = feature::GUEST_TSO6 | feature::GUEST_CSUM | feature::MRG_RXBUF;
        assert_eq!(Offloads::implied(feature::GUEST_TSO6), implied);
        assert_eq!(Offloads::implied(feature::MAC), feature::MAC);
    }

    #[test]
    fn the_two_sides_of_a_device_see_the_same_features_from_two_sides() {
        let features = feature::CSUM | feature::HOST_TSO4 | feature::GUEST_CSUM | feature::GUEST_TSO6;
        let (driver, device) = (Offloads::of_driver(features), Offloads::of_device(features));
        assert!(driver.tx_checksum && driver.tso4 && !driver.tso6 && driver.rx_checksum && driver.lro6);
        assert!(device.tx_checksum && !device.tso4 && device.tso6 && device.lro4 && !device.lro6);
        assert_eq!(Offloads::of_device(0), Offloads::default());
    }
}
