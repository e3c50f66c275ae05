//! The object that our programs print with `--json`: `docs/json.md`.

use serde_json::{Map, Value};

use super::{Unit, Wrong};
use crate::hist::distribution::{Distribution, Row, Table};
use crate::hist::run::{Run, Series};
use crate::output::percentiles::QUANTILES;

/// Reads the one object of a run.
pub(super) fn parse(text: &str, given: Option<Unit>) -> Result<Run, Wrong> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let why = if error.is_eof() { "the object is cut off".to_owned() } else { error.to_string() };
        Wrong::new(error.line().max(1), format!("no JSON object of one run: {why}"))
    })?;
    let Some(latencies) = value["latency_ns"].as_object() else {
        return Err(Wrong::new(
            1,
            "no `latency_ns` in the object; is it what a program of bywash prints with --json?",
        ));
    };
    super::unit(Some((1, Unit::Ns)), given)?;
    let mut series = Vec::new();
    for (name, latency) in latencies {
        let latency =
            latency.as_object().ok_or_else(|| Wrong::new(1, format!("latency_ns.{name} is no object")))?;
        let table = table(name, latency)?;
        // Names that recorded nothing are in the object all the same.
        if table.count > 0 {
            let distribution = Distribution::Table(table);
            series.push(Series { name: name.clone(), distribution, timeline: Default::default() });
        }
    }
    if series.is_empty() {
        return Err(Wrong::new(1, "no latency in the object has a value; did anything pass?"));
    }
    let note = |key: &str| Some((key.to_owned(), value[key].to_string().trim_matches('"').to_owned()));
    let notes =
        ["program", "seconds", "packets"].into_iter().filter(|key| !value[*key].is_null()).filter_map(note);
    Ok(Run { notes: notes.collect(), series, ..Run::default() })
}

fn table(name: &str, latency: &Map<String, Value>) -> Result<Table, Wrong> {
    let field = |key: &str| {
        let number = latency.get(key).and_then(Value::as_u64);
        number.ok_or_else(|| Wrong::new(1, format!("latency_ns.{name}.{key} is missing, or no whole number")))
    };
    let mut rows = Vec::with_capacity(QUANTILES.len() + 1);
    for (_, key, quantile) in QUANTILES {
        rows.push(Row { quantile, ns: field(key)? });
    }
    rows.push(Row { quantile: 1.0, ns: field("max")? });
    let min_ns = field("min")?;
    if min_ns > rows[0].ns || !rows.is_sorted_by_key(|row| row.ns) {
        return Err(Wrong::new(
            1,
            format!("the percentiles of latency_ns.{name} are not in ascending order"),
        ));
    }
    Ok(Table { rows, count: field("count")?, min_ns })
}
