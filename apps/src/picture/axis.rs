//! Where a number stands on a picture, and which places have a label.

use super::scene::{Anchor, FAINT_GRID, GREY, GRID, Scene};
use crate::output::units;

/// Part of a decade by which a value may lie outside of an axis and is drawn at its end: histograms round by so much.
const SLACK: f64 = 0.004;

/// The rectangle in which data is drawn, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Where the axis of values stands.
    pub left: f64,
    /// Above is the title.
    pub top: f64,
    /// To the right.
    pub right: f64,
    /// Where the horizontal axis lies.
    pub bottom: f64,
}

/// A place on an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// In the axis' own measure.
    pub at: f64,
    /// What stands there; a place without a label gets a fainter line.
    pub label: Option<String>,
}

/// A stretch of numbers, in a measure in which it is even: seconds, nines, or logarithms.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The first number.
    pub low: f64,
    /// The last one, larger than the first.
    pub high: f64,
    /// The places with a line, ascending.
    pub ticks: Vec<Tick>,
}

/// Nines of a quantile: 0 for 0, 1 for 0.9, 2 for 0.99; infinite for 1.
#[must_use]
pub fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// Decimal logarithm of a time; of nothing that of a nanosecond.
#[must_use]
#[allow(clippy::cast_precision_loss)] // three digits are shown
pub fn log_ns(ns: u64) -> f64 {
    (ns.max(1) as f64).log10()
}

impl Axis {
    /// Percentiles up to `reach` nines, at least one and at most twelve: 0 %, 50 %, 90 %, 99 %, and so on.
    #[must_use]
    pub fn of_nines(reach: f64) -> Axis {
        let high = reach.clamp(1.0, 12.0);
        let mut ticks = vec![tick(0.0, "0 %")];
        let mut whole = 0;
        while f64::from(whole) < high {
            let left = 10_f64.powi(-whole);
            for tenths in 2..10_u32 {
                let label = (whole == 0 && tenths == 5).then(|| "50 %".to_owned());
                // Nine tenths, …, two tenths of what is left above this many nines.
                ticks.push(Tick { at: nines(1.0 - left * f64::from(tenths) / 10.0), label });
            }
            whole += 1;
            ticks.push(tick(f64::from(whole), &percent_of_nines(whole)));
        }
        ticks.retain(|tick| tick.at <= high + 1e-9);
        ticks.sort_by(|a, b| a.at.total_cmp(&b.at));
        Axis { low: 0.0, high, ticks }
    }

    /// Times on a logarithmic scale around `logs` (see [`log_ns`]), their ends at 1, 2 or 5 of a power of ten.
    #[must_use]
    pub fn of_times(logs: impl Iterator<Item = f64>) -> Axis {
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for log in logs {
            low = low.min(log);
            high = high.max(log);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let edges = || (0..=11_u32).flat_map(|decade| [1, 2, 5].map(|digit| digit * 10_u64.pow(decade)));
        let low = edges().map(log_ns).rfind(|edge| *edge <= low + SLACK).unwrap_or(0.0);
        let high = edges()
            .map(log_ns)
            .find(|edge| *edge >= high - SLACK && *edge > low)
            .unwrap_or(low.max(high) + 1.0);
        let has_few = high - low < 2.2;
        let mut ticks = Vec::new();
        for decade in 0..=11_u32 {
            for digit in 1..10_u64 {
                let ns = digit * 10_u64.pow(decade);
                let is_labelled = digit == 1 || (has_few && matches!(digit, 2 | 5));
                ticks.push(Tick { at: log_ns(ns), label: is_labelled.then(|| time(ns)) });
            }
        }
        ticks.retain(|tick| (low - 1e-9..=high + 1e-9).contains(&tick.at));
        Axis { low, high, ticks }
    }

    /// Seconds from 0 to `end`.
    #[must_use]
    pub fn of_seconds(end: f64) -> Axis {
        let end = end.max(1e-3);
        let (unit, name) = match end {
            ..1.0 => (1e-3, "ms"),
            1.0..300.0 => (1.0, "s"),
            300.0..18_000.0 => (60.0, "min"),
            _ => (3_600.0, "h"),
        };
        let step = round_step(end / unit / 8.0) * unit;
        let ticks = steps(step, end).map(|at| tick(at, &format!("{} {name}", short(at / unit)))).collect();
        Axis { low: 0.0, high: end, ticks }
    }

    /// Rates from 0 to a round number above `most`, in `unit`.
    #[must_use]
    pub fn of_rates(most: f64, unit: &str) -> Axis {
        let step = round_step(most.max(1.0) / 4.0);
        let high = (most.max(1.0) / step).ceil() * step;
        Axis { low: 0.0, high, ticks: steps(step, high).map(|at| tick(at, &units::rate(at, unit))).collect() }
    }

    /// The part of the axis below `value`: 0 at its beginning, 1 at its end, nothing beyond.
    #[must_use]
    pub fn part(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

impl Frame {
    /// Pixel of `value` on the horizontal axis.
    #[must_use]
    pub fn x(&self, axis: &Axis, value: f64) -> f64 {
        self.left + axis.part(value) * (self.right - self.left)
    }

    /// Pixel of `value` on the axis of values.
    #[must_use]
    pub fn y(&self, axis: &Axis, value: f64) -> f64 {
        self.bottom - axis.part(value) * (self.bottom - self.top)
    }

    /// Draws the grid, the labels and the name of the horizontal axis.
    pub fn draw(&self, scene: &mut Scene, x: &Axis, y: &Axis, name: &str) {
        // Fainter lines first, so that they cross no others.
        for is_labelled in [false, true] {
            let colour = if is_labelled { GRID } else { FAINT_GRID };
            for tick in x.ticks.iter().filter(|tick| tick.label.is_some() == is_labelled) {
                let at = self.x(x, tick.at);
                scene.line((at, self.top), (at, self.bottom), colour, 1.0);
            }
            for tick in y.ticks.iter().filter(|tick| tick.label.is_some() == is_labelled) {
                let at = self.y(y, tick.at);
                scene.line((self.left, at), (self.right, at), colour, 1.0);
            }
        }
        self.labels(scene, x, y, name);
    }

    /// Only labels and name: for pictures that fill their frame.
    pub fn labels(&self, scene: &mut Scene, x: &Axis, y: &Axis, name: &str) {
        scene.line((self.left, self.bottom), (self.right, self.bottom), GREY, 1.25);
        for tick in &x.ticks {
            let Some(label) = &tick.label else { continue };
            let at = self.x(x, tick.at);
            scene.line((at, self.bottom), (at, self.bottom + 5.0), GREY, 1.25);
            scene.text((at, self.bottom + 17.0), label, 13.0, Anchor::Middle, GREY);
        }
        for tick in &y.ticks {
            let Some(label) = &tick.label else { continue };
            scene.text((self.left - 9.0, self.y(y, tick.at)), label, 13.0, Anchor::End, GREY);
        }
        let middle = (self.left + self.right) / 2.0;
        scene.text((middle, self.bottom + 38.0), name, 13.0, Anchor::Middle, GREY);
    }
}

fn tick(at: f64, label: &str) -> Tick {
    Tick { at, label: Some(label.to_owned()) }
}

/// 1: `90 %`, 2: `99 %`, 3: `99.9 %`.
fn percent_of_nines(nines: i32) -> String {
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(usize::try_from(more - 2).unwrap_or(0))),
    }
}

/// A round time: `500 ns`, `1 µs`.
fn time(ns: u64) -> String {
    units::time_ns(ns).replace(".00 ", " ").replace(".0 ", " ")
}

/// The smallest of 1, 2, 5, 10, 20, … that is no smaller than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(power)
}

