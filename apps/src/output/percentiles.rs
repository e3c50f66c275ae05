//! The percentile table: one row per latency name and core.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use engine::stats::Snapshot;
use hdrhistogram::Histogram;

use super::Colour;
use super::units;

/// The quantiles that every output gives, with their names in tables and in JSON.
pub const QUANTILES: [(&str, &str, f64); 5] = [
    ("p50", "p50", 0.5),
    ("p90", "p90", 0.9),
    ("p99", "p99", 0.99),
    ("p99.9", "p99_9", 0.999),
    ("p99.99", "p99_99", 0.9999),
];

/// Which of a core's histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Since the start.
    Total,
    /// Since the snapshot before.
    Interval,
}

/// A table of all latencies, 80 columns wide; empty if nothing was recorded. A name that several cores recorded gets a
/// row for each and one for all.
#[must_use]
pub fn table(snapshot: &Snapshot, span: Span, colour: Colour) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    match colour {
        Colour::Ansi => table.enforce_styling(),
        Colour::Plain => table.force_no_tty(),
    };
    let titles = ["latency", "core", "count", "min"]
        .into_iter()
        .chain(QUANTILES.map(|(title, ..)| title))
        .chain(["max"]);
    table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold).fg(Color::Cyan)));

    for name in names(snapshot) {
        let recorded: Vec<(String, &Histogram<u64>)> = snapshot
            .cores
            .iter()
            .filter_map(|core| {
                let latencies = match span {
                    Span::Total => &core.total.latencies,
                    Span::Interval => &core.interval,
                };
                let histogram = latencies.get(name).filter(|histogram| !histogram.is_empty())?;
                let label =
                    core.total.cpu.map_or_else(|| format!("#{}", core.total.lcore), |cpu| cpu.to_string());
                Some((label, histogram))
            })
            .collect();
        if recorded.len() > 1 {
            let mut all = engine::latency::histogram();
            for (_, histogram) in &recorded {
                all.add(*histogram).expect("all latencies have one shape");
            }
            add_row(&mut table, name, "all", &all);
        }
        for (label, histogram) in recorded {
            add_row(&mut table, name, &label, histogram);
        }
    }
    if table.is_empty() {
        return String::new();
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if at > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

fn add_row(table: &mut Table, name: &str, core: &str, histogram: &Histogram<u64>) {
    let mut row = vec![
        Cell::new(name).add_attribute(Attribute::Bold),
        Cell::new(core),
        Cell::new(units::count(histogram.len())),
        Cell::new(units::time_ns(histogram.min())),
    ];
    for (_, _, quantile) in QUANTILES {
        let cell = Cell::new(units::time_ns(histogram.value_at_quantile(quantile)));
        row.push(if quantile < 0.99 { cell.fg(Color::Green) } else { cell.fg(Color::Yellow) });
    }
    row.push(Cell::new(units::time_ns(histogram.max())).fg(Color::Red));
    table.add_row(row);
}

/// All latency names, each once, in the order of cores and slots.
pub(super) fn names(snapshot: &Snapshot) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (name, _) in snapshot.cores.iter().flat_map(|core| core.total.latencies.iter()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn every_name_and_core_has_its_row_within_80_columns() {
        let text = table(&fixture::snapshot(), Span::Total, Colour::Plain);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
        assert_eq!(
            rows,
            [
                ["latency", "core"],
                ["round_trip", "0"],
                ["turn", "all"],
                ["turn", "0"],
                ["turn", "1"],
                ["residence", "1"]
            ],
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let round_trip = text.lines().nth(1).unwrap();
        let times: Vec<&str> = round_trip.split_whitespace().skip(2).collect();
        assert_eq!(
            times.join(" "),
            "1.00M 1.80 µs 1.80 µs 2.50 µs 6.20 µs 6.20 µs 31.0 µs 1.40 ms",
            "{text}"
        );
    }

    #[test]
    fn colours_are_there_only_when_wanted() {
        let snapshot = fixture::snapshot();
        assert!(!table(&snapshot, Span::Total, Colour::Plain).contains('\x1b'));
        assert!(table(&snapshot, Span::Interval, Colour::Ansi).contains("\x1b["));
    }

    #[test]
    fn nothing_recorded_gives_no_table() {
        let mut snapshot = fixture::snapshot();
        snapshot.cores.iter_mut().for_each(|core| core.interval.clear());
        assert_eq!(table(&snapshot, Span::Interval, Colour::Plain), "");
    }
}
