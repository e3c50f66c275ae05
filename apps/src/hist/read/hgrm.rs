//! Percentile tables, as HdrHistogram's `outputPercentileDistribution` prints them.

use super::{Unit, Wrong};
use crate::hist::distribution::{Distribution, Row, Table};
use crate::hist::run::{Run, Series, UNNAMED};

/// Reads a whole table.
pub(super) fn parse(text: &str, given: Option<Unit>) -> Result<Run, Wrong> {
    let mut rows: Vec<(f64, f64)> = Vec::new();
    let mut count = 0;
    let mut name = UNNAMED.to_owned();
    let mut stated = None;
    let mut total = None;
    let mut last = 0;
    for (at, line) in text.lines().enumerate() {
        last = at + 1;
        if let Some(comment) = line.strip_prefix("#[") {
            for (key, value) in fields(comment) {
                match key {
                    "Latency" => value.clone_into(&mut name),
                    "Unit" => stated = Some((last, named(last, value)?)),
                    "Total count" => total = Some((last, number(last, value)?)),
                    _ => {}
                }
            }
            continue;
        }
        if line.trim().is_empty() || line.starts_with('#') || line.trim_start().starts_with("Value") {
            continue;
        }
        let row = row(last, line)?;
        if let Some((ns, quantile)) = rows.last()
            && (row.0 < *ns || row.1 < *quantile || row.2 < count)
        {
            let what =
                "smaller than the line above, where each may only be larger; are two tables in one file?";
            return Err(Wrong::new(last, what));
        }
        count = row.2;
        rows.push((row.0, row.1));
    }
    let Some((_, reached)) = rows.last().copied() else {
        return Err(Wrong::new(last, "no row in the table; nothing was recorded, or it is cut off"));
    };
    if reached < 1.0 {
        let what = format!("the table is cut off: it ends at {} % and not at 100 %", reached * 100.0);
        return Err(Wrong::new(last, what));
    }
    if let Some((line, total)) = total
        && (total - number(line, &count.to_string())?).abs() > 0.5
    {
        return Err(Wrong::new(line, format!("{total} values in all, but {count} in the last row")));
    }
    let Some(unit) = super::unit(stated, given)? else {
        return Err(Wrong::new(1, "the table does not say its unit; give --unit ns, us, ms or s"));
    };
    let rows: Vec<Row> =
        rows.iter().map(|(value, quantile)| Row { quantile: *quantile, ns: ns(*value, unit) }).collect();
    let min_ns = rows[0].ns;
    let distribution = Distribution::Table(Table { rows, count, min_ns });
    let series = vec![Series { name, distribution, timeline: Default::default() }];
    Ok(Run { series, ..Run::default() })
}

/// `Value Percentile TotalCount [1/(1-Percentile)]`.
fn row(line: usize, text: &str) -> Result<(f64, f64, u64), Wrong> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [value, quantile, count, rest @ ..] = words.as_slice() else {
        let what = format!("{} columns of four; is the table cut off here?", words.len());
        return Err(Wrong::new(line, what));
    };
    if rest.len() > 1 {
        return Err(Wrong::new(line, format!("{} columns where a percentile table has four", words.len())));
    }
    let (value, quantile) = (number(line, value)?, number(line, quantile)?);
    if value < 0.0 || !(0.0..=1.0).contains(&quantile) {
        return Err(Wrong::new(line, "a value below 0, or a percentile that is not between 0 and 1"));
    }
    let count = count.parse().map_err(|_| Wrong::new(line, format!("`{count}` is no count of values")))?;
    Ok((value, quantile, count))
}

/// `Key = value` pairs of a comment line.
fn fields(comment: &str) -> impl Iterator<Item = (&str, &str)> {
    let inner = comment.trim_end().trim_end_matches(']');
    inner.split(',').filter_map(|field| field.split_once('=')).map(|(key, value)| (key.trim(), value.trim()))
}

fn named(line: usize, name: &str) -> Result<Unit, Wrong> {
    Unit::named(name)
        .ok_or_else(|| Wrong::new(line, format!("unknown unit `{name}`; there are ns, us, ms and s")))
}

fn number(line: usize, text: &str) -> Result<f64, Wrong> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(Wrong::new(line, format!("`{text}` is no number"))),
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
fn ns(value: f64, unit: Unit) -> u64 {
    (value * unit.ns() as f64).round() as u64
}
