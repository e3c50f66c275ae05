//! Percentiles of each interval, or a rate, over time.

use super::axis::{Axis, Frame, log_ns};
use super::percentiles::WIDTH;
use super::scene::{Anchor, COLOURS, INK, Rgb, Scene, Shape};
use crate::hist::timeline::{Interval, Timeline};

/// The lines: the rarer, the warmer.
const LINES: [(&str, Option<f64>, Rgb); 5] = [
    ("p50", Some(0.5), (37, 99, 235)),
    ("p90", Some(0.9), (8, 145, 178)),
    ("p99", Some(0.99), (202, 138, 4)),
    ("p99.9", Some(0.999), (234, 88, 12)),
    ("max", None, (185, 28, 28)),
];

/// Where the data is, in pictures of this kind.
const FRAME: Frame = Frame { left: 84.0, top: 96.0, right: 930.0, bottom: 316.0 };
const HEIGHT: u32 = 372;

/// Percentiles over time, up to `end` seconds.
#[must_use]
pub fn percentiles(title: &str, explained: &str, timeline: &Timeline, end: f64) -> Scene {
    let values = |quantile: Option<f64>| {
        let value = move |interval: &Interval| {
            quantile.map_or(interval.max_ns, |quantile| interval.value_at(quantile))
        };
        timeline
            .intervals()
            .iter()
            .filter(|interval| interval.count() > 0)
            .map(move |interval| (interval, value(interval)))
    };
    let x = Axis::of_seconds(end);
    let y =
        Axis::of_times(LINES.iter().flat_map(|(_, quantile, _)| values(*quantile)).map(|(_, ns)| log_ns(ns)));
    let mut scene = Scene::new(WIDTH, HEIGHT);
    scene.title((24.0, 30.0), title, explained);
    FRAME.draw(&mut scene, &x, &y, "time since the start");
    let mut legend = FRAME.left;
    for (name, quantile, colour) in LINES {
        let steps = values(quantile).map(|(interval, ns)| (interval, FRAME.y(&y, log_ns(ns))));
        line(&mut scene, &x, steps, colour);
        legend = key(&mut scene, legend, name, colour);
    }
    scene
}

/// A rate over time: the start and length of each interval in seconds, and how much a second there was.
#[must_use]
pub fn rate(title: &str, explained: &str, unit: &str, rates: &[(f64, f64, f64)]) -> Scene {
    let end = rates.last().map_or(1.0, |(start, length, _)| start + length);
    let x = Axis::of_seconds(end);
    let y = Axis::of_rates(rates.iter().map(|(.., rate)| *rate).fold(0.0, f64::max), unit);
    let frame = Frame { left: 104.0, top: 76.0, bottom: 216.0, ..FRAME };
    let mut scene = Scene::new(WIDTH, 272);
    scene.title((24.0, 30.0), title, explained);
    frame.draw(&mut scene, &x, &y, "time since the start");
    let mut points = Vec::with_capacity(2 * rates.len());
    for (start, length, rate) in rates {
        // As wide as the interval over which it is the mean.
        points.push((frame.x(&x, *start), frame.y(&y, *rate)));
        points.push((frame.x(&x, start + length), frame.y(&y, *rate)));
    }
    if points.len() >= 2 {
        scene.shapes.push(Shape::Line { points, colour: COLOURS[0], width: 2.0 });
    }
    scene
}

/// A line through the middles of intervals; of a single one through its beginning and end.
fn line<'a>(scene: &mut Scene, x: &Axis, steps: impl Iterator<Item = (&'a Interval, f64)>, colour: Rgb) {
    let steps: Vec<(&Interval, f64)> = steps.collect();
    let (Some((first, start)), Some((last, end))) = (steps.first(), steps.last()) else { return };
    let mut points = vec![(FRAME.x(x, first.start.as_secs_f64()), *start)];
    points.extend(steps.iter().map(|(interval, y)| {
        (FRAME.x(x, interval.start.as_secs_f64() + interval.length.as_secs_f64() / 2.0), *y)
    }));
    points.push((FRAME.x(x, last.end().as_secs_f64()), *end));
    scene.shapes.push(Shape::Line { points, colour, width: 1.75 });
}

/// An entry of the legend; returns where the next one begins.
fn key(scene: &mut Scene, at: f64, name: &str, colour: Rgb) -> f64 {
    scene.shapes.push(Shape::Bar { from: (at, 74.0), to: (at + 22.0, 78.0), colour });
    scene.text((at + 30.0, 76.0), name, 13.0, Anchor::Start, INK);
    at + 96.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_stall_shows_when_it_was() {
        let mut timeline = Timeline::default();
        for second in 0..10 {
            let mut histogram = engine::latency::histogram();
            histogram.record_n(if second == 6 { 1_000_000 } else { 1_000 }, 100).unwrap();
            timeline.push(Interval::new(Duration::from_secs(second), Duration::from_secs(1), &histogram));
        }
        let scene = percentiles("t", "e", &timeline, 10.0);
        let median = scene.shapes.iter().find_map(|shape| match shape {
            Shape::Line { points, colour, .. } if *colour == LINES[0].2 => Some(points),
            _ => None,
        });
        let median = median.unwrap();
        let peak = median.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert!(
            (peak.0 - (FRAME.left + 0.65 * (FRAME.right - FRAME.left))).abs() < 0.01,
            "6.5 s of 10 s: {peak:?}"
        );
        assert!(peak.1 - FRAME.top < 12.0, "1 ms is at the top: {peak:?}");
        assert_eq!(median.len(), 12);
    }

    #[test]
    fn a_rate_is_as_high_as_its_label_and_as_wide_as_its_interval() {
        let scene = rate("t", "e", "pps", &[(0.0, 1.0, 1_000_000.0), (1.0, 1.0, 3_000_000.0)]);
        let Some(Shape::Line { points, .. }) = scene.shapes.last() else { panic!("no line") };
        let label = scene.shapes.iter().find_map(|shape| match shape {
            Shape::Text { at, text, .. } if text == "1.00 Mpps" => Some(at.1),
            _ => None,
        });
        assert!((points[0].1 - label.unwrap()).abs() < 1e-6);
        assert!((points[1].0 - (104.0 + FRAME.right) / 2.0).abs() < 1e-6);
    }
}
