//! The face of every program that measures: one [`Summary`] in, text out.
//!
//! | room | for |
//! |---|---|
//! | [`totals`] | DPDK's testpmd users: per-port statistics, forward statistics |
//! | [`rates`], [`percentiles`], [`plot`] | people at a terminal |
//! | [`json`] | programs: one object on standard output, see `docs/json.md` |
//! | [`hgrm`], [`hlog`] | HdrHistogram's tools |
//! | [`progress`] | the one line that moves while a run lasts |
//!
//! Nothing in here measures, and all but [`progress`] and the file writers are functions from values to a `String`.

pub mod hgrm;
pub mod hlog;
pub mod json;
pub mod percentiles;
pub mod plot;
pub mod progress;
pub mod rates;
pub mod totals;
pub mod units;

use std::time::Duration;

use engine::latency::Latencies;
use engine::stats::{CoreSnapshot, Counters, PortSnapshot, Snapshot};

/// Whether text carries colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// For files and pipes.
    Plain,
    /// For terminals, as ANSI escape sequences.
    Ansi,
}

impl Colour {
    /// Colours if `stream` is a terminal and the user did not ask for none (<https://no-color.org>).
    #[must_use]
    pub fn of(stream: &impl std::io::IsTerminal) -> Colour {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !unwanted { Colour::Ansi } else { Colour::Plain }
    }

    /// `text` between the escape sequence `code` (SGR parameters, such as `1;36`) and a reset.
    #[must_use]
    pub fn paint(self, code: &str, text: &str) -> String {
        match self {
            Colour::Plain => text.to_string(),
            Colour::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    /// A heading.
    #[must_use]
    pub fn heading(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The program's name on the command line.
    pub program: &'static str,
    /// Everything the engine knows, at the end of the run.
    pub snapshot: Snapshot,
    /// How long the run was, without the wait for the last frames.
    pub measured: Duration,
    /// Frames that count as the result: received on the result ports.
    pub packets: u64,
    /// Their bytes, without frame check sequence.
    pub bytes: u64,
    /// The histograms of all cores, merged by name.
    pub latencies: Latencies,
    /// Frames dropped anywhere, by reason.
    pub drops: Counters,
    /// What programs counted, on all cores.
    pub counters: Counters,
}

impl Summary {
    /// Sums a snapshot up. `result_ports` are those whose received frames are the result: of a generator's own ports
    /// the frames that came back, of a forwarder all ports.
    #[must_use]
    pub fn new(program: &'static str, snapshot: Snapshot, result_ports: &[usize]) -> Summary {
        let result = |of: fn(&PortSnapshot) -> u64| {
            snapshot
                .ports
                .iter()
                .filter(|port| result_ports.contains(&port.total.port))
                .map(of)
                .fold(0, u64::saturating_add)
        };
        Summary {
            program,
            packets: result(|port| port.total.counters.rx_packets),
            bytes: result(|port| port.total.counters.rx_bytes),
            latencies: snapshot.latencies(),
            drops: snapshot.drops(),
            counters: snapshot.counters(),
            measured: snapshot.elapsed,
            snapshot,
        }
    }

    /// Length of the run in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.measured.as_secs_f64()
    }

    /// Result frames per second.
    #[must_use]
    pub fn packets_per_second(&self) -> f64 {
        per_second(self.packets, self.seconds())
    }

    /// Bits per second of the result frames, without frame check sequence, preamble and gap.
    #[must_use]
    pub fn bits_per_second(&self) -> f64 {
        8.0 * per_second(self.bytes, self.seconds())
    }

    /// Requests answered, if a program counts any.
    #[must_use]
    pub fn requests(&self) -> Option<u64> {
        requests(&self.snapshot)
    }

    /// Requests per second: of each core in the time in which it counted them, together.
    #[must_use]
    pub fn requests_per_second(&self) -> f64 {
        let of_core = |core: &CoreSnapshot| {
            let counters = &core.total.counters;
            let measured = Duration::from_micros(counters.get(MEASURED_US));
            let is_own = counters.iter().any(|(name, _)| name == MEASURED_US);
            per_second(counters.get(REQUESTS), if is_own { measured.as_secs_f64() } else { self.seconds() })
        };
        self.snapshot.cores.iter().map(of_core).sum()
    }

    /// The count under `name` of what programs counted; 0 if no program counts it.
    #[must_use]
    pub fn counted(&self, name: &str) -> u64 {
        self.counters.get(name)
    }

    /// What should be 0: queues stopped by a fault of the other side, frames damaged in the drivers or on the way.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let drivers = self.snapshot.ports.iter().map(|port| {
            let counters = &port.total.counters;
            counters.faults + counters.rx_errors + counters.tx_errors
        });
        drivers.fold(self.counted("errors") + self.counted("corrupted"), u64::saturating_add)
    }
}

/// The counter of answered requests: a program that has it is one whose result are requests, not frames.
pub const REQUESTS: &str = "requests";
/// The counter of the microseconds in which a core counted its requests, where that is not the whole run.
pub const MEASURED_US: &str = "measured_us";

/// Requests that all cores counted, if a program counts any.
fn requests(snapshot: &Snapshot) -> Option<u64> {
    let counters = snapshot.cores.iter().flat_map(|core| core.total.counters.iter());
    counters.filter(|(name, _)| *name == REQUESTS).map(|(_, count)| count).reduce(u64::saturating_add)
}

/// `count` in `seconds`, per second; 0 for no time at all.
#[must_use]
#[allow(clippy::cast_precision_loss)] // a rate is shown with three or four digits
pub fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod fixture;
