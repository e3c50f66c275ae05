//! `connections`: what a request costs when there are many connections.

use anyhow::{Context as _, Result, ensure};
use bywash::programs::echo::{Echo, EchoConfig};
use bywash::stack::TcpOptions;
use clap::Args;
use comfy_table::{Cell, CellAlignment, Color, Table};
use peers::precedence::Precedence;
use serde::Serialize;

use crate::figures;
use crate::latency::Latency;
use crate::loop_pair::{self, LoopPair};
use crate::our_pair::{CLIENT_CORE, SERVER_CORE};
use crate::outcome::{About, Outcome};
use crate::pace::Pace;

/// What it measures.
pub const ABOUT: About = About { what: "connections", how: HOW };

const HOW: &str = "The programs of `bywash echo` and `bywash load` on a core each of one process, joined by a pair of virtqueues \
    (`loop:`); 64-byte messages in a closed loop. Each line: so many connections are open, and on so many of them there \
    is always a request under way. Measuring begins when all are open. The cost of a request is the server's processor \
    time in turns of its loop that did something, by requests answered. Cases alternate, each with an engine of its own; \
    figures are medians of the rounds, ratios those of round-by-round ratios. All connections have small buffers, whose \
    size is in the table: with the default ones 100,000 would need 25 GB on the two sides together, if they were full.";

/// Handshakes under way that the server allows; the client has 256 at a time.
const BACKLOG: usize = 1024;

/// Flags of `connections`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Most connections; 100000 take about 2 GB
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=i64::from(loop_pair::MOST_CONNECTIONS)))]
    most: u32,

    /// Bytes of each of a connection's two buffers, on both sides
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1024..=65_536))]
    buffer: u32,
}

/// One case, and all its rounds.
#[derive(Debug, Serialize)]
struct Case {
    /// All connections.
    open: u32,
    /// Those with a request under way.
    active: u32,
    /// Another case's index, and how many times as much a request may cost as there.
    #[serde(skip)]
    target: Option<(usize, Option<f64>)>,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    rps: f64,
    /// Nanoseconds of the server's core, by request.
    cost_ns: f64,
    latency: Latency,
    others_share: f64,
}

/// The result.
#[derive(Debug, Serialize)]
pub struct Connections {
    buffer_bytes: u32,
    cases: Vec<Case>,
    pace: Pace,
}

/// One connection, some more, the most; then few active ones, alone and among silent ones.
fn cases(most: u32) -> Vec<Case> {
    let case = |open, active, target| Case { open, active, target, rounds: Vec::new() };
    let some = [1, 100, 1_000, 10_000].into_iter().filter(|&count| count < most);
    let mut cases: Vec<Case> =
        some.map(|count| case(count, count, (count > 1).then_some((0, None)))).collect();
    cases.push(case(most, most, Some((0, Some(6.0)))));
    // The second line is that of 100 connections.
    cases.push(case(most, 100, Some((1, Some(1.3)))));
    cases
}

/// Runs it on cores 0 (server) and 1 (client).
///
/// # Errors
/// If there is no second core, not all connections can be opened, or an answer is wrong or missing.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Connections> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    ensure!(cores.len() >= 2, "{} core, but server and client need one each", cores.len());
    let _precedence = Precedence::take();
    let most = if pace.smoke { flags.most.min(5_000) } else { flags.most };
    let mut cases = cases(most);
    for number in 0..pace.rounds {
        for index in Pace::order(number, cases.len()) {
            let (open, active) = (cases[index].open, cases[index].active);
            let round = measure(pace, flags, open, active)
                .with_context(|| format!("{open} connections, {active} active"))?;
            eprintln!(
                "{:>7.0} requests/s, {:>6.0} ns each  {open} open, {active} active, round {}",
                round.rps,
                round.cost_ns,
                number + 1
            );
            cases[index].rounds.push(round);
        }
    }
    Ok(Connections { buffer_bytes: flags.buffer, cases, pace: pace.clone() })
}

#[allow(clippy::cast_precision_loss)] // requests of a run and a minute in nanoseconds are far below 2^52
fn measure(pace: &Pace, flags: &Flags, open: u32, active: u32) -> Result<Round> {
    let buffer = flags.buffer as usize;
    let tcp = TcpOptions { rx_bytes: buffer, tx_bytes: buffer, ..TcpOptions::default() };
    let mut pair = LoopPair::new();
    let server = pair.engine.lcore(Some(SERVER_CORE));
    let client = pair.engine.lcore(Some(CLIENT_CORE));
    let config = EchoConfig {
        tcp_port: Some(loop_pair::PORT),
        udp_port: None,
        counts_requests: true,
        backlog: BACKLOG,
        tcp,
    };
    let host = loop_pair::settings(&[loop_pair::SERVER], open, tcp);
    pair.engine.stack(&[server], pair.server, &host, |_| Echo::new(config));
    pair.load(client, open, active, tcp);
    let mut running = pair.engine.start()?;
    let window = loop_pair::measure(&mut running, pace, open, client, server);
    // Not by closing one connection after another.
    let end = running.stop()?;
    let window = window?;
    let at_server = end.cores[server].total.counters.get("open");
    ensure!(at_server == u64::from(open), "{at_server} of {open} connections were open on the server");
    Ok(Round {
        rps: window.requests as f64 / window.seconds,
        cost_ns: window.busy_ns as f64 / window.requests as f64,
        latency: window.round_trip,
        others_share: window.others_share,
    })
}

