//! Several comparisons of one kind in one run, such as the same one at 1, 32 and 64 connections.

use comfy_table::{Cell, CellAlignment, Color, Table};
use serde::Serialize;

use crate::comparison::Comparison;
use crate::outcome::Outcome;

/// One of the comparisons.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// What it differs in from the others.
    pub title: String,
    /// Its contenders and rounds.
    pub comparison: Comparison,
    /// How many times shorter our median latency should be than that of the best peer.
    pub latency_target: Option<f64>,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Suite {
    /// In the order measured.
    pub parts: Vec<Part>,
}

impl Part {
    fn reaches_latency_target(&self) -> Option<bool> {
        let target = self.latency_target?;
        let lines = self.comparison.lines();
        let ours = self.comparison.contenders.iter().zip(lines).filter(|(contender, _)| !contender.is_peer);
        let reached: Vec<bool> =
            ours.map(|(_, line)| line.latency_ratio.is_some_and(|ratio| ratio >= target)).collect();
        (!reached.is_empty()).then(|| reached.iter().all(|reached| *reached))
    }

    /// Its targets in words.
    fn target(&self) -> Option<String> {
        let rate = self.comparison.target.map(|target| format!("{target} × the rate"));
        let latency = self.latency_target.map(|target| format!("1/{target} of the median latency"));
        let targets: Vec<String> = rate.into_iter().chain(latency).collect();
        (!targets.is_empty()).then(|| format!("{}: {}", self.title, targets.join(", ")))
    }
}

impl Outcome for Suite {
    fn table(&self) -> Table {
        let unit = self.parts.first().map_or("", |part| part.comparison.unit.shown().1);
        let headings = ["", "", unit, "range", "p50", "p99", "others' CPU", "ratio", "p50 shorter by"];
        let mut table = crate::table::new(headings);
        let verdict = |cell: Cell, reached: Option<bool>| match reached {
            Some(true) => cell.fg(Color::Green),
            Some(false) => cell.fg(Color::Red),
            None => cell,
        };
        for part in &self.parts {
            for (contender, line) in part.comparison.contenders.iter().zip(part.comparison.lines()) {
                let ratio = line.ratio.filter(|_| part.comparison.contenders.len() > 1);
                let rate_target = part.comparison.target.filter(|_| !contender.is_peer);
                let latency_target = part.latency_target.filter(|_| !contender.is_peer);
                let time = |ns: Option<f64>| Cell::new(ns.map_or("–".into(), micros));
                let cells = [
                    Cell::new(format!("{:.3}", line.rate)),
                    Cell::new(format!("{:.1} %", 100.0 * line.spread)),
                    time(line.latency.map(|(p50, _)| p50)),
                    time(line.latency.map(|(_, p99)| p99)),
                    Cell::new(format!("{:.1} %", 100.0 * line.others_share)),
                    verdict(times(ratio), ratio.zip(rate_target).map(|(ratio, target)| ratio >= target)),
                    verdict(
                        times(line.latency_ratio),
                        line.latency_ratio.zip(latency_target).map(|(ratio, target)| ratio >= target),
                    ),
                ];
                let name = Cell::new(&line.name);
                let name = if contender.is_peer { name } else { name.fg(Color::Cyan) };
                let right = cells.into_iter().map(|cell| cell.set_alignment(CellAlignment::Right));
                table.add_row([Cell::new(&part.title), name].into_iter().chain(right));
            }
        }
        table
    }

    fn target(&self) -> Option<String> {
        let targets: Vec<String> = self.parts.iter().filter_map(Part::target).collect();
        (!targets.is_empty()).then(|| targets.join("; "))
    }

    fn caveat(&self) -> Option<String> {
        self.parts.iter().find_map(|part| part.comparison.caveat())
    }

    fn reaches_target(&self) -> Option<bool> {
        let reached = self
            .parts
            .iter()
            .flat_map(|part| [part.comparison.reaches_target(), part.reaches_latency_target()]);
        reached.flatten().reduce(|all, one| all && one)
    }
}

fn micros(ns: f64) -> String {
    format!("{:.2} µs", ns / 1000.0)
}

fn times(ratio: Option<f64>) -> Cell {
    Cell::new(ratio.map_or("–".into(), |ratio| format!("{ratio:.2} ×")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::{Contender, Counted, Round, Unit};
    use crate::latency::Latency;
    use crate::pace::Pace;

    fn part(rate: f64, p50: u64, latency_target: Option<f64>) -> Part {
        let pace = Pace { rounds: 3, seconds: 1.0, smoke: false, others_limit: 0.5, retries: 0 };
        let contenders = vec![Contender::new("kernel", true), Contender::new("bywash", false)];
        let figures = [(1000.0, 40_000), (rate, p50)];
        let comparison = Comparison::run_in(Unit::Requests, contenders, Some(10.0), &pace, |index| {
            let (rate, p50) = figures[index];
            let latency = Some(Latency { p50, p99: 2 * p50, ..Latency::default() });
            let counted = Counted { sent: 1, received: 1, slack: 0 };
            Ok(Round { rate, cycles_per_packet: None, others_share: 0.0, counted, latency })
        });
        Part { title: "64 connections".to_owned(), comparison: comparison.unwrap(), latency_target }
    }

    #[test]
    fn all_parts_must_reach_their_targets_in_rate_and_in_latency() {
        for (rate, p50, latency_target, reached) in [
            (12_000.0, 1_000, Some(40.0), true),
            (12_000.0, 1_000, None, true),
            (12_000.0, 1_001, Some(40.0), false),
            (9_000.0, 1_000, Some(40.0), false),
        ] {
            let parts = vec![part(20_000.0, 500, Some(40.0)), part(rate, p50, latency_target)];
            assert_eq!(Suite { parts }.reaches_target(), Some(reached), "{rate} {p50}");
        }
    }

    #[test]
    fn the_table_has_rates_latencies_and_how_much_better() {
        let mut table = Suite { parts: vec![part(12_000.0, 1_000, Some(40.0))] }.table();
        table.force_no_tty();
        let text = table.to_string();
        for cell in ["64 connections", "k requests/s", "12.000", "1.00 µs", "80.00 µs", "12.00 ×", "40.00 ×"]
        {
            assert!(text.contains(cell), "no {cell}: {text}");
        }
    }
}
