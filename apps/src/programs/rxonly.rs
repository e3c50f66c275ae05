//! `bywash rxonly`: receives, counts and frees; DPDK testpmd's `rxonly`.

use engine::{Burst, Cx, Program};
use pmd::Mbuf;

/// Frame sizes with FCS at which one bin of [`RxOnly`]'s counts ends and the next begins. RFC 2819 §3
/// (`etherStatsPkts65to127Octets` and so on).
const BIN_ENDS: [usize; 6] = [64, 127, 255, 511, 1023, 1518];

/// The bins' names.
const BINS: [&str; 7] = [
    "size_to_64",
    "size_65_to_127",
    "size_128_to_255",
    "size_256_to_511",
    "size_512_to_1023",
    "size_1024_to_1518",
    "size_above_1518",
];

/// The frame check sequence, which buffers do not have.
const FCS_BYTES: usize = 4;

/// Flags of `bywash rxonly`: none of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct RxOnlyArgs {}

/// What follows the flags in `bywash rxonly --help`.
pub const EXAMPLES: &str = "\
Frames are counted by port and by size (RFC 2819, with FCS), then freed.

Examples:
  Rates of what a NIC receives, every second until interrupted:
      bywash rxonly --port vfio:0000:00:03.0 -l 1 --stats-period 1
  How fast a vhost-user backend can send, as one JSON object:
      bywash rxonly --port vhost-user:/tmp/vu.sock --seconds 10 --json";

/// Counts received frames by size and frees them; rates and bytes are the ports' own counters.
#[derive(Debug, Default)]
pub struct RxOnly {
    bins: [u64; BINS.len()],
}

impl RxOnly {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The bin of a frame of `bytes` without FCS; no branch.
#[inline]
fn bin(bytes: usize) -> usize {
    BIN_ENDS.iter().map(|&end| usize::from(bytes + FCS_BYTES > end)).sum()
}

impl Program for RxOnly {
    fn receive(&mut self, _port: usize, burst: &mut Burst, _cx: &mut Cx<'_>) {
        for bytes in burst.iter().map(Mbuf::pkt_len) {
            self.bins[bin(bytes)] += 1;
        }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        for (name, count) in BINS.iter().zip(self.bins) {
            visit(name, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_bins_of_rfc_2819() {
        for (bytes, name) in [
            (0, "size_to_64"),
            (60, "size_to_64"),
            (61, "size_65_to_127"),
            (123, "size_65_to_127"),
            (124, "size_128_to_255"),
            (508, "size_512_to_1023"),
            (1020, "size_1024_to_1518"),
            (1514, "size_1024_to_1518"),
            (1515, "size_above_1518"),
            (65_535, "size_above_1518"),
        ] {
            assert_eq!(BINS[bin(bytes)], name, "{bytes} bytes");
        }
    }
}
