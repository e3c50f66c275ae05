//! `priority`: how long urgent and normal messages take from an idle link to a saturated one, with priorities and
//! without.

mod client;
mod server;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table};
use engine::stats::Snapshot;
use engine::{Engine, Priority, StackSettings};
use peers::precedence::Precedence;
use serde::Serialize;
use stack::{IpAddress, IpCidr};

use crate::comparison::Counted;
use crate::figures;
use crate::latency::Latency;
use crate::our_pair::{CLIENT_CORE, SERVER_CORE};
use crate::outcome::{About, Outcome};
use crate::pace::Pace;
use crate::quiet::Watch;
use client::{Client, Offered, Plan};
use server::Server;

/// What it measures.
pub const ABOUT: About = About { what: "priority", how: HOW };

const HOW: &str = "Two hosts on a core each over `loop:`. On one connection, with DSCP EF, 64-byte messages are echoed; on \
    others, with DSCP 0, messages of 16 KiB are answered by 64 bytes. Both kinds leave at constant rates, and an \
    answer's time counts from when its message was due. The normal messages come at shares of what was carried in a \
    first run in which their send buffers were kept full, without priorities; in the last two lines they are kept full \
    again, and a message's time counts from its first byte's way into the buffer. Cases alternate; figures are medians \
    of the rounds.";

/// Bytes of a normal message.
const MESSAGE_BYTES: usize = 16 << 10;
/// Bytes of the answer to a normal message, and of an urgent message and its answer.
const SMALL_BYTES: usize = 64;
/// The server's ports.
const ECHO: u16 = 7;
const BULK: u16 = 9;
/// RFC 3246.
const EF: u8 = 46;
const CLIENT: IpAddress = IpAddress::v4(10, 99, 0, 1);
const SERVER: IpAddress = IpAddress::v4(10, 99, 0, 2);
/// Shares of the saturated rate at which normal messages are offered, beside none and more than fits, in percent.
const SHARES: [u32; 4] = [25, 50, 75, 90];
/// What the loops may take beyond their time to connect and to get the last answers.
const GRACE: Duration = Duration::from_secs(20);

/// Flags of `priority`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Connections with normal messages
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,

    /// Urgent messages in a second
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    urgent_rate: u32,

    /// Frames that the transmit ring may hold when a normal one is posted
    #[arg(long, default_value_t = Priority::default().normal_limit, value_parser = clap::value_parser!(u16).range(1..))]
    normal_limit: u16,
}

/// One offered load, with priorities or without.
#[derive(Debug, Serialize)]
struct Case {
    /// Percent of the saturated rate; 0: none, 100: as much as fits.
    offered_percent: u32,
    with_priorities: bool,
    rounds: Vec<Round>,
}

#[derive(Clone, Debug, Serialize)]
struct Round {
    /// Normal messages answered in a second.
    normal_rate: f64,
    /// Normal messages that were due and of which nothing was sent when the time was up.
    unsent: u64,
    /// In nanoseconds, as everywhere; `None` if there was none.
    normal: Option<Latency>,
    urgent: Latency,
    others_share: f64,
}

/// The result.
#[derive(Debug, Serialize)]
pub struct Priorities {
    cases: Vec<Case>,
    /// Normal messages a second that 100 % stands for.
    saturated_rate: f64,
    message_bytes: usize,
    connections: u16,
    urgent_rate: u32,
    normal_limit: u16,
    pace: Pace,
}

/// Runs it.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Priorities> {
    let _precedence = Precedence::take();
    let saturated_rate = measure(flags, pace, Offered::Everything, false)?.normal_rate;
    ensure!(saturated_rate >= 1.0, "no normal message was answered");
    let percents = std::iter::once(0).chain(SHARES).chain([100]);
    let pairs = percents.flat_map(|percent| [(percent, false), (percent, true)]);
    let mut cases: Vec<Case> = pairs
        .map(|(offered_percent, with_priorities)| Case {
            offered_percent,
            with_priorities,
            rounds: Vec::new(),
        })
        .collect();
    for number in 0..pace.rounds {
        for index in Pace::order(number, cases.len()) {
            let case = &mut cases[index];
            let offered = match case.offered_percent {
                0 => Offered::Nothing,
                100 => Offered::Everything,
                percent => Offered::Rate(saturated_rate * f64::from(percent) / 100.0),
            };
            let round = measure_quietly(flags, pace, offered, case.with_priorities)?;
            eprintln!("{}, round {} of {}", case.told(&round), number + 1, pace.rounds);
            case.rounds.push(round);
        }
    }
    let Flags { connections, urgent_rate, normal_limit } = *flags;
    let (message_bytes, pace) = (MESSAGE_BYTES, pace.clone());
    Ok(Priorities { cases, saturated_rate, message_bytes, connections, urgent_rate, normal_limit, pace })
}

