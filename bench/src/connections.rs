//! `connections`: what a request costs when there are many connections.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Color, Table};
use peers::bywash::Report;
use peers::precedence::Precedence;
use peers::testpmd::Host;
use serde::Serialize;

use crate::figures;
use crate::latency::Latency;
use crate::our_pair;
use crate::outcome::{About, Outcome};
use crate::pace::Pace;

/// What it measures.
pub const ABOUT: About = About { what: "connections", how: HOW };

const HOW: &str = "`bywash echo` and `bywash load`, two processes on a core each, joined by a vhost-user socket; 64-byte \
    messages in a closed loop. Each line: so many connections with one request under way each, and so many more that \
    are open and silent. The cost of a request is the server's processor time in turns of its loop that did something \
    (handshakes included), by requests answered. Cases alternate; figures are medians of the rounds, ratios those of round-by-round ratios.";

/// Connections opened in a second.
const OPENED_PER_SECOND: f64 = 20_000.0;

/// Flags of `connections`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Most connections; 100000 need about 2 GB
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=400_000))]
    most: u32,
}

/// One case, and all its rounds.
#[derive(Debug, Serialize)]
struct Case {
    /// Connections with a request under way.
    active: u32,
    /// Silent ones.
    idle: u32,
    /// Another case's index, and how many times as much a request may cost as there.
    #[serde(skip)]
    target: Option<(usize, f64)>,
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
    cases: Vec<Case>,
    pace: Pace,
}

/// Runs it.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Connections> {
    peers::bywash::binary()?;
    let _precedence = Precedence::take();
    let host = Host::new(1024)?;
    let socket = host.socket("connections");
    let most = if pace.smoke { flags.most.min(5_000) } else { flags.most };
    let case = |active, idle, target| Case { active, idle, target, rounds: Vec::new() };
    let mut cases = vec![
        case(1, 0, None),
        case(1_000, 0, None),
        case(most, 0, Some((0, 6.0))),
        case(100, 0, None),
        case(100, most - 100, Some((3, 1.3))),
    ];
    for number in 0..pace.rounds {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let round = measure(pace, &socket, cases[index].active, cases[index].idle)?;
            eprintln!(
                "{:>7.0} requests/s, {:>6.0} ns each  {} active, {} idle, round {}",
                round.rps,
                round.cost_ns,
                cases[index].active,
                cases[index].idle,
                number + 1
            );
            cases[index].rounds.push(round);
        }
    }
    Ok(Connections { cases, pace: pace.clone() })
}

fn measure(pace: &Pace, socket: &std::path::Path, active: u32, idle: u32) -> Result<Round> {
    let all = active + idle;
    let (connections, active) = (all.to_string(), active.to_string());
    // Those that are closing count too.
    let limit = (2 * all + 1_000).to_string();
    // Opening them takes a while, and none of that time is to be measured.
    let ramp_up = f64::from(all) / OPENED_PER_SECOND;
    let warm_up = Duration::from_secs_f64(1.5 * ramp_up) + pace.settle();
    let ramp_up = ramp_up.to_string();
    let buffers = ["--rx-buffer", "1K", "--tx-buffer", "1K", "--max-connections", &limit];
    let to = format!("{}:7", our_pair::SERVER);
    let mut server = vec!["echo"];
    server.extend(buffers);
    let mut client =
        vec!["--to", &to, "--connections", &connections, "--active", &active, "--ramp-up", &ramp_up];
    client.extend(buffers);
    // One address has 49,152 ports for connections to one server.
    client.extend(["--ip", "10.99.0.3/24", "--ip", "10.99.0.4/24"]);
    let reports = our_pair::run_warm(pace, warm_up, socket, &server, &client)?;
    reports.counted()?.check()?;
    let open = reports.client.count("/counters/connections")?;
    ensure!(open == u64::from(all), "{open} connections were open, not {all}");
    Ok(Round {
        rps: reports.client.number("/rps")?,
        cost_ns: cost_ns(&reports.server)?,
        latency: Latency::read(&reports.client, "round_trip")?,
        others_share: reports.others_share,
    })
}

