//! When to send: so many units a second, exactly on the average, from the TSC alone.
//!
//! A unit is a frame (`--rate`) or a bit on the wire (`--line-rate`). Time earns credit, frames spend it. Credit
//! is kept in units × ticks, so nothing is ever rounded and no error adds up. What is earned while nothing can
//! be sent (a full ring, a core taken away by the kernel) is kept for [`CATCH_UP_MS`] of time and then
//! forfeited: after a pause the generator catches up a little, and never floods.

/// The longest time whose frames are caught up with after a pause, in milliseconds.
pub const CATCH_UP_MS: u64 = 20;

/// Bytes a frame occupies on an Ethernet wire besides itself: preamble and start delimiter 8, FCS 4, smallest
/// gap 12. IEEE 802.3.
pub const WIRE_OVERHEAD_BYTES: u64 = 24;

/// How fast to send on each port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the port takes them.
    Unlimited,
    /// Frames a second.
    Frames(u64),
    /// Bits a second on an Ethernet wire: each frame counts with [`WIRE_OVERHEAD_BYTES`].
    WireBits(u64),
}

impl Rate {
    /// What a frame of `frame_bytes` (without FCS) costs, in units.
    #[inline]
    pub fn cost(self, frame_bytes: usize) -> u64 {
        match self {
            Rate::Unlimited => 0,
            Rate::Frames(_) => 1,
            Rate::WireBits(_) => (frame_bytes as u64 + WIRE_OVERHEAD_BYTES) * 8,
        }
    }

    fn units_per_second(self) -> u64 {
        match self {
            Rate::Unlimited => 0,
            Rate::Frames(rate) | Rate::WireBits(rate) => rate,
        }
    }
}

/// One port's credit.
#[derive(Clone, Debug)]
pub struct Pacer {
    units_per_second: u64,
    ticks_per_second: u64,
    /// Units × ticks per second: a unit costs `ticks_per_second`, a tick earns `units_per_second`.
    credit: u128,
    most_credit: u128,
    forfeited: u128,
    /// When it last earned; `None` before the clock started.
    last: Option<u64>,
}

impl Pacer {
    /// A clock of `ticks_per_second` that starts with the first call of [`earn`](Self::earn). `dearest_units` is
    /// the cost of the dearest frame: that much can be saved up besides, however slow the rate.
    pub fn new(rate: Rate, dearest_units: u64, ticks_per_second: u64) -> Self {
        let units_per_second = rate.units_per_second();
        let caught_up =
            u128::from(ticks_per_second) * u128::from(CATCH_UP_MS) / 1000 * u128::from(units_per_second);
        let most_credit = caught_up + u128::from(dearest_units) * u128::from(ticks_per_second);
        Self { units_per_second, ticks_per_second, credit: 0, most_credit, forfeited: 0, last: None }
    }

    /// Earns for the time since the last call. A clock that steps back earns nothing.
    #[inline]
    pub fn earn(&mut self, now: u64) {
        let last = self.last.unwrap_or(now);
        self.last = Some(last.max(now));
        self.credit += u128::from(now.saturating_sub(last)) * u128::from(self.units_per_second);
        if self.credit > self.most_credit {
            self.forfeited += self.credit - self.most_credit;
            self.credit = self.most_credit;
        }
    }

    /// Pays for a frame of `units`; false, and nothing paid, if there is not enough. Free frames always pass.
    #[inline]
    pub fn pay(&mut self, units: u64) -> bool {
        let price = u128::from(units) * u128::from(self.ticks_per_second);
        let can = price <= self.credit;
        if can {
            self.credit -= price;
        }
        can
    }

