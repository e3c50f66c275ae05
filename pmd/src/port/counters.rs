//! What each queue pair counts.

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
    /// Frames that were with a device when it went; it may have sent some of them.
    tx_lost,
    /// Notifications sent to the other side.
    notifications,
    /// What stopped a queue: a lie of the other side, or its end.
    faults,
    /// Frames that a `netem:` port lost on purpose.
    netem_lost,
    /// Frames that it delivered twice.
    netem_duplicated,
    /// Frames in which it changed a bit.
    netem_corrupted,
    /// Frames that it held back for others to pass.
    netem_reordered,
}