/// Time in busy turns of the server's loop, by requests.
#[allow(clippy::cast_precision_loss)] // requests of a run are far below 2^52
fn cost_ns(report: &Report) -> Result<f64> {
    let requests = report.count("/requests")?;
    ensure!(requests > 0, "no request was answered: {}", report.value());
    Ok(report.number("/cores/0/busy")? * report.number("/seconds")? * 1e9 / requests as f64)
}

impl Case {
    fn costs(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.cost_ns).collect()
    }
}

impl Connections {
    /// How many times as much a request costs as in the case that this one is held to.
    fn ratio(&self, case: &Case) -> Option<(f64, f64)> {
        let (other, most) = case.target?;
        figures::paired_ratio(&case.costs(), &self.cases[other].costs()).map(|ratio| (ratio, most))
    }
}

impl Outcome for Connections {
    fn table(&self) -> Table {
        let headings =
            ["active", "idle", "k requests/s", "ns/request", "p50", "p99", "others' CPU", "cost ratio"];
        let mut table = crate::table::new(headings);
        for case in &self.cases {
            let median = |of: fn(&Round) -> f64| {
                figures::median(&case.rounds.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0)
            };
            #[allow(clippy::cast_precision_loss)] // a minute is far below 2^52 ns
            let (p50, p99) =
                (median(|round| round.latency.p50 as f64), median(|round| round.latency.p99 as f64));
            let others = case.rounds.iter().map(|round| round.others_share).fold(0.0, f64::max);
            let ratio = match self.ratio(case) {
                Some((ratio, most)) => {
                    let colour = if ratio <= most { Color::Green } else { Color::Red };
                    Cell::new(format!("{ratio:.2} × (≤ {most})")).fg(colour)
                }
                None => Cell::new("–"),
            };
            let cells = [
                Cell::new(case.active),
                Cell::new(case.idle),
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
            let other = self.cases[other].active;
            Some(format!("{} active, {} idle ≤ {most} × {other} active", case.active, case.idle))
        };
        Some(self.cases.iter().filter_map(words).collect::<Vec<_>>().join("; "))
    }

    fn caveat(&self) -> Option<String> {
        let rounds = self.cases.iter().flat_map(|case| &case.rounds);
        let worst = rounds.map(|round| round.others_share).fold(0.0, f64::max);
        if self.pace.smoke {
            return Some("a smoke run: shows that it works, and nothing else".to_owned());
        }
        let is_disturbed = worst > self.pace.others_limit;
        is_disturbed
            .then(|| format!("disturbed: other programs took up to {:.0} % of the processor", 100.0 * worst))
    }

    fn reaches_target(&self) -> Option<bool> {
        let ratios = self.cases.iter().filter_map(|case| self.ratio(case));
        ratios.map(|(ratio, most)| ratio <= most).reduce(|all, one| all && one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(costs: [f64; 3]) -> Connections {
        let targets = [None, Some((0, 6.0)), Some((0, 1.3))];
        let case = |(cost_ns, target)| {
            let round = Round { rps: 1e6, cost_ns, latency: Latency::default(), others_share: 0.0 };
            Case { active: 1, idle: 0, target, rounds: vec![round] }
        };
        let pace = Pace { rounds: 1, seconds: 1.0, smoke: false, others_limit: 0.1, retries: 0 };
        Connections { cases: costs.into_iter().zip(targets).map(case).collect(), pace }
    }

    #[test]
    fn each_case_is_held_to_its_own_other() {
        assert_eq!(outcome([100.0, 600.0, 129.0]).reaches_target(), Some(true));
        assert_eq!(outcome([100.0, 601.0, 129.0]).reaches_target(), Some(false));
        assert_eq!(outcome([100.0, 600.0, 131.0]).reaches_target(), Some(false));
    }

    #[test]
    fn a_cost_is_busy_time_by_requests() {
        let text = r#"{"requests": 1000000, "seconds": 2.0, "cores": [{"busy": 0.25}]}"#;
        assert!((cost_ns(&Report::parse(text).unwrap()).unwrap() - 500.0).abs() < 1e-6);
        assert!(cost_ns(&Report::parse(r#"{"requests": 0}"#).unwrap()).is_err());
    }
}