    /// When there will be enough for a frame of `units`, if nothing else is paid: in the past if there is already, or if
    /// the clock has not started.
    pub fn due_at(&self, units: u64) -> u64 {
        let price = u128::from(units) * u128::from(self.ticks_per_second);
        let missing = price.saturating_sub(self.credit);
        let ticks = missing.div_ceil(u128::from(self.units_per_second.max(1)));
        self.last.map_or(0, |last| last.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX)))
    }

    /// Gives back what a frame of `units` cost that could not be sent after all.
    pub fn refund(&mut self, units: u64) {
        self.credit += u128::from(units) * u128::from(self.ticks_per_second);
    }

    /// Units that were due and never sent, because the port or the core was not there for more than
    /// [`CATCH_UP_MS`].
    pub fn forfeited_units(&self) -> u64 {
        u64::try_from(self.forfeited / u128::from(self.ticks_per_second.max(1))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HZ: u64 = 2_100_000_000;

    #[test]
    fn a_frame_is_due_when_it_can_be_paid_and_not_a_tick_before() {
        let mut pacer = Pacer::new(Rate::Frames(1_000_000), 1, HZ);
        assert_eq!(pacer.due_at(1), 0, "the clock has not started");
        pacer.earn(5_000);
        assert_eq!(pacer.due_at(1), 5_000 + HZ / 1_000_000);
        pacer.earn(pacer.due_at(1) - 1);
        assert!(!pacer.pay(1));
        pacer.earn(pacer.due_at(1));
        assert!(pacer.due_at(1) <= 5_000 + HZ / 1_000_000 && pacer.pay(1));
        assert_eq!(Pacer::new(Rate::Unlimited, 0, HZ).due_at(0), 0);
    }

    /// Runs a fake clock over `seconds` in steps of `step(i)` ticks; returns the frames sent.
    fn run(rate: Rate, frame_bytes: usize, ticks: u64, mut step: impl FnMut() -> u64) -> (u64, Pacer) {
        let cost = rate.cost(frame_bytes);
        let (mut now, end) = (1 << 40, (1 << 40) + ticks);
        let mut pacer = Pacer::new(rate, cost, HZ);
        pacer.earn(now);
        let mut sent = 0;
        while now < end {
            now = (now + step()).min(end);
            pacer.earn(now);
            while pacer.pay(cost) {
                sent += 1;
            }
        }
        (sent, pacer)
    }

    proptest! {
        #[test]
        fn sends_the_exact_number_whatever_the_turns_take(
            rate in prop_oneof![1..100u64, 1_000..50_000u64, 1_000_000..3_000_000u64],
            longest in 100..20 * HZ / 1000,
        ) {
            let mut seed = longest;
            let (sent, pacer) = run(Rate::Frames(rate), 60, HZ, || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Not so short that a test takes minutes.
                (seed >> 33) % longest + 20_000
            });
            prop_assert_eq!(pacer.forfeited_units(), 0);
            prop_assert_eq!(sent, rate);
        }
    }

    #[test]
    fn ten_gigabit_of_smallest_frames_is_14_88_mpps() {
        let (sent, _) = run(Rate::WireBits(10_000_000_000), 60, HZ / 10, || 5_000);
        assert_eq!(sent, 1_488_095);
    }

    #[test]
    fn ten_gigabit_of_largest_frames_is_812_743_pps() {
        let (sent, _) = run(Rate::WireBits(10_000_000_000), 1514, HZ, || 5_000);
        assert_eq!(sent, 812_743);
    }

    #[test]
    fn after_a_pause_at_most_the_catch_up_time_is_sent_at_once() {
        let mut pacer = Pacer::new(Rate::Frames(1_000_000), 1, HZ);
        pacer.earn(0);
        pacer.earn(3 * HZ);
        let sent = (0..).take_while(|_| pacer.pay(1)).count();
        assert_eq!(sent as u64, 1_000 * CATCH_UP_MS + 1);
        assert_eq!(pacer.forfeited_units(), 3_000_000 - 1_000 * CATCH_UP_MS - 1);
    }

    #[test]
    fn one_frame_a_second_is_sent_although_it_takes_longer_than_the_catch_up_time() {
        let (sent, pacer) = run(Rate::Frames(1), 60, 10 * HZ, || HZ / 1000);
        assert_eq!((sent, pacer.forfeited_units()), (10, 0));
    }

    #[test]
    fn a_clock_that_steps_back_earns_nothing() {
        let mut pacer = Pacer::new(Rate::Frames(1_000), 1, HZ);
        pacer.earn(HZ);
        pacer.earn(0);
        assert!(!pacer.pay(1));
        pacer.earn(HZ + HZ / 1000);
        assert!(pacer.pay(1) && !pacer.pay(1));
    }

    #[test]
    fn unlimited_frames_are_free() {
        let mut pacer = Pacer::new(Rate::Unlimited, 0, HZ);
        assert!((0..1_000).all(|_| pacer.pay(Rate::Unlimited.cost(60))));
    }
}
