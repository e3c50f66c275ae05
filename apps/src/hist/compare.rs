//! Runs side by side: a table of percentiles for each latency, and what became of the first run's in each later one.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use super::distribution::Distribution;
use super::run::Run;
use crate::output::percentiles::QUANTILES;
use crate::output::{Colour, units};

/// A ratio further than this from 1 is coloured: what is nearer is noise on most machines.
pub(crate) const NOTABLE: f64 = 0.05;

/// All latency names of `runs`, each once, in the order in which they come.
#[must_use]
pub fn names(runs: &[Run]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for series in runs.iter().flat_map(|run| &run.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    names
}

/// The values that every table shows: percentiles, and the maximum.
fn columns() -> impl Iterator<Item = (&'static str, &'static str, f64)> {
    QUANTILES.into_iter().chain([("max", "max", 1.0)])
}

/// A distribution's value as a multiple of another's; of none, 1.
#[must_use]
#[allow(clippy::cast_precision_loss)] // shown with three digits
pub fn ratio(ns: u64, of: u64) -> f64 {
    ns.max(1) as f64 / of.max(1) as f64
}

/// The table of all latencies; with several runs one for each latency, with a line of ratios to the first run under each
/// other one.
#[must_use]
pub fn table(runs: &[Run], colour: Colour) -> String {
    let mut parts = Vec::new();
    if runs.len() == 1 {
        let rows = runs[0].series.iter().map(|series| (series.name.as_str(), &series.distribution));
        parts.push(one("latency", rows, false, colour));
    } else {
        for name in names(runs) {
            let rows = runs.iter().filter_map(|run| Some((run.name.as_str(), &run.get(name)?.distribution)));
            parts.push(one(name, rows, true, colour));
        }
    }
    parts.join("\n")
}

fn one<'a>(
    title: &str,
    rows: impl Iterator<Item = (&'a str, &'a Distribution)>,
    has_ratios: bool,
    colour: Colour,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    match colour {
        Colour::Ansi => table.enforce_styling(),
        Colour::Plain => table.force_no_tty(),
    };
    let titles = [title, "count", "min"].into_iter().chain(columns().map(|(title, ..)| title));
    table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold).fg(Color::Cyan)));
    let mut first: Option<&Distribution> = None;
    for (name, distribution) in rows {
        let mut row = vec![
            Cell::new(name).add_attribute(Attribute::Bold),
            Cell::new(units::count(distribution.count())),
            Cell::new(units::time_ns(distribution.min_ns())),
        ];
        row.extend(
            columns().map(|(.., quantile)| Cell::new(units::time_ns(distribution.value_at(quantile)))),
        );
        table.add_row(row);
        if let Some(base) = first.filter(|_| has_ratios) {
            let mut row = vec![Cell::new("  × the first"), Cell::new(""), Cell::new("")];
            row.extend(columns().map(|(.., quantile)| {
                let ratio = ratio(distribution.value_at(quantile), base.value_at(quantile));
                let cell = Cell::new(shown(ratio));
                match ratio {
                    _ if ratio > 1.0 + NOTABLE => cell.fg(Color::Red),
                    _ if ratio < 1.0 - NOTABLE => cell.fg(Color::Green),
                    _ => cell,
                }
            }));
            table.add_row(row);
        }
        first = first.or(Some(distribution));
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

/// A ratio with three digits: `0.981`, `1.20`, `12.4`, `350`.
#[must_use]
pub fn shown(ratio: f64) -> String {
    match ratio {
        ..1.0 => format!("{ratio:.3}"),
        ..10.0 => format!("{ratio:.2}"),
        ..100.0 => format!("{ratio:.1}"),
        _ => format!("{ratio:.0}"),
    }
}

/// The same as one JSON object on a line; `docs/json.md` has its fields.
#[must_use]
pub fn json(runs: &[Run]) -> String {
    let latency = |distribution: &Distribution| {
        let mut object = Map::new();
        object.insert("count".to_owned(), json!(distribution.count()));
        object.insert("min".to_owned(), json!(distribution.min_ns()));
        object.extend(
            columns().map(|(_, key, quantile)| (key.to_owned(), json!(distribution.value_at(quantile)))),
        );
        Value::Object(object)
    };
    let of_run = |run: &Run| {
        let latencies: Map<String, Value> =
            run.series.iter().map(|series| (series.name.clone(), latency(&series.distribution))).collect();
        let mut object = json!({"name": run.name, "source": run.source, "latency_ns": latencies});
        if !std::ptr::eq(run, &raw const runs[0]) {
            let ratios: Map<String, Value> = run
                .series
                .iter()
                .filter_map(|series| {
                    let base = &runs[0].get(&series.name)?.distribution;
                    let ratios: Map<String, Value> = columns()
                        .map(|(_, key, at)| {
                            (
                                key.to_owned(),
                                json!(ratio(series.distribution.value_at(at), base.value_at(at))),
                            )
                        })
                        .collect();
                    Some((series.name.clone(), Value::Object(ratios)))
                })
                .collect();
            object["ratio_to_first"] = Value::Object(ratios);
        }
        object
    };
    let runs: Vec<Value> = runs.iter().map(of_run).collect();
    format!("{}\n", json!({ "runs": runs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hist::run::Series;

    fn run(name: &str, latencies: &[(&str, u64)]) -> Run {
        let series = latencies.iter().map(|(name, ns)| {
            let mut histogram = engine::latency::histogram();
            histogram.record_n(*ns, 99_999).unwrap();
            histogram.record(10 * ns).unwrap();
            let distribution = Distribution::Exact(histogram);
            Series { name: (*name).to_owned(), distribution, timeline: Default::default() }
        });
        Run { name: name.to_owned(), series: series.collect(), ..Run::default() }
    }

    #[test]
    fn ratios_are_those_to_the_first_run_that_has_the_latency() {
        let runs = [
            run("a", &[("turn", 1_000)]),
            run("b", &[("turn", 1_500), ("late", 70)]),
            run("c", &[("late", 35)]),
        ];
        let text = table(&runs, Colour::Plain);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows[0],
            ["turn", "count", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"],
            "{text}"
        );
        assert_eq!(rows[3][..3], ["×", "the", "first"], "{text}");
        assert_eq!(rows[3][3..], ["1.50"; 6], "{text}");
        assert_eq!(rows[8][3..], ["0.500"; 6], "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(table(&runs, Colour::Ansi).contains("\x1b[38;5;9m"), "slower is red");
    }

    #[test]
    fn json_has_the_values_of_the_table() {
        let value: Value =
            serde_json::from_str(&json(&[run("a", &[("turn", 100)]), run("b", &[("turn", 50)])])).unwrap();
        assert_eq!(value["runs"][0]["latency_ns"]["turn"]["p99_9"], 100);
        assert_eq!(value["runs"][0]["ratio_to_first"], Value::Null);
        assert_eq!(value["runs"][1]["ratio_to_first"]["turn"]["p50"], 0.5);
        assert_eq!(value["runs"][1]["latency_ns"]["turn"]["count"], 100_000);
    }
}