impl Case {
    fn costs(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.cost_ns).collect()
    }
}

impl Connections {
    /// How many times as much a request costs as in the case that this one is compared with; and how many it may.
    fn ratio(&self, case: &Case) -> Option<(f64, Option<f64>)> {
        let (other, most) = case.target?;
        figures::paired_ratio(&case.costs(), &self.cases[other].costs()).map(|ratio| (ratio, most))
    }
}

impl Outcome for Connections {
    fn table(&self) -> Table {
        let headings = [
            "open",
            "active",
            "buffers",
            "k requests/s",
            "ns/request",
            "p50",
            "p99",
            "others' CPU",
            "cost ratio",
        ];
        let mut table = crate::table::new(headings);
        for case in &self.cases {
            let median = |of: fn(&Round) -> f64| {
                figures::median(&case.rounds.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0)
            };
            #[allow(clippy::cast_precision_loss)] // a minute is far below 2^52 ns
            let (p50, p99) =
                (median(|round| round.latency.p50 as f64), median(|round| round.latency.p99 as f64));
            let others = case.rounds.iter().map(|round| round.others_share).fold(0.0, f64::max);
            let other = |index: usize| self.cases[index].open;
            let ratio = match (self.ratio(case), case.target) {
                (Some((ratio, Some(most))), Some((index, _))) => {
                    let colour = if ratio <= most { Color::Green } else { Color::Red };
                    Cell::new(format!("{ratio:.2} × {} (≤ {most})", other(index))).fg(colour)
                }
                (Some((ratio, None)), Some((index, _))) => {
                    Cell::new(format!("{ratio:.2} × {}", other(index)))
                }
                _ => Cell::new("–"),
            };
            let cells = [
                Cell::new(case.open),
                Cell::new(case.active),
                Cell::new(format!("2 × {} B", self.buffer_bytes)),
                Cell::new(format!("{:.1}", median(|round| round.rps) / 1e3)),
                Cell::new(format!("{:.0}", median(|round| round.cost_ns))),
                Cell::new(format!("{:.2} µs", p50 / 1e3)),
                Cell::new(format!("{:.2} µs", p99 / 1e3)),
                Cell::new(format!("{:.1} %", 100.0 * others)),
                ratio,
            ];
            table.add_row(cells.map(|cell| cell.set_alignment(CellAlignment::Right)));
        }
        table
    }

    fn target(&self) -> Option<String> {
        let words = |case: &Case| {
            let (other, most) = case.target?;
            let (other, most) = (self.cases[other].open, most?);
            Some(format!("{} open, {} active ≤ {most} × {other} alone", case.open, case.active))
        };
        Some(self.cases.iter().filter_map(words).collect::<Vec<_>>().join("; "))
    }

    fn caveat(&self) -> Option<String> {
        let rounds = self.cases.iter().flat_map(|case| &case.rounds);
        self.pace.caveat(rounds.map(|round| round.others_share))
    }

    fn reaches_target(&self) -> Option<bool> {
        let ratios = self.cases.iter().filter_map(|case| self.ratio(case));
        let held = ratios.filter_map(|(ratio, most)| Some(ratio <= most?));
        held.reduce(|all, one| all && one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(costs: [f64; 6]) -> Connections {
        let pace = Pace { rounds: 1, seconds: 1.0, smoke: false, others_limit: 0.1, retries: 0 };
        let mut cases = cases(100_000);
        assert_eq!(cases.len(), costs.len());
        for (case, cost_ns) in cases.iter_mut().zip(costs) {
            case.rounds = vec![Round { rps: 1e6, cost_ns, latency: Latency::default(), others_share: 0.0 }];
        }
        Connections { buffer_bytes: 2048, cases, pace }
    }

    #[test]
    fn each_case_is_held_to_its_own_other() {
        // 1, 100, 1,000, 10,000, 100,000; 100 of 100,000.
        assert_eq!(outcome([100.0, 90.0, 9e9, 9e9, 600.0, 116.0]).reaches_target(), Some(true));
        assert_eq!(outcome([100.0, 90.0, 9e9, 9e9, 601.0, 116.0]).reaches_target(), Some(false));
        assert_eq!(outcome([100.0, 90.0, 9e9, 9e9, 600.0, 118.0]).reaches_target(), Some(false));
    }

    #[test]
    fn the_table_names_what_a_line_is_compared_with() {
        let mut table = outcome([100.0, 90.0, 200.0, 300.0, 590.0, 99.0]).table();
        table.force_no_tty();
        let text = table.to_string();
        for cell in ["5.90 × 1 (≤ 6)", "1.10 × 100 (≤ 1.3)", "2 × 2048 B", "3.00 × 1"] {
            assert!(text.contains(cell), "no {cell}: {text}");
        }
    }
}
