//! Latency by percentile, one line a distribution: the picture that users of HdrHistogram know.
//!
//! To the right stand nines (each as wide as the one before), upwards a logarithm of the time. A line that stays low to
//! the right edge is a good one; it ends where its values do.

use super::axis::{Axis, Frame, log_ns};
use super::scene::{Anchor, COLOURS, GREY, INK, Scene, Shape};
use crate::hist::distribution::Distribution;
use crate::output::units;

/// Width of all pictures, in pixels.
pub const WIDTH: u32 = 960;
/// Height of the part in which lines are.
const PLOT: f64 = 360.0;
/// Height of a line of the legend.
const ROW: f64 = 20.0;
/// Columns of the legend, where they end.
const COLUMNS: [(&str, f64, f64); 6] = [
    ("p50", 0.5, 440.0),
    ("p90", 0.9, 535.0),
    ("p99", 0.99, 630.0),
    ("p99.9", 0.999, 725.0),
    ("p99.99", 0.9999, 820.0),
    ("max", 1.0, 915.0),
];

/// The picture of `lines`: a name and a distribution each, at least one.
#[must_use]
pub fn scene(title: &str, explained: &str, lines: &[(&str, &Distribution)]) -> Scene {
    #[allow(clippy::cast_precision_loss)] // a handful
    let legend = 86.0 + ROW * lines.len() as f64;
    let frame = Frame { left: 84.0, top: legend + 22.0, right: 930.0, bottom: legend + 22.0 + PLOT };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some hundred pixels
    let mut scene = Scene::new(WIDTH, (frame.bottom + 56.0) as u32);
    scene.title((24.0, 30.0), title, explained);

    let points: Vec<Vec<(f64, u64)>> = lines.iter().map(|(_, distribution)| distribution.line()).collect();
    let x = Axis::of_nines(lines.iter().map(|(_, distribution)| distribution.reach()).fold(1.0, f64::max));
    let y = Axis::of_times(points.iter().flatten().map(|(_, ns)| log_ns(*ns)));
    frame.draw(&mut scene, &x, &y, "part of all values that took at most so long");
    for (at, line) in points.iter().enumerate() {
        let points: Vec<(f64, f64)> =
            line.iter().map(|(nines, ns)| (frame.x(&x, *nines), frame.y(&y, log_ns(*ns)))).collect();
        scene.shapes.push(Shape::Line { points, colour: colour(at), width: 2.25 });
    }

    for (name, _, end) in COLUMNS {
        scene.text((end, 84.0), name, 13.0, Anchor::End, GREY);
    }
    let mut y = 84.0 + ROW;
    for (at, (name, distribution)) in lines.iter().enumerate() {
        scene.shapes.push(Shape::Bar { from: (24.0, y - 2.0), to: (46.0, y + 2.0), colour: colour(at) });
        let count = format!("{}  ({} values)", shortened(name), units::count(distribution.count()));
        scene.text((56.0, y), &count, 13.0, Anchor::Start, INK);
        for (_, quantile, end) in COLUMNS {
            scene.text((end, y), &units::time_ns(distribution.value_at(quantile)), 13.0, Anchor::End, INK);
        }
        y += ROW;
    }
    scene
}

/// The colour of the line number `at`.
#[must_use]
pub fn colour(at: usize) -> super::scene::Rgb {
    COLOURS[at % COLOURS.len()]
}

/// A name that fits before the columns; of a long one its end, which tells files apart.
fn shortened(name: &str) -> String {
    const FIT: usize = 30;
    let length = name.chars().count();
    if length <= FIT {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - FIT + 1).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene_of(values: &[(u64, u64)]) -> Scene {
        let mut histogram = engine::latency::histogram();
        values.iter().for_each(|(ns, count)| histogram.record_n(*ns, *count).unwrap());
        scene("title", "explained", &[("a & b", &Distribution::Exact(histogram))])
    }

    /// Where a text stands.
    fn place(scene: &Scene, wanted: &str) -> (f64, f64) {
        let found = scene.shapes.iter().find_map(|shape| match shape {
            Shape::Text { at, text, .. } if text == wanted => Some(*at),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no `{wanted}` in {scene:#?}"))
    }

    fn curve(scene: &Scene) -> Vec<(f64, f64)> {
        let mut lines = scene.shapes.iter().filter_map(|shape| match shape {
            Shape::Line { points, colour, .. } if *colour == COLOURS[0] => Some(points.clone()),
            _ => None,
        });
        lines.next_back().unwrap()
    }

    /// The height of the curve's line at `x`, between its two points there.
    fn height(curve: &[(f64, f64)], x: f64) -> f64 {
        let after = curve.iter().position(|point| point.0 >= x).unwrap();
        let (right, left) = (curve[after], curve[after.saturating_sub(1)]);
        if right.0 == left.0 {
            right.1
        } else {
            left.1 + (right.1 - left.1) * (x - left.0) / (right.0 - left.0)
        }
    }

    #[test]
    fn the_curve_meets_the_labels_of_its_percentiles() {
        // 95 % took 1 µs, 4.5 % 10 µs, 0.5 % 100 µs: in the middle of each stretch the curve is at the label's height.
        let scene = scene_of(&[(1_000, 95_000), (10_000, 4_500), (100_000, 500)]);
        let curve = curve(&scene);
        for (percentile, time) in
            [("50 %", "1 µs"), ("90 %", "1 µs"), ("99 %", "10 µs"), ("99.9 %", "100 µs")]
        {
            let (x, y) = (place(&scene, percentile).0, place(&scene, time).1);
            let found = height(&curve, x);
            assert!((found - y).abs() < 0.5, "at {percentile} the curve is at {found}, {time} at {y}");
        }
        // It steps up at 95 % and at 99.5 %: 1.3 and 2.3 nines.
        let nine = place(&scene, "99 %").0 - place(&scene, "90 %").0;
        let step = place(&scene, "90 %").0 + 0.301 * nine;
        assert!(height(&curve, step - 4.0) > height(&curve, step + 4.0) + 50.0, "no step at 95 %");
        assert!(
            (place(&scene, "99.999 %").0 - curve.last().unwrap().0).abs() < 0.5,
            "100,000 values end at 99.999 %"
        );
    }

    #[test]
    fn everything_is_inside_and_the_legend_tells_the_numbers() {
        let scene = scene_of(&[(1_000, 95), (31_000_000, 5)]);
        for shape in &scene.shapes {
            let points = match shape {
                Shape::Line { points, .. } => points.clone(),
                Shape::Bar { from, to, .. } => vec![*from, *to],
                Shape::Text { at, .. } => vec![*at],
            };
            for (x, y) in points {
                assert!((0.0..=f64::from(scene.width)).contains(&x), "{shape:?}");
                assert!((0.0..=f64::from(scene.height)).contains(&y), "{shape:?}");
            }
        }
        assert_eq!(place(&scene, "1.00 µs").1, place(&scene, "31.0 ms").1);
        place(&scene, "a & b  (100 values)");
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shortened("short"), "short");
        let long = shortened("/a/very/long/way/to/the/folder/of/run-17.hlog");
        assert!(
            long.ends_with("run-17.hlog") && long.starts_with('…') && long.chars().count() == 30,
            "{long}"
        );
    }
}
