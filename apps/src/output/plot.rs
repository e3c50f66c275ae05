//! A small plot of latency by percentile: the shape of the tail at a glance.
//!
//! Both axes are logarithmic: upwards the time, to the right the number of nines (0 %, 90 %, 99 %, 99.9 %, …), as in
//! HdrHistogram's own plots. A line that stays low to the right edge is a good one.

use engine::latency::Latencies;
use hdrhistogram::Histogram;
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Style};
use ratatui_core::symbols::Marker;
use ratatui_core::widgets::Widget;
use ratatui_widgets::chart::{Axis, Chart, Dataset, GraphType, LegendPosition};

use super::{Colour, units};

/// Rows of the plot, axis labels included.
pub const ROWS: u16 = 15;
/// Columns of the widest plot.
pub const COLUMNS: u16 = 80;
/// Nines on the horizontal axis: up to 99.999 %.
const NINES: u8 = 5;
/// Points of a line; two per column are drawn.
const POINTS: u16 = 2 * COLUMNS;

const COLOURS: [Color; 5] = [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::Blue];

/// The distributions of all names, in at most [`ROWS`] rows of `columns` (30 to [`COLUMNS`]) columns; empty if nothing
/// was recorded.
#[must_use]
pub fn text(latencies: &Latencies, columns: u16, colour: Colour) -> String {
    let recorded = latencies.iter().filter(|(_, histogram)| !histogram.is_empty());
    let all: Vec<(&str, Vec<(f64, f64)>)> =
        recorded.map(|(name, histogram)| (name, line(histogram))).collect();
    lines(&all, columns, colour)
}

/// The same of `lines` that are known: a name, and points of nines and log₁₀ of nanoseconds, of which those beyond the
/// right edge are left out; empty if there is none.
#[must_use]
pub fn lines(lines: &[(&str, Vec<(f64, f64)>)], columns: u16, colour: Colour) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let inside = |line: &[(f64, f64)]| -> Vec<(f64, f64)> {
        line.iter().copied().filter(|(nines, _)| *nines <= f64::from(NINES)).collect()
    };
    let lines: Vec<(&str, Vec<(f64, f64)>)> =
        lines.iter().map(|(name, line)| (*name, inside(line))).collect();
    let (low, high) = decades(lines.iter().flat_map(|(_, line)| line).map(|(_, log_ns)| *log_ns));

    let datasets = lines
        .iter()
        .enumerate()
        .map(|(at, (name, line))| {
            Dataset::default()
                .name(*name)
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(COLOURS[at % COLOURS.len()]))
                .data(line)
        })
        .collect();
    let nines = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
    let y_labels = (low..=high).map(|decade| units::time_ns(10_u64.pow(decade)));
    let chart = Chart::new(datasets)
        .x_axis(Axis::default().bounds([0.0, f64::from(NINES)]).labels(nines))
        .y_axis(Axis::default().bounds([f64::from(low), f64::from(high)]).labels(y_labels))
        .legend_position(Some(LegendPosition::TopLeft))
        .hidden_legend_constraints((
            ratatui_core::layout::Constraint::Percentage(100),
            ratatui_core::layout::Constraint::Percentage(100),
        ));
    let area = Rect::new(0, 0, columns.clamp(30, COLUMNS), ROWS);
    let mut buffer = Buffer::empty(area);
    chart.render(area, &mut buffer);
    ansi(&buffer, colour)
}

/// log₁₀ of the value at evenly spaced numbers of nines, as far as the samples reach: a distribution of 1,000 values
/// says nothing beyond 99.9 %.
#[allow(clippy::cast_precision_loss)] // 53 bits are plenty for a plot
fn line(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let reach = (histogram.len() as f64).log10().min(f64::from(NINES));
    (0..=POINTS)
        .map(|point| f64::from(point) * f64::from(NINES) / f64::from(POINTS))
        .take_while(|nines| *nines <= reach)
        .map(|nines| {
            let ns = histogram.value_at_quantile(1.0 - 10_f64.powf(-nines));
            (nines, (ns.max(1) as f64).log10())
        })
        .collect()
}

/// The powers of ten around the values, at least one decade apart.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // log₁₀ of 1 ns to 60 s is 0 to 10.8
fn decades(values: impl Iterator<Item = f64>) -> (u32, u32) {
    let (mut low, mut high) = (f64::MAX, 0_f64);
    for value in values {
        low = low.min(value);
        high = high.max(value);
    }
    let low = low.floor() as u32;
    (low, (high.ceil() as u32).max(low + 1))
}

/// A buffer's cells as lines of text, colours as SGR sequences, without trailing blanks.
fn ansi(buffer: &Buffer, colour: Colour) -> String {
    let mut text = String::new();
    for row in buffer.content().chunks(usize::from(buffer.area.width)) {
        let used = row.iter().rposition(|cell| cell.symbol() != " ").map_or(0, |last| last + 1);
        let mut current = Color::Reset;
        for cell in &row[..used] {
            // A blank shows no foreground: no sequence for it.
            let wanted = if cell.symbol() == " " { current } else { cell.fg };
            if colour == Colour::Ansi && wanted != current {
                text.push_str(&format!("\x1b[{}m", foreground(wanted)));
                current = wanted;
            }
            text.push_str(cell.symbol());
        }
        if current != Color::Reset {
            text.push_str("\x1b[39m");
        }
        text.push('\n');
    }
    text
}

/// SGR parameter of a foreground colour that this plot uses. Source: ECMA-48 §8.3.117.
fn foreground(colour: Color) -> u8 {
    match colour {
        Color::Green => 32,
        Color::Yellow => 33,
        Color::Blue => 34,
        Color::Magenta => 35,
        Color::Cyan => 36,
        _ => 39,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn the_plot_fits_a_terminal_and_names_axes_and_lines() {
        for columns in [0, 30, 60, 80, 400] {
            let text = text(&fixture::summary().latencies, columns, Colour::Plain);
            assert!(text.lines().count() <= usize::from(ROWS), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(COLUMNS)), "{text}");
        }
        let text = text(&fixture::summary().latencies, 80, Colour::Plain);
        for word in ["round_trip", "turn", "residence", "99.99 %", "100 ns", "100 µs"] {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_line_reaches_as_far_as_its_samples() {
        let mut histogram = engine::latency::histogram();
        histogram.record_n(1_000, 1_000).unwrap();
        let line = line(&histogram);
        let last = line.last().unwrap();
        assert!((last.0 - 3.0).abs() < 0.05 && (last.1 - 3.0).abs() < 0.001, "{last:?}");
    }

    #[test]
    fn colours_are_closed_on_every_line() {
        let text = text(&fixture::summary().latencies, 80, Colour::Ansi);
        assert!(text.contains("\x1b[36m"));
        for line in text.lines().filter(|line| line.contains('\x1b')) {
            assert!(
                line.ends_with("\x1b[39m") || line.rfind("\x1b[39m") > line.rfind("\x1b[3").map(|at| at - 1),
                "{line:?}"
            );
        }
    }

    #[test]
    fn nothing_recorded_gives_no_plot() {
        assert_eq!(text(&Latencies::new(&["turn"]), 80, Colour::Ansi), "");
    }
}
