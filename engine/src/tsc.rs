//! The processor's time-stamp counter: what the loop reads once per turn, and its scale to nanoseconds.
//!
//! A tick count means nothing by itself: [`Tsc::calibrate`] measures the counter once, at start, against
//! `CLOCK_MONOTONIC_RAW` (the clock that NTP does not slew), and from then on ticks become nanoseconds with one
//! multiplication and one shift. Counters of different cores may differ by a few ticks, so differences saturate
//! at zero.

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::fmt;
use std::thread;
use std::time::Duration;

/// How long each half of a calibration sleeps; two halves make about 50 ms.
const HALF: Duration = Duration::from_millis(25);

/// Readings of which the tightest is taken. One reading costs about 50 ns; an interrupt spoils one, not sixteen.
const TRIES: usize = 16;

/// Fraction bits of the two multipliers. With 32 of them a scale near 1 keeps a relative error below 10⁻⁹.
const SHIFT: u32 = 32;

/// How far the two halves of a calibration may differ before [`TscWarning::Unsteady`] is given.
const STEADY_PPM: u64 = 500;

/// A reading of the time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Ticks from `earlier` to `self`; 0 when `earlier` is later (another core's counter may be a little ahead).
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Ticks) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ticks` after this one.
    #[inline]
    #[must_use]
    pub const fn after(self, ticks: u64) -> Ticks {
        Ticks(self.0.saturating_add(ticks))
    }
}

/// A reason to distrust times taken from the counter. Shown to the user; nothing stops because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TscWarning {
    /// CPUID does not promise a constant rate (leaf 0x8000_0007, EDX bit 8 is clear).
    NotInvariant,
    /// The two halves of the calibration gave rates this many parts per million apart.
    Unsteady {
        /// Difference of the two rates, in millionths of the lower one.
        parts_per_million: u64,
    },
}

impl fmt::Display for TscWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TscWarning::NotInvariant => f.write_str(
                "the time-stamp counter is not invariant (CPUID 0x80000007 EDX bit 8 is clear), so latencies \
                 follow the processor's frequency; in a virtual machine, pass the host's CPU flag `invtsc` through",
            ),
            TscWarning::Unsteady { parts_per_million } => write!(
                f,
                "the time-stamp counter's rate changed by {parts_per_million} ppm while it was calibrated \
                 (limit {STEADY_PPM}), so latencies may be off by as much; start again on a quieter machine",
            ),
        }
    }
}

/// The counter's scale: ticks to nanoseconds and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tsc {
    /// Nanoseconds per tick, times 2³².
    ns_per_tick: u64,
    /// Ticks per nanosecond, times 2³².
    ticks_per_ns: u64,
    /// Ticks per second.
    hz: u64,
    warning: Option<TscWarning>,
}

impl Tsc {
    /// Measures the counter's rate; sleeps for about 50 ms and uses next to no CPU.
    ///
    /// Each end of each half is read sixteen times between two readings of the counter, and the reading with the
    /// closest pair is taken: the error is then some tens of nanoseconds in 50 ms, about one part per million.
    #[must_use]
    pub fn calibrate() -> Tsc {
        let start = tightest_reading();
        thread::sleep(HALF);
        let middle = tightest_reading();
        thread::sleep(HALF);
        let end = tightest_reading();

        let whole = rate_hz(start, end);
        let (first, second) = (rate_hz(start, middle), rate_hz(middle, end));
        let parts_per_million = first.abs_diff(second) * 1_000_000 / first.min(second).max(1);
        let warning = if !is_invariant() {
            Some(TscWarning::NotInvariant)
        } else if parts_per_million > STEADY_PPM {
            Some(TscWarning::Unsteady { parts_per_million })
        } else {
            None
        };
        Tsc { warning, ..Tsc::from_hz(whole) }
    }

    /// A scale of a known rate, in ticks per second; for tests and for tools that read recorded ticks.
    /// Rates outside 1 MHz to 1 THz are taken as the nearer of the two, so no conversion can divide by zero.
    #[must_use]
    pub fn from_hz(hz: u64) -> Tsc {
        let hz = hz.clamp(1_000_000, 1_000_000_000_000);
        let (wide_hz, one_second_ns) = (u128::from(hz), 1_000_000_000_u128);
        // Both fit: 10⁹ · 2³² / 10⁶ < 2⁴² and 10¹² · 2³² / 10⁹ < 2⁴².
        let rounded = |numerator: u128, denominator: u128| {
            u64::try_from(((numerator << SHIFT) + denominator / 2) / denominator).unwrap_or(u64::MAX)
        };
        Tsc {
            ns_per_tick: rounded(one_second_ns, wide_hz),
            ticks_per_ns: rounded(wide_hz, one_second_ns),
            hz,
            warning: None,
        }
    }

    /// Reads the counter. Not serialising (about 20 cycles): the processor may move it past neighbouring
    /// instructions by some nanoseconds, which is below what the histograms resolve.
    #[inline]
    #[must_use]
    #[allow(unsafe_code)]
    pub fn now() -> Ticks {
        // SAFETY: RDTSC exists on every x86-64 processor (the only target) and touches no memory; Linux leaves
        // CR4.TSD clear unless the process asked for PR_TSC_SIGSEGV itself.
        Ticks(unsafe { _rdtsc() })
    }

    /// Nanoseconds of a number of ticks; saturates at `u64::MAX`.
    #[inline]
    #[must_use]
    pub const fn ns(&self, ticks: u64) -> u64 {
        multiply_shift(ticks, self.ns_per_tick)
    }

    /// Nanoseconds from one reading to a later one; 0 if it is not later.
    #[inline]
    #[must_use]
    pub const fn ns_between(&self, earlier: Ticks, later: Ticks) -> u64 {
        self.ns(later.since(earlier))
    }

    /// Ticks of a number of nanoseconds; saturates at `u64::MAX`.
    #[inline]
    #[must_use]
    pub const fn ticks(&self, ns: u64) -> u64 {
        multiply_shift(ns, self.ticks_per_ns)
    }

    /// The measured rate, in ticks per second.
    #[must_use]
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// A reason to distrust these times, if there is one; the program shows it once.
    #[must_use]
    pub const fn warning(&self) -> Option<TscWarning> {
        self.warning
    }
}

/// `value · scale / 2³²`, without a division, saturating.
#[inline]
const fn multiply_shift(value: u64, scale: u64) -> u64 {
    let product = (value as u128 * scale as u128) >> SHIFT;
    if product > u64::MAX as u128 {
        u64::MAX
    } else {
        #[allow(clippy::cast_possible_truncation)] // just compared
        {
            product as u64
        }
    }
}

/// True if the counter runs at one rate in all power states. Source: Intel SDM vol. 3 §19.17.1 "Invariant TSC".
fn is_invariant() -> bool {
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

/// One moment, on both clocks.
#[derive(Clone, Copy)]
struct Reading {
    ticks: u64,
    ns: u64,
}

fn tightest_reading() -> Reading {
    let mut best = (u64::MAX, Reading { ticks: 0, ns: 0 });
    for _ in 0..TRIES {
        let before = Tsc::now();
        let ns = monotonic_raw_ns();
        let width = Tsc::now().since(before);
        if width < best.0 {
            best = (width, Reading { ticks: before.0 + width / 2, ns });
        }
    }
    best.1
}

/// `CLOCK_MONOTONIC_RAW`, in nanoseconds.
#[allow(unsafe_code)]
fn monotonic_raw_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec that this call alone writes; the clock exists since Linux 2.6.28, and if the
    // call ever failed, `time` would stay zero, which the caller turns into the lowest rate, not into a fault.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Ticks per second between two readings.
fn rate_hz(from: Reading, to: Reading) -> u64 {
    let ticks = u128::from(to.ticks.saturating_sub(from.ticks));
    let ns = u128::from(to.ns.saturating_sub(from.ns)).max(1);
    u64::try_from(ticks * 1_000_000_000 / ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_round_trip_through_ticks_stays_within_one_part_in_a_million() {
        for hz in [1_000_000_000, 2_095_078_000, 2_100_000_000, 3_999_999_999, 5_000_000_000] {
            let tsc = Tsc::from_hz(hz);
            for ns in [1_000, 1_000_000, 60_000_000_000, 86_400_000_000_000] {
                let back = tsc.ns(tsc.ticks(ns));
                assert!(back.abs_diff(ns) <= 1 + ns / 1_000_000, "{hz} Hz: {ns} ns became {back} ns");
            }
        }
    }

    #[test]
    fn conversion_agrees_with_exact_division() {
        let tsc = Tsc::from_hz(2_095_078_000);
        for ticks in [0, 1, 2, 100, 2_095_078, 2_095_078_000, 2_095_078_000 * 3600] {
            let exact = u128::from(ticks) * 1_000_000_000 / 2_095_078_000;
            let exact = u64::try_from(exact).unwrap();
            assert!(tsc.ns(ticks).abs_diff(exact) <= 1 + exact / 1_000_000_000, "{ticks} ticks");
        }
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(Tsc::from_hz(1_000_000).ns(u64::MAX), u64::MAX);
        assert_eq!(Tsc::from_hz(5_000_000_000).ticks(u64::MAX), u64::MAX);
        assert_eq!(Tsc::from_hz(0).hz(), 1_000_000);
        assert_eq!(Ticks(5).since(Ticks(9)), 0);
        assert_eq!(Ticks(u64::MAX).after(9), Ticks(u64::MAX));
    }

    #[test]
    fn a_calibrated_counter_measures_a_sleep_as_the_clock_does() {
        let tsc = Tsc::calibrate();
        let (ticks, clock) = (Tsc::now(), Instant::now());
        thread::sleep(Duration::from_millis(100));
        let by_tsc = tsc.ns_between(ticks, Tsc::now());
        let by_clock = u64::try_from(clock.elapsed().as_nanos()).unwrap();
        // `Instant` follows NTP's slewing (at most 500 ppm) and this thread may be descheduled between two reads.
        assert!(by_tsc.abs_diff(by_clock) < 5_000_000, "{by_tsc} ns against {by_clock} ns");
    }

    #[test]
    fn two_calibrations_agree() {
        let (a, b) = (Tsc::calibrate().hz(), Tsc::calibrate().hz());
        assert!(a.abs_diff(b) < a / 5_000, "{a} Hz and {b} Hz");
    }

    #[test]
    fn warnings_name_the_cause() {
        assert!(TscWarning::NotInvariant.to_string().contains("0x80000007"));
        assert!(TscWarning::Unsteady { parts_per_million: 900 }.to_string().contains("900 ppm"));
    }
}
