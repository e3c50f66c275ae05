//! Latency histograms: a few named HdrHistograms per core, written by the loop, handed out whole.
//!
//! All of them have one shape: values in nanoseconds, 1 ns to 60 s, three significant decimal digits. A histogram is
//! 216 KiB, of which a run touches a few cache lines; every page is touched once at construction, so that the loop
//! meets no page fault and no allocation.

use hdrhistogram::Histogram;

/// The smallest value recorded; what took less counts as this.
pub const LOWEST_NS: u64 = 1;
/// The largest value recorded; what took longer counts as this.
pub const HIGHEST_NS: u64 = 60_000_000_000;
/// Significant decimal digits kept of each value.
pub const DIGITS: u8 = 3;

/// From `rx_burst` to `tx_burst`, of every frame.
pub const RESIDENCE: &str = "residence";
/// One pass of the loop that moved something.
pub const TURN: &str = "turn";
/// From a generator's send stamp to its return.
pub const ROUND_TRIP: &str = "round_trip";
/// From the first packet of a TCP handshake to its end, as the side that connects sees it.
pub const CONNECT: &str = "connect";

/// An empty histogram of the shape all latencies have. Allocates; touches all its pages.
///
/// # Panics
/// Never: the bounds are constants that the crate accepts (tested).
#[must_use]
pub fn histogram() -> Histogram<u64> {
    let mut histogram =
        Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS).expect("constant bounds are valid");
    // The zeros came from the kernel as pages not yet there; writing them now keeps the faults out of the loop.
    histogram.reset();
    histogram
}

/// The histograms of one core, each under a name, addressed by slot.
#[derive(Clone)]
pub struct Latencies {
    names: Vec<&'static str>,
    histograms: Vec<Histogram<u64>>,
}

/// Names and numbers of values: the tens of thousands of counts behind them help nobody.
impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, histogram)| (name, histogram.len()))).finish()
    }
}

impl Latencies {
    /// One histogram for each name; its slot is the name's place in the list. A name may stand there twice, for two
    /// programs on one core: [`merge`](Self::merge) brings them together when they are read. Allocates everything that
    /// recording will ever need.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Latencies {
        Latencies { names: names.to_vec(), histograms: names.iter().map(|_| histogram()).collect() }
    }

    /// The first slot of `name`.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|have| *have == name)
    }

    /// Records `count` values of `ns` nanoseconds, clamped to 1 ns–60 s. Never blocks or allocates; about 4 ns.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    pub fn record(&mut self, slot: usize, ns: u64, count: u64) {
        self.histograms[slot].saturating_record_n(ns.clamp(LOWEST_NS, HIGHEST_NS), count);
    }

    /// Names and histograms, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        self.names.iter().copied().zip(&self.histograms)
    }

    /// The first histogram under `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Histogram<u64>> {
        self.slot(name).map(|slot| &self.histograms[slot])
    }

    /// Adds everything `other` recorded, by name; names not yet here are taken over. Not for the loop: it walks
    /// the counts, and may allocate.
    pub fn merge(&mut self, other: &Latencies) {
        for (name, theirs) in other.iter() {
            let slot = self.slot(name).unwrap_or_else(|| {
                self.names.push(name);
                self.histograms.push(histogram());
                self.names.len() - 1
            });
            if !theirs.is_empty() {
                self.histograms[slot].add(theirs).expect("all latencies have one shape");
            }
        }
    }

    /// Forgets all values, keeps names and memory. Not for the loop: it writes 216 KiB per name.
    pub fn clear(&mut self) {
        self.histograms.iter_mut().filter(|histogram| !histogram.is_empty()).for_each(Histogram::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_three_digits_from_a_nanosecond_to_a_minute() {
        let mut latencies = Latencies::new(&[RESIDENCE]);
        for ns in [1, 7, 999, 12_345, 6_789_012, HIGHEST_NS] {
            latencies.record(0, ns, 1);
            let max = latencies.get(RESIDENCE).unwrap().max();
            assert!(max >= ns && max - ns <= ns / 1000, "{ns} was kept as {max}");
        }
    }

    #[test]
    fn values_out_of_range_are_clamped_and_counted() {
        let mut latencies = Latencies::new(&[TURN]);
        latencies.record(0, 0, 3);
        latencies.record(0, u64::MAX, 2);
        let histogram = latencies.get(TURN).unwrap();
        assert_eq!(histogram.len(), 5);
        assert_eq!(histogram.min(), LOWEST_NS);
        assert!(histogram.equivalent(histogram.max(), HIGHEST_NS));
    }

    #[test]
    fn equal_names_have_slots_of_their_own_and_are_one_name_to_a_reader() {
        let mut latencies = Latencies::new(&[TURN, ROUND_TRIP, ROUND_TRIP]);
        latencies.record(1, 100, 1);
        latencies.record(2, 200, 2);
        assert_eq!(latencies.slot(ROUND_TRIP), Some(1));
        assert_eq!(latencies.slot(RESIDENCE), None);
        let mut read = Latencies::new(&[]);
        read.merge(&latencies);
        assert_eq!(
            read.iter().map(|(name, histogram)| (name, histogram.len())).collect::<Vec<_>>(),
            [(TURN, 0), (ROUND_TRIP, 3)]
        );
    }

    #[test]
    fn merging_adds_by_name_whatever_the_order() {
        let mut a = Latencies::new(&[TURN]);
        let mut b = Latencies::new(&[RESIDENCE, TURN]);
        a.record(0, 100, 1);
        b.record(0, 200, 2);
        b.record(1, 300, 4);
        a.merge(&b);
        assert_eq!(a.get(TURN).unwrap().len(), 5);
        assert_eq!(a.get(RESIDENCE).unwrap().len(), 2);
        b.clear();
        assert!(b.iter().all(|(_, histogram)| histogram.is_empty() && histogram.max() == 0));
    }
}
