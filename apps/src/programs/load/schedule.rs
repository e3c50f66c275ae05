//! Open loop: when each request is due, from the rate alone and not from any answer.
//!
//! Request `k` of a run is due at `start + k / rate`. The times of one connection's requests follow from its number and
//! theirs: nothing has to be remembered to know, when an answer comes, when its request should have been sent. That is
//! what keeps coordinated omission out: a request that had to wait for its turn has waited since then.

/// Nanoseconds in a second.
const SECOND_NS: u128 = 1_000_000_000;
/// Binary places of the distance between two requests: a division for each request would cost more than its checksum.
/// What they cut off adds up to a nanosecond in 2³² requests.
const PLACES: u32 = 32;

/// Times of the requests of one core, in nanoseconds of the stack's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When its first request is due.
    first_ns: u64,
    /// From one request of this core to its next, in nanoseconds with [`PLACES`] binary places.
    step: u128,
}

impl Schedule {
    /// A schedule of `rate` requests a second (at least 1) from `start_ns` on, of which core `core` of `cores` takes
    /// every `cores`-th.
    pub fn new(start_ns: u64, rate: u64, core: u16, cores: u16) -> Schedule {
        let of_all = (SECOND_NS << PLACES) / u128::from(rate.max(1));
        let offset = (of_all * u128::from(core)) >> PLACES;
        Schedule {
            first_ns: start_ns.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX)),
            step: of_all * u128::from(cores.max(1)),
        }
    }

    /// When this core's request number `k` is due; `k` below 2⁵⁶.
    #[inline]
    pub fn at_ns(&self, k: u64) -> u64 {
        let after = (u128::from(k) * self.step) >> PLACES;
        self.first_ns.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// How many of this core's requests are due by `now_ns`.
    pub fn due_by(&self, now_ns: u64) -> u64 {
        let Some(passed) = now_ns.checked_sub(self.first_ns) else { return 0 };
        // One more, as the first is due at once; one less again if rounding has put that past the time.
        let last = u64::try_from((u128::from(passed) << PLACES) / self.step.max(1)).unwrap_or(u64::MAX - 2);
        let last = if self.at_ns(last + 1) <= now_ns { last + 1 } else { last };
        last + 1
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
                assert!(one.at_ns(k).abs_diff(all.at_ns(3 * k + core)) <= 1);
            }
        }
    }

    proptest! {
        #[test]
        fn no_error_adds_up(rate in 1..20_000_000u64, seconds in 0..100_000u64) {
            let schedule = Schedule::new(0, rate, 0, 1);
            let requests = rate * seconds;
            prop_assert!(schedule.at_ns(requests).abs_diff(seconds * 1_000_000_000) <= 1 + (requests >> 32));
        }
    }

    #[test]
    fn what_is_due_is_what_has_come() {
        for rate in [1, 3, 7_000, 1_600_000] {
            let schedule = Schedule::new(500, rate, 1, 2);
            let mut due = 0;
            for now_ns in (0..3_000_000_000).step_by(1_000_003) {
                while schedule.at_ns(due) <= now_ns {
                    due += 1;
                }
                assert_eq!(schedule.due_by(now_ns), due, "{rate} a second after {now_ns} ns");
            }
        }
    }

    #[test]
    fn absurd_numbers_do_not_panic() {
        assert_eq!(Schedule::new(u64::MAX, 0, 5, 0).at_ns(1), u64::MAX);
        assert_eq!(Schedule::new(0, 1, 1023, 1024).at_ns((1 << 56) - 1), u64::MAX);
    }
}
