//! `handoff`: what it costs that an answer is given by a thread and not on the loop.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bywash::door::{Net, TcpStream};
use bywash::programs::echo::{Echo, EchoConfig};
use bywash::stack::TcpOptions;
use comfy_table::{Cell, CellAlignment, Color, Table};
use peers::precedence::Precedence;
use serde::Serialize;

use crate::figures;
use crate::latency::Latency;
use crate::loop_pair::{self, LoopPair};
use crate::outcome::{About, Outcome};
use crate::pace::Pace;

/// What it measures.
pub const ABOUT: About = About { what: "handoff", how: HOW };

const HOW: &str = "TCP echo of 64 bytes on one connection, a request at a time. Client and server are stacks of one process on \
    a pair of virtqueues (`loop:`) and share core 0. The answer is given by a service on the loop, or by a thread on core 1 \
    with a socket of `door`: bytes go from core to thread through one ring and back through another. The spinning thread \
    reads without blocking, again and again; the sleeping one waits in `read` and is woken by futex, for orientation. \
    Contenders alternate, the client checks every answer; figures are medians of the rounds, the difference is the \
    median of round-by-round differences.";

/// Nanoseconds that a spinning thread may add to the median round trip.
const TARGET_NS: f64 = 1_500.0;
/// Core of both stacks, and core of the thread, by position among those of this process.
const STACKS: usize = 0;
const THREAD: usize = 1;
/// How long to wait for a thread to ask for its listener, before there is anybody to answer.
const HEAD_START: Duration = Duration::from_millis(50);

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Server {
    Service,
    SpinningThread,
    SleepingThread,
}

/// In the table's order; the first is what the others are compared with.
const SERVERS: [(Server, &str, Option<f64>); 3] = [
    (Server::Service, "service on the loop", None),
    (Server::SpinningThread, "spinning thread", Some(TARGET_NS)),
    (Server::SleepingThread, "sleeping thread", None),
];

/// The result.
#[derive(Debug, Serialize)]
pub struct Handoff {
    cases: Vec<Case>,
    pace: Pace,
}

#[derive(Debug, Serialize)]
struct Case {
    server: Server,
    #[serde(skip)]
    name: &'static str,
    /// Nanoseconds that it may add.
    target_ns: Option<f64>,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    rps: f64,
    latency: Latency,
    others_share: f64,
}

/// Runs it on cores 0 (both stacks) and 1 (the thread).
///
/// # Errors
/// If there is no second core, or an answer is wrong or missing.
pub fn run(pace: &Pace) -> Result<Handoff> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    ensure!(cores.len() >= 2, "{} core, but the stacks and the thread need one each", cores.len());
    let _precedence = Precedence::take();
    let mut cases: Vec<Case> =
        SERVERS.map(|(server, name, target_ns)| Case { server, name, target_ns, rounds: Vec::new() }).into();
    for number in 0..pace.rounds {
        for index in Pace::order(number, cases.len()) {
            let case = &mut cases[index];
            let round = quietest(pace, || measure(pace, &cores, case.server)).context(case.name)?;
            eprintln!(
                "{:>8} ns p50, {:>8} ns p99  {}, round {}",
                round.latency.p50,
                round.latency.p99,
                case.name,
                number + 1
            );
            case.rounds.push(round);
        }
    }
    Ok(Handoff { cases, pace: pace.clone() })
}

/// Again while others disturb it, as often as allowed.
fn quietest(pace: &Pace, mut measure: impl FnMut() -> Result<Round>) -> Result<Round> {
    let mut best = measure()?;
    for _ in 0..pace.retries {
        if best.others_share <= pace.others_limit {
            break;
        }
        let again = measure()?;
        if again.others_share < best.others_share {
            best = again;
        }
    }
    Ok(best)
}

fn measure(pace: &Pace, cores: &[core_affinity::CoreId], server: Server) -> Result<Round> {
    let tcp = TcpOptions::default();
    let mut pair = LoopPair::new();
    let lcore = pair.engine.lcore(Some(cores[STACKS].id));
    pair.load(lcore, 1, 1, tcp);
    let host = loop_pair::settings(&[loop_pair::SERVER], 1, tcp);
    let thread = match server {
        Server::Service => {
            let config = EchoConfig {
                tcp_port: Some(loop_pair::PORT),
                udp_port: None,
                counts_requests: false,
                backlog: 16,
                tcp,
            };
            pair.engine.stack(&[lcore], pair.server, &host, |_| Echo::new(config));
            None
        }
        Server::SpinningThread | Server::SleepingThread => {
            let net = pair.engine.sockets(&[lcore], pair.server, &host, 16);
            let (core, spins) = (cores[THREAD], server == Server::SpinningThread);
            let thread = std::thread::spawn(move || echo(&net, core, spins));
            // What it asks for waits for the engine; the client would be refused if it came first, and try again.
            std::thread::sleep(HEAD_START);
            Some(thread)
        }
    };
    let mut running = pair.engine.start()?;
    let window = loop_pair::measure(&mut running, pace, 1, lcore, lcore);
    running.stop()?;
    if let Some(thread) = thread {
        thread.join().ok().context("the echoing thread panicked")?.context("the echoing thread")?;
    }
    let window = window?;
    #[allow(clippy::cast_precision_loss)] // requests of a run are far below 2^52
    let rps = window.requests as f64 / window.seconds;
    Ok(Round { rps, latency: window.round_trip, others_share: window.others_share })
}