/// The quietest of so many attempts as the pace allows.
fn measure_quietly(flags: &Flags, pace: &Pace, offered: Offered, with_priorities: bool) -> Result<Round> {
    let mut quietest = measure(flags, pace, offered, with_priorities)?;
    for _ in 0..pace.retries {
        if quietest.others_share <= pace.others_limit {
            break;
        }
        let again = measure(flags, pace, offered, with_priorities)?;
        if again.others_share < quietest.others_share {
            quietest = again;
        }
    }
    Ok(quietest)
}

fn measure(flags: &Flags, pace: &Pace, offered: Offered, with_priorities: bool) -> Result<Round> {
    let mut engine = Engine::builder();
    let ports = [engine.port("loop:a"), engine.port("loop:b")];
    let cores = [engine.lcore(Some(CLIENT_CORE)), engine.lcore(Some(SERVER_CORE))];
    for port in ports.into_iter().filter(|_| with_priorities) {
        engine.priority(port, Priority { normal_limit: flags.normal_limit, ..Priority::default() });
    }
    let plan = Plan {
        offered,
        connections: flags.connections,
        urgent_rate: f64::from(flags.urgent_rate),
        settle: pace.settle(),
        length: pace.round(),
    };
    engine.stack(&[cores[0]], ports[0], &settings(CLIENT), |_| Client::new(plan));
    engine.stack(&[cores[1]], ports[1], &settings(SERVER), |_| Server::default());
    let running = engine.start().context("cannot start two hosts over loop:")?;
    let watch = Watch::start(&[std::process::id()])?;
    let deadline = Instant::now() + pace.settle() + pace.round() + GRACE;
    while !running.is_done() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let others_share = watch.others_share()?;
    let is_done = running.is_done();
    let snapshot = running.stop()?;
    ensure!(is_done, "the last answers did not come within {GRACE:?}: {:?}", snapshot.counters());
    judge(&snapshot, pace, offered, others_share)
}

fn settings(address: IpAddress) -> StackSettings {
    StackSettings { addresses: vec![IpCidr::new(address, 24)], ..StackSettings::default() }
}

/// The figures of a run, in which every message must have been answered.
fn judge(snapshot: &Snapshot, pace: &Pace, offered: Offered, others_share: f64) -> Result<Round> {
    let counters = snapshot.counters();
    let count = |name: &str| counters.get(name);
    ensure!(
        count("failed") == 0,
        "a connection ended early, or an answer was not the message's: {counters:?}"
    );
    for (sent, answered, received) in [
        ("urgent_sent", "urgent_answered", "urgent_received"),
        ("normal_sent", "normal_answered", "normal_received"),
    ] {
        if sent == "normal_sent" && offered == Offered::Nothing {
            continue;
        }
        for received in [answered, received] {
            let counted = Counted { sent: count(sent), received: count(received), slack: 0 };
            counted.check().with_context(|| format!("{sent} and {received}"))?;
        }
    }
    let latencies = snapshot.latencies();
    let latency = |name: &str| latencies.get(name).filter(|times| !times.is_empty()).map(Latency::of);
    #[allow(clippy::cast_precision_loss)] // messages of a run are far below 2^52
    let normal_rate = count("normal_in_time") as f64 / pace.round().as_secs_f64();
    Ok(Round {
        normal_rate,
        unsent: count("normal_unsent"),
        normal: latency("normal"),
        urgent: latency("urgent").context("no urgent message was answered in time")?,
        others_share,
    })
}

impl Case {
    fn offered(&self) -> String {
        match self.offered_percent {
            0 => "idle".to_owned(),
            100 => "saturated".to_owned(),
            percent => format!("{percent} %"),
        }
    }

    fn told(&self, round: &Round) -> String {
        let Latency { p50, p99, .. } = round.urgent;
        let priorities = if self.with_priorities { "with" } else { "without" };
        format!(
            "urgent p50 {:>7.1} µs, p99 {:>7.1} µs  {} {priorities} priorities",
            us(p50),
            us(p99),
            self.offered()
        )
    }

