//! The one line that moves while a run lasts, on standard error: nothing when that is no terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use engine::stats::Snapshot;

use super::{Colour, per_second, units};

/// Cells of the bar.
const BAR: usize = 20;

/// A line that is rewritten in place.
#[derive(Debug)]
pub struct Progress {
    /// Nothing is ever written if false.
    shown: bool,
    colour: Colour,
    length: Option<Duration>,
    result_ports: Vec<usize>,
    before: u64,
}

impl Progress {
    /// A line for a run of `length`, `None` for one without end; `quiet` for none at all.
    #[must_use]
    pub fn new(length: Option<Duration>, result_ports: &[usize], quiet: bool) -> Progress {
        let stderr = io::stderr();
        Progress {
            shown: !quiet && stderr.is_terminal(),
            colour: Colour::of(&stderr),
            length,
            result_ports: result_ports.to_vec(),
            before: 0,
        }
    }

    /// Whether anything is ever written.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.shown
    }

    /// Rewrites the line.
    pub fn show(&mut self, snapshot: &Snapshot) {
        let new = self.note(snapshot);
        if self.shown {
            let line = line(snapshot, self.length, new, self.colour);
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
            let _ = io::stderr().flush();
        }
    }

    /// Takes note of a snapshot, shown here or elsewhere: the next one's interval begins with it. Returns the results since
    /// the one before, and the unit of their rate.
    pub fn note(&mut self, snapshot: &Snapshot) -> (u64, &'static str) {
        let (results, unit) = results(snapshot, &self.result_ports);
        (results.saturating_sub(std::mem::replace(&mut self.before, results)), unit)
    }

    /// Takes the line away, so that something else can be printed.
    pub fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
            let _ = io::stderr().flush();
        }
    }
}

/// What the run came to until now, and the unit of its rate.
fn results(snapshot: &Snapshot, result_ports: &[usize]) -> (u64, &'static str) {
    if let Some(requests) = super::requests(snapshot) {
        return (requests, "req/s");
    }
    let ports = snapshot.ports.iter().filter(|port| result_ports.contains(&port.total.port));
    (ports.map(|port| port.total.counters.rx_packets).fold(0, u64::saturating_add), "pps")
}

/// The line's text; `new` are the results since the last one and the unit of their rate.
fn line(snapshot: &Snapshot, length: Option<Duration>, new: (u64, &str), colour: Colour) -> String {
    let elapsed = snapshot.elapsed.as_secs_f64();
    let time = match length {
        Some(length) => {
            let whole = length.as_secs_f64().max(f64::MIN_POSITIVE);
            format!("{} {:4.1}/{whole:.1} s", bar(elapsed / whole, colour), elapsed.min(whole))
        }
        None => format!("{elapsed:6.1} s (Ctrl-C to stop)"),
    };
    let rate = units::rate(per_second(new.0, snapshot.interval.as_secs_f64()), new.1);
    let dropped = snapshot.drops().sum();
    let dropped =
        colour.paint(if dropped == 0 { "32" } else { "1;31" }, &format!("{} dropped", units::count(dropped)));
    format!("{time}  {}  {dropped}", colour.paint("1", &format!("{rate:>9}")))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // 0 to 20 cells
fn bar(share: f64, colour: Colour) -> String {
    let full = ((share.clamp(0.0, 1.0)) * BAR as f64).round() as usize;
    format!("{}{}", colour.paint("36", &"━".repeat(full)), colour.paint("2", &"─".repeat(BAR - full)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn the_line_has_time_rate_and_drops_and_fits() {
        let snapshot = fixture::snapshot();
        let text = line(&snapshot, Some(Duration::from_secs(5)), (500_000, "pps"), Colour::Plain);
        assert_eq!(text, "━━━━━━━━────────────  2.0/5.0 s   500 kpps  7 dropped");
        let text = line(&snapshot, None, (0, "pps"), Colour::Plain);
        assert_eq!(text, "   2.0 s (Ctrl-C to stop)      0 pps  7 dropped");
    }

    #[test]
    fn requests_are_shown_in_place_of_frames_where_there_are_some() {
        assert_eq!(results(&fixture::snapshot(), &[0]), (1_000_000, "pps"));
        assert_eq!(results(&fixture::requests().snapshot, &[0]), (900_000, "req/s"));
    }

    #[test]
    fn results_count_from_the_last_snapshot_whoever_showed_it() {
        let mut progress = Progress::new(None, &[0], true);
        let snapshot = fixture::snapshot();
        assert_eq!(progress.note(&snapshot), (1_000_000, "pps"));
        progress.show(&snapshot);
        assert_eq!(progress.note(&snapshot), (0, "pps"));
    }

    #[test]
    fn a_run_that_overruns_its_length_has_a_full_bar() {
        assert_eq!(bar(1.7, Colour::Plain), "━".repeat(BAR));
        assert_eq!(bar(0.0, Colour::Plain), "─".repeat(BAR));
    }
}
