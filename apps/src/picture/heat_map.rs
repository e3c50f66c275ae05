//! How many values were how large, when: a column an interval, a row a stretch of latency, darker where more values are.

use super::axis::{Axis, Frame, log_ns};
use super::percentiles::WIDTH;
use super::scene::{Anchor, GREY, Rgb, Scene, Shape};
use crate::hist::timeline::{Interval, Timeline};

/// Columns, at most.
const COLUMNS: usize = 240;
/// Height of a row in pixels.
const ROW: f64 = 5.0;
const FRAME: Frame = Frame { left: 84.0, top: 76.0, right: 930.0, bottom: 296.0 };
/// From few values to many: light yellow over green and blue to dark violet.
const SCALE: [Rgb; 6] =
    [(253, 240, 190), (180, 222, 150), (86, 190, 145), (38, 130, 142), (54, 84, 139), (68, 12, 84)];

/// The heat map of a timeline, up to `end` seconds.
///
/// A cell's colour is the logarithm of its part of the interval's values: one in a million is still seen.
#[must_use]
pub fn scene(title: &str, explained: &str, timeline: &Timeline, end: f64) -> Scene {
    let x = Axis::of_seconds(end);
    // A bin's middle may lie above the largest value in it.
    let seen = |interval: &Interval| -> Vec<f64> {
        let max = log_ns(interval.max_ns);
        interval.bins().map(|(ns, _)| ns.log10().min(max)).collect()
    };
    let maxima = timeline.intervals().iter().map(|interval| log_ns(interval.max_ns));
    let y = Axis::of_times(timeline.intervals().iter().flat_map(seen).chain(maxima));
    let mut scene = Scene::new(WIDTH, 352);
    scene.title((24.0, 30.0), title, explained);
    for column in columns(timeline, end) {
        draw_column(&mut scene, &x, &y, &column);
    }
    FRAME.labels(&mut scene, &x, &y, "time since the start");
    key(&mut scene);
    scene
}

/// A column of the picture.
struct Column {
    start: f64,
    end: f64,
    /// Decimal logarithms of nanoseconds, and counts.
    cells: Vec<(f64, u64)>,
}

/// Intervals as columns; neighbours together where there are more than can be drawn.
fn columns(timeline: &Timeline, end: f64) -> Vec<Column> {
    let intervals: Vec<&Interval> =
        timeline.intervals().iter().filter(|interval| interval.count() > 0).collect();
    let together = intervals.len().div_ceil(COLUMNS).max(1);
    let column = |group: &[&Interval]| Column {
        start: group[0].start.as_secs_f64(),
        end: group[group.len() - 1].end().as_secs_f64().min(end),
        cells: group
            .iter()
            .flat_map(|interval| interval.bins())
            .map(|(ns, count)| (ns.log10(), count))
            .collect(),
    };
    intervals.chunks(together).map(column).collect()
}

fn draw_column(scene: &mut Scene, x: &Axis, y: &Axis, column: &Column) {
    let (left, right) = (FRAME.x(x, column.start), FRAME.x(x, column.end));
    let total: u64 = column.cells.iter().map(|(_, count)| count).sum();
    let mut rows = std::collections::BTreeMap::new();
    for (log, count) in &column.cells {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some dozen rows
        let row = ((FRAME.bottom - FRAME.y(y, *log)) / ROW) as u32;
        *rows.entry(row).or_insert(0_u64) += count;
    }
    for (row, count) in rows {
        let bottom = (FRAME.bottom - f64::from(row) * ROW).max(FRAME.top + 1.0);
        let to = (right.max(left + 0.5), bottom);
        scene.shapes.push(Shape::Bar {
            from: (left, (bottom - ROW).max(FRAME.top)),
            to,
            colour: colour(count, total),
        });
    }
}

/// One in a million or less is the first colour, all is the last.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a colour
fn colour(count: u64, total: u64) -> Rgb {
    let part = (count as f64 / total.max(1) as f64).max(1e-6).log10() / 6.0 + 1.0;
    let at = part.clamp(0.0, 1.0) * (SCALE.len() - 1) as f64;
    let below = (at as usize).min(SCALE.len() - 2);
    let mix = at - below as f64;
    let (from, to) = (SCALE[below], SCALE[below + 1]);
    let channel = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * mix).round() as u8;
    (channel(from.0, to.0), channel(from.1, to.1), channel(from.2, to.2))
}

/// What the colours mean, in the upper right corner.
fn key(scene: &mut Scene) {
    let (left, top) = (690.0, 40.0);
    for step in 0..60_u32 {
        let from = left + f64::from(step) * 4.0;
        let part = 10_f64.powf(-6.0 + f64::from(step) / 10.0) * 1e9;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 10⁹
        let colour = colour(part as u64, 1_000_000_000);
        scene.shapes.push(Shape::Bar { from: (from, top), to: (from + 4.0, top + 10.0), colour });
    }
    for (at, text, anchor) in [(0.0, "1 in a million", Anchor::Start), (240.0, "all values", Anchor::End)] {
        scene.text((left + at, top - 10.0), text, 12.0, anchor, GREY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn timeline(seconds: u64) -> Timeline {
        let mut timeline = Timeline::default();
        for second in 0..seconds {
            let mut histogram = engine::latency::histogram();
            histogram.record_n(1_000, 999_999).unwrap();
            histogram.record(1_000_000).unwrap();
            timeline.push(Interval::new(Duration::from_secs(second), Duration::from_secs(1), &histogram));
        }
        timeline
    }

    /// Left upper corner, right lower corner, colour.
    type Bar = ((f64, f64), (f64, f64), Rgb);

    fn bars(scene: &Scene) -> Vec<Bar> {
        let bars = scene.shapes.iter().filter_map(|shape| match shape {
            Shape::Bar { from, to, colour } if from.1 >= FRAME.top => Some((*from, *to, *colour)),
            _ => None,
        });
        bars.collect()
    }

    #[test]
    fn common_values_are_dark_below_and_rare_ones_light_above() {
        let bars = bars(&scene("t", "e", &timeline(4), 4.0));
        assert_eq!(bars.len(), 8);
        let (low, high) = (bars[2], bars[3]);
        assert!(
            (low.1.1 - FRAME.bottom).abs() < ROW + 0.1 && (high.0.1 - FRAME.top).abs() < ROW + 0.1,
            "{low:?} {high:?}"
        );
        assert_eq!((low.2, high.2), (SCALE[5], SCALE[0]));
        let quarter = (FRAME.right - FRAME.left) / 4.0;
        assert!(
            (low.0.0 - FRAME.left - quarter).abs() < 0.01 && (low.1.0 - low.0.0 - quarter).abs() < 0.01,
            "{low:?}"
        );
    }

    #[test]
    fn many_intervals_share_columns() {
        let bars = bars(&scene("t", "e", &timeline(500), 500.0));
        assert!(bars.len() <= 2 * COLUMNS, "{}", bars.len());
        assert!(bars.iter().all(|(from, to, _)| to.0 <= FRAME.right + 0.01 && to.0 > from.0));
    }
}
