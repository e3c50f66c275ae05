//! Open loop: when each request is due, from the rate alone and not from any answer.
//!
//! Request `k` of a run is due at `start + k / rate`, rounded up to a nanosecond, so that no error adds up. The times of
//! one connection's requests follow from its number and theirs: nothing has to be remembered to know, when an answer
//! comes, when its request should have been sent. That is what keeps coordinated omission out: a request that had to
//! wait for its turn has waited since then.

/// Nanoseconds in a second.
const SECOND_NS: u128 = 1_000_000_000;

/// Times of the requests of one core, in nanoseconds of the stack's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    start_ns: u64,
    /// Requests a second of all cores together.
    rate: u64,
    /// Which of the cores this is, and how many there are: they take turns.
    core: u64,
    cores: u64,
}

impl Schedule {
    /// A schedule of `rate` requests a second (at least 1) from `start_ns` on, of which core `core` of `cores` takes
    /// every `cores`-th.
    pub fn new(start_ns: u64, rate: u64, core: u64, cores: u64) -> Schedule {
        Schedule { start_ns, rate: rate.max(1), core, cores: cores.max(1) }
    }

    /// When this core's request number `k` is due.
    #[inline]
    pub fn at_ns(&self, k: u64) -> u64 {
        let of_all = u128::from(k) * u128::from(self.cores) + u128::from(self.core);
        let after = (of_all * SECOND_NS).div_ceil(u128::from(self.rate));
        self.start_ns.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_due_at_even_distances_from_the_start() {
        let schedule = Schedule::new(1_000, 4, 0, 1);
        let times: Vec<u64> = (0..5).map(|k| schedule.at_ns(k)).collect();
        assert_eq!(times, [1_000, 250_001_000, 500_001_000, 750_001_000, 1_000_001_000]);
    }

    #[test]
    fn cores_take_turns() {
        let all = Schedule::new(7, 3_000_000, 0, 1);
        let each: Vec<Schedule> = (0..3).map(|core| Schedule::new(7, 3_000_000, core, 3)).collect();
        for k in 0..100 {
            for (core, one) in (0..).zip(&each) {
                assert_eq!(one.at_ns(k), all.at_ns(3 * k + core));
            }
        }
    }

    proptest! {
        #[test]
        fn no_error_adds_up(rate in 1..20_000_000u64, seconds in 0..100_000u64) {
            let schedule = Schedule::new(0, rate, 0, 1);
            prop_assert_eq!(schedule.at_ns(rate * seconds), seconds * 1_000_000_000);
            // The last request before a whole second is due before it, the first one of it not.
            prop_assert!(schedule.at_ns(rate * seconds + 1) > seconds * 1_000_000_000);
            if rate * seconds > 0 {
                prop_assert!(schedule.at_ns(rate * seconds - 1) < seconds * 1_000_000_000 || rate > 500_000_000);
            }
        }
    }

    #[test]
    fn absurd_numbers_are_never_due() {
        assert_eq!(Schedule::new(u64::MAX, 0, 5, 0).at_ns(u64::MAX), u64::MAX);
    }
}
