//! Time as the stack knows it, nanoseconds since a start that the caller chose; and the faster clock of a flow.

use std::num::NonZeroU32;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use smoltcp::time::Instant;

/// A point in time, in nanoseconds since some start. It comes from outside with every call, so that a run can be
/// repeated; it must not go backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start.
    pub const ZERO: Time = Time(0);
    /// Later than any other.
    pub const MAX: Time = Time(u64::MAX);

    /// `ns` nanoseconds after the start.
    pub const fn from_ns(ns: u64) -> Self {
        Time(ns)
    }

    /// `ms` milliseconds after the start.
    pub const fn from_ms(ms: u64) -> Self {
        Time(ms.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the start.
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; nothing if it is not.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The same point on smoltcp's clock, unscaled, in whole microseconds.
    pub fn instant(self) -> Instant {
        Instant::from_micros(i64::try_from(self.0 / 1000).unwrap_or(i64::MAX))
    }
}

/// A duration in nanoseconds, at most `u64::MAX` (584 years).
#[inline]
pub(crate) fn ns(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(ns(duration)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

/// A flow's clock: real time, `scale` times as fast, in smoltcp's microseconds. smoltcp's retransmission timeout is
/// never below one second of its clock (RFC 6298 §2.4), which is a long time inside a data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowClock {
    scale: u32,
    /// Real nanoseconds of one of its microseconds, if that is a whole number: spares a division for every frame.
    tick_ns: Option<NonZeroU32>,
}

impl FlowClock {
    pub fn new(scale: u32) -> Self {
        let scale = scale.max(1);
        let tick_ns = if 1000 % scale == 0 { NonZeroU32::new(1000 / scale) } else { None };
        FlowClock { scale, tick_ns }
    }

    /// Real to flow time.
    pub fn instant(self, now: Time) -> Instant {
        let scale = u64::from(self.scale);
        // In parts, as the product may not fit 64 bits.
        let micros = (now.0 / 1000).saturating_mul(scale) + now.0 % 1000 * scale / 1000;
        Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Flow to real time, rounded up: never before the instant has come.
    pub fn time(self, instant: Instant) -> Time {
        let (micros, scale) = (u64::try_from(instant.total_micros()).unwrap_or(0), u64::from(self.scale));
        if let Some(tick_ns) = self.tick_ns {
            return Time(micros.saturating_mul(u64::from(tick_ns.get())));
        }
        let rest = (micros % scale * 1000).div_ceil(scale);
        Time((micros / scale).saturating_mul(1000).saturating_add(rest))
    }

    /// A real duration as the flow's clock counts it.
    pub fn duration(self, real: Duration) -> smoltcp::time::Duration {
        let micros = real.as_micros() * u128::from(self.scale);
        smoltcp::time::Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_timer_is_never_early() {
        for scale in [1, 3, 5, 7, 100] {
            let clock = FlowClock::new(scale);
            for ns in [0, 1, 999, 1000, 123_456_789, 987_654_321_012] {
                let due = clock.instant(Time::from_ns(ns)) + clock.duration(Duration::from_millis(10));
                let real = clock.time(due);
                assert!(clock.instant(real) >= due, "scale {scale}, {ns} ns");
                assert!(real <= Time::from_ns(ns) + Duration::from_millis(10) + Duration::from_micros(1));
            }
        }
    }

    #[test]
    fn time_does_not_wrap() {
        assert_eq!(Time::MAX + Duration::from_secs(1), Time::MAX);
        assert_eq!(Time::ZERO - Time::MAX, Duration::ZERO);
    }
}