/// Serves one connection on `core` until the engine stops.
fn echo(net: &Net, core: core_affinity::CoreId, spins: bool) -> Result<()> {
    ensure!(core_affinity::set_for_current(core), "cannot pin to core {}", core.id);
    let at = SocketAddr::new(loop_pair::SERVER.into(), loop_pair::PORT);
    let listener = net.listen(at)?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(spins)?;
    let mut buffer = [0; 2048];
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::hint::spin_loop();
                continue;
            }
            // The engine has stopped.
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        match send(&mut stream, &buffer[..len]) {
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => return Ok(()),
            sent => sent?,
        }
    }
}

/// As `write_all`, on a stream that may not block.
fn send(stream: &mut TcpStream, mut data: &[u8]) -> std::io::Result<()> {
    while !data.is_empty() {
        match stream.write(data) {
            Ok(len) => data = &data[len..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Case {
    #[allow(clippy::cast_precision_loss)] // a minute is far below 2^52 ns
    fn latencies(&self, percentile: fn(&Latency) -> u64) -> Vec<f64> {
        self.rounds.iter().map(|round| percentile(&round.latency) as f64).collect()
    }
}

impl Handoff {
    /// Nanoseconds that the median round trip is longer than on the loop.
    fn added_ns(&self, case: &Case) -> Option<f64> {
        if case.server == Server::Service {
            return None;
        }
        let on_loop = self.cases.iter().find(|other| other.server == Server::Service)?;
        let p50 = |latency: &Latency| latency.p50;
        let pairs = case.latencies(p50).into_iter().zip(on_loop.latencies(p50));
        figures::median(&pairs.map(|(mine, its)| mine - its).collect::<Vec<_>>())
    }
}

impl Outcome for Handoff {
    fn table(&self) -> Table {
        let headings =
            ["answered by", "k requests/s", "p50", "p90", "p99", "p99.9", "others' CPU", "p50 more"];
        let mut table = crate::table::new(headings);
        for case in &self.cases {
            let median = |values: Vec<f64>| figures::median(&values).unwrap_or(0.0);
            let micros = |ns: f64| Cell::new(format!("{:.2} µs", ns / 1e3));
            let time = |of: fn(&Latency) -> u64| micros(median(case.latencies(of)));
            let rps = median(case.rounds.iter().map(|round| round.rps).collect());
            let others = case.rounds.iter().map(|round| round.others_share).fold(0.0, f64::max);
            let more = match (self.added_ns(case), case.target_ns) {
                (Some(ns), Some(most)) => {
                    let colour = if ns <= most { Color::Green } else { Color::Red };
                    Cell::new(format!("{:.2} µs (≤ {})", ns / 1e3, most / 1e3)).fg(colour)
                }
                (Some(ns), None) => micros(ns),
                (None, _) => Cell::new("–"),
            };
            let cells = [
                Cell::new(format!("{:.1}", rps / 1e3)),
                time(|latency| latency.p50),
                time(|latency| latency.p90),
                time(|latency| latency.p99),
                time(|latency| latency.p99_9),
                Cell::new(format!("{:.1} %", 100.0 * others)),
                more,
            ];
            let right = cells.into_iter().map(|cell| cell.set_alignment(CellAlignment::Right));
            table.add_row([Cell::new(case.name)].into_iter().chain(right));
        }
        table
    }

    fn target(&self) -> Option<String> {
        Some(format!("a spinning thread's median round trip ≤ {} µs more than on the loop", TARGET_NS / 1e3))
    }

    fn caveat(&self) -> Option<String> {
        let rounds = self.cases.iter().flat_map(|case| &case.rounds);
        self.pace.caveat(rounds.map(|round| round.others_share))
    }

    fn reaches_target(&self) -> Option<bool> {
        let held = self.cases.iter().filter_map(|case| case.target_ns.zip(self.added_ns(case)));
        held.map(|(most, ns)| ns <= most).reduce(|all, one| all && one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(p50: [[u64; 3]; 3]) -> Handoff {
        let pace = Pace { rounds: 3, seconds: 1.0, smoke: false, others_limit: 0.1, retries: 0 };
        let case = |((server, name, target_ns), p50): ((Server, &'static str, Option<f64>), [u64; 3])| {
            let round =
                |p50| Round { rps: 1e6, latency: Latency { p50, ..Latency::default() }, others_share: 0.0 };
            Case { server, name, target_ns, rounds: p50.map(round).into() }
        };
        Handoff { cases: SERVERS.into_iter().zip(p50).map(case).collect(), pace }
    }

    #[test]
    fn the_spinning_thread_alone_is_held_to_the_target_round_by_round() {
        // The second round was slow for all.
        let outcome_of =
            |more: u64| outcome([[500, 9_000, 500], [500 + more, 9_000 + more, 900], [20_000; 3]]);
        assert_eq!(outcome_of(1_500).reaches_target(), Some(true));
        assert_eq!(outcome_of(1_501).reaches_target(), Some(false));
    }

    #[test]
    fn the_table_says_how_much_more_each_thread_takes() {
        let mut table = outcome([[500; 3], [1_750; 3], [20_500; 3]]).table();
        table.force_no_tty();
        let text = table.to_string();
        for cell in ["service on the loop", "1.25 µs (≤ 1.5)", "20.00 µs", "0.50 µs"] {
            assert!(text.contains(cell), "no {cell}: {text}");
        }
    }
}