    fn median(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        figures::median(&self.rounds.iter().filter_map(of).collect::<Vec<_>>())
    }

    fn others_share(&self) -> f64 {
        self.rounds.iter().map(|round| round.others_share).fold(0.0, f64::max)
    }
}

#[allow(clippy::cast_precision_loss)] // a minute is far below 2^52 ns
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// Gigabits of payload a second.
#[allow(clippy::cast_precision_loss)]
fn gigabits(messages: f64) -> f64 {
    messages * (MESSAGE_BYTES * 8) as f64 / 1e9
}

impl Outcome for Priorities {
    fn table(&self) -> Table {
        let mut table = crate::table::new([
            "offered",
            "priorities",
            "carried",
            "normal p50",
            "p99",
            "urgent p50",
            "p99",
            "others' CPU",
        ]);
        for case in &self.cases {
            let time = |of: fn(&Latency) -> u64, is_urgent: bool| {
                let round = |round: &Round| {
                    let latency = if is_urgent { Some(&round.urgent) } else { round.normal.as_ref() };
                    latency.map(|latency| us(of(latency)))
                };
                case.median(round).map_or("–".to_owned(), |us| format!("{us:.1} µs"))
            };
            let rate = case.median(|round| Some(round.normal_rate)).unwrap_or(0.0);
            let cells = [
                Cell::new(if case.with_priorities { "with" } else { "without" }),
                Cell::new(format!("{:.2} Gbit/s", gigabits(rate))),
                Cell::new(time(|latency| latency.p50, false)),
                Cell::new(time(|latency| latency.p99, false)),
                Cell::new(time(|latency| latency.p50, true)),
                Cell::new(time(|latency| latency.p99, true)),
                Cell::new(format!("{:.1} %", 100.0 * case.others_share())),
            ];
            let cells = cells.map(|cell| cell.set_alignment(CellAlignment::Right));
            // The two lines of a load stand together.
            let offered = if case.with_priorities { String::new() } else { case.offered() };
            table.add_row(std::iter::once(Cell::new(offered)).chain(cells));
        }
        table
    }

    fn target(&self) -> Option<String> {
        None
    }

    fn caveat(&self) -> Option<String> {
        self.pace.caveat(self.cases.iter().map(Case::others_share))
    }

    fn reaches_target(&self) -> Option<bool> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(percents: &[(u32, bool, u64)]) -> Priorities {
        let case = |&(offered_percent, with_priorities, p50): &(u32, bool, u64)| {
            let urgent = Latency { p50, p99: 2 * p50, ..Latency::default() };
            let round = Round { normal_rate: 1e5, unsent: 0, normal: None, urgent, others_share: 0.0 };
            Case { offered_percent, with_priorities, rounds: vec![round] }
        };
        Priorities {
            cases: percents.iter().map(case).collect(),
            saturated_rate: 1e5,
            message_bytes: MESSAGE_BYTES,
            connections: 64,
            urgent_rate: 5000,
            normal_limit: 128,
            pace: Pace { rounds: 1, seconds: 1.0, smoke: false, others_limit: 0.1, retries: 0 },
        }
    }

    #[test]
    fn a_load_has_two_lines_and_its_name_once() {
        let mut table =
            result(&[(0, false, 3_000), (0, true, 3_000), (100, false, 818_000), (100, true, 140_000)])
                .table();
        table.force_no_tty();
        let text = table.to_string();
        assert_eq!(text.matches("idle").count(), 1, "{text}");
        assert!(text.contains("818.0 µs") && text.contains("280.0 µs"), "{text}");
        assert!(text.contains("13.11 Gbit/s") && text.contains('–'), "{text}");
    }

    /// The whole thing, for a moment: both kinds of messages, on whatever core there is time.
    #[test]
    fn every_message_is_answered_and_counted() {
        let pace = Pace { rounds: 1, seconds: 0.3, smoke: true, others_limit: 1.0, retries: 0 };
        let flags = Flags { connections: 3, urgent_rate: 1000, normal_limit: 16 };
        if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
            println!("SKIPPED: needs two cores");
            return;
        }
        for offered in [Offered::Nothing, Offered::Rate(200.0), Offered::Everything] {
            for with_priorities in [false, true] {
                let round = measure(&flags, &pace, offered, with_priorities).unwrap();
                assert!(round.urgent.count > 0, "{round:?}");
                assert_eq!(round.normal.is_some(), offered != Offered::Nothing, "{offered:?}: {round:?}");
            }
        }
    }
}