/// 0, `step`, twice `step`, … up to `end`.
fn steps(step: f64, end: f64) -> impl Iterator<Item = f64> {
    (0..100_u32).map(move |count| f64::from(count) * step).take_while(move |at| *at <= end * 1.0001)
}

/// Without decimals that say nothing.
fn short(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<(String, String)> {
        let labelled = axis.ticks.iter().filter_map(|tick| Some((tick.at, tick.label.clone()?)));
        labelled.map(|(at, label)| (format!("{at:.3}"), label)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(at, label)| ((*at).to_owned(), (*label).to_owned())).collect()
    }

    #[test]
    fn every_nine_is_as_wide_as_the_one_before() {
        let axis = Axis::of_nines(4.3);
        let expected = [
            ("0.000", "0 %"),
            ("0.301", "50 %"),
            ("1.000", "90 %"),
            ("2.000", "99 %"),
            ("3.000", "99.9 %"),
            ("4.000", "99.99 %"),
        ];
        assert_eq!(labels(&axis), pairs(&expected));
        // 95 % stands where half of the last tenth is left.
        assert!(axis.ticks.iter().any(|tick| tick.label.is_none() && (tick.at - nines(0.95)).abs() < 1e-9));
        assert!(axis.ticks.is_sorted_by(|a, b| a.at < b.at));
    }

    #[test]
    fn times_end_at_round_ones_around_the_values() {
        let axis = Axis::of_times([1_830, 10_007].map(log_ns).into_iter());
        assert_eq!((axis.low, axis.high), (log_ns(1_000), log_ns(10_000)));
        let expected = [("3.000", "1 µs"), ("3.301", "2 µs"), ("3.699", "5 µs"), ("4.000", "10 µs")];
        assert_eq!(labels(&axis), pairs(&expected));
        // Many decades: powers of ten only.
        let wide = Axis::of_times([100, 60_000_000_000].map(log_ns).into_iter());
        assert_eq!(labels(&wide).len(), 10, "{:?}", labels(&wide));
        let nothing = Axis::of_times(std::iter::empty());
        assert!(nothing.high > nothing.low);
        let one = Axis::of_times([log_ns(1_000)].into_iter());
        assert!(one.high > one.low && one.part(3.0) == 0.0);
    }

    #[test]
    fn seconds_and_rates_have_round_steps() {
        assert_eq!(labels(&Axis::of_seconds(5.0))[1], ("1.000".to_owned(), "1 s".to_owned()));
        assert_eq!(labels(&Axis::of_seconds(0.5))[1], ("0.100".to_owned(), "100 ms".to_owned()));
        assert_eq!(labels(&Axis::of_seconds(3_600.0))[1], ("600.000".to_owned(), "10 min".to_owned()));
        let rates = Axis::of_rates(3_100_000.0, "pps");
        assert_eq!(rates.high, 4_000_000.0);
        assert_eq!(labels(&rates)[1].1, "1.00 Mpps");
    }

    #[test]
    fn a_value_stands_at_its_part_of_the_frame_and_never_outside() {
        let frame = Frame { left: 100.0, top: 50.0, right: 500.0, bottom: 250.0 };
        let (x, y) = (Axis::of_nines(4.0), Axis::of_times([1_000, 100_000].map(log_ns).into_iter()));
        assert!((frame.x(&x, nines(0.99)) - 300.0).abs() < 1e-6);
        assert!((frame.y(&y, log_ns(10_000)) - 150.0).abs() < 1e-6);
        assert_eq!(frame.x(&x, f64::INFINITY), 500.0);
        assert_eq!(frame.y(&y, 0.0), 250.0);
    }
}
