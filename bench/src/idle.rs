//! `idle`: what each idle policy costs in processor time, and what it adds to a frame's way.

mod kernel;
mod programs;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::{Cell, CellAlignment, Table};
use core_affinity::CoreId;
use engine::{Engine, Hub, Idle};
use peers::precedence::Precedence;
use serde::Serialize;

use crate::latency::Latency;
use crate::outcome::{About, Outcome};
use crate::pace::Pace;
use crate::quiet::Watch;
use programs::{Metronome, Reflect};

/// What it measures.
pub const ABOUT: About = About { what: "idle", how: HOW };

const HOW: &str = "One engine polls on one core and sends frames of 60 bytes at a fixed rate over a `loop:` link; another, \
    on another core and with the policy in question, sends them back. CPU is what the kernel accounts to the second \
    engine's loop; wake-ups are its sleeps and pauses; the latency is that of the round trip. The kernel's figures are \
    those of a thread that blocks in `recv` of a UDP socket over loopback and sends back what it gets, to a client that \
    never sleeps. `as fast as it goes`: 64 frames under way, the next as one comes back.";

/// Frames a second; 0 is idleness, `None` as fast as it goes.
const RATES: [Option<u64>; 6] = [Some(0), Some(1000), Some(10_000), Some(100_000), Some(1_000_000), None];

/// The rate at which wake-ups are compared: all sleep between two frames.
const WAKE_RATE: u64 = 1000;

/// Share of a core that an idle `adaptive` loop may use.
const IDLE_CPU: f64 = 0.01;
/// Times the median of a blocking kernel socket that its wake-up may take.
const WAKE_UP: f64 = 1.2;
/// Times the throughput of `poll` that it must reach.
const THROUGHPUT: f64 = 0.98;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Share of a core.
    cpu: f64,
    /// Sleeps and pauses a second.
    wakes: f64,
    /// Frames that came back, a second.
    rate: f64,
    /// Of the round trip.
    latency: Latency,
}

/// One policy at one rate, or the kernel.
#[derive(Clone, Debug, Serialize)]
struct Line {
    name: &'static str,
    rate: Option<u64>,
    rounds: Vec<Figures>,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Outcomes {
    lines: Vec<Line>,
    /// Share of all processors that others took, in each round.
    others_shares: Vec<f64>,
    #[serde(skip)]
    pace: Pace,
}

/// Runs it.
///
/// # Errors
/// If there are no two cores, or something does not start.
pub fn run(pace: &Pace) -> Result<Outcomes> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, second, ..] = cores[..] else { anyhow::bail!("needs two cores") };
    let cores = [first, second];
    let _precedence = Precedence::take();
    let mut lines: Vec<Line> = Vec::new();
    for rate in RATES {
        lines.extend(Idle::ALL.map(|idle| Line { name: idle.name(), rate, rounds: Vec::new() }));
        if rate == Some(WAKE_RATE) {
            lines.push(Line { name: "kernel", rate, rounds: Vec::new() });
        }
    }
    let mut others_shares = Vec::new();
    for round in 0..pace.rounds {
        let watch = Watch::start(&[std::process::id()])?;
        for index in Pace::order(round, lines.len()) {
            let line = &mut lines[index];
            let figures = match line.name.parse::<Idle>() {
                Ok(idle) => measure(idle, line.rate, pace, cores)?,
                Err(_) => apart(|| kernel::measure(WAKE_RATE, pace.round(), settle(pace), cores))?,
            };
            line.rounds.push(figures);
        }
        others_shares.push(watch.others_share()?);
    }
    Ok(Outcomes { lines, others_shares, pace: pace.clone() })
}

fn settle(pace: &Pace) -> Duration {
    pace.settle() / 4
}

/// On a thread of its own, which may be pinned.
fn apart<R: Send>(body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    std::thread::scope(|scope| {
        scope.spawn(body).join().unwrap_or_else(|_| anyhow::bail!("the measuring thread panicked"))
    })
}

fn measure(idle: Idle, rate: Option<u64>, pace: &Pace, cores: [CoreId; 2]) -> Result<Figures> {
    let hub = Hub::default();
    let mut engine = Engine::builder();
    engine.hub(&hub).idle(idle);
    let (port, core) = (engine.port("loop:b"), engine.lcore(Some(cores[1].id)));
    engine.program(core, Reflect, [port]);
    let mut server = engine.start()?;
    // There is no other engine yet.
    let thread = thread_named("lcore-0").context("the loop's thread is not there")?;
    let mut engine = Engine::builder();
    engine.hub(&hub);
    let (port, core) = (engine.port("loop:a"), engine.lcore(Some(cores[0].id)));
    engine.program(core, Metronome::new(rate), [port]);
    let mut client = engine.start()?;
    std::thread::sleep(settle(pace));
    let before = (client.snapshot(), server.snapshot(), cpu_ns(thread)?, Instant::now());
    std::thread::sleep(pace.round());
    let after = (client.snapshot(), server.snapshot(), cpu_ns(thread)?, before.3.elapsed());
    client.stop()?;
    server.stop()?;
    let seconds = after.3.as_secs_f64();
    let wakes = |snapshot: &engine::stats::Snapshot| {
        let rest = snapshot.cores[0].total.rest;
        rest.sleeps() + rest.pauses
    };
    let returned = after.0.counters().get("returned") - before.0.counters().get("returned");
    let latency = after.0.cores[0].interval.get(engine::latency::ROUND_TRIP).map(Latency::of);
    Ok(Figures {
        cpu: (after.2 - before.2) as f64 / after.3.as_nanos() as f64,
        wakes: (wakes(&after.1) - wakes(&before.1)) as f64 / seconds,
        rate: returned as f64 / seconds,
        latency: latency.unwrap_or_default(),
    })
}

/// The thread of this process that has this name. A thread gives itself its name, which may take it a moment.
fn thread_named(name: &str) -> Option<u32> {
    let look = || {
        fs::read_dir("/proc/self/task").ok()?.flatten().find_map(|entry| {
            let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
            (comm.trim() == name).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        })
    };
    (0..1000).find_map(|_| {
        let found = look();
        if found.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        found
    })
}

/// Nanoseconds that a thread has run: the first field of its `schedstat`.
fn cpu_ns(thread: u32) -> Result<u64> {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let first = text.split_whitespace().next().and_then(|field| field.parse().ok());
    first.with_context(|| format!("{path} says {text:?}"))
}

impl Line {
    fn median(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    }
}

impl Outcomes {
    fn line(&self, name: &str, rate: Option<u64>) -> Option<&Line> {
        self.lines.iter().find(|line| line.name == name && line.rate == rate)
    }

    /// Idle CPU, wake-up against the kernel's, throughput against that of `poll`.
    fn verdicts(&self) -> Option<[f64; 3]> {
        let adaptive = |rate| self.line(Idle::Adaptive.name(), rate);
        let p50 = |line: &Line| line.median(|figures| figures.latency.p50 as f64);
        let rate = |line: &Line| line.median(|figures| figures.rate);
        Some([
            adaptive(Some(0))?.median(|figures| figures.cpu),
            p50(adaptive(Some(WAKE_RATE))?) / p50(self.line("kernel", Some(WAKE_RATE))?),
            rate(adaptive(None)?) / rate(self.line(Idle::Poll.name(), None)?),
        ])
    }
}

impl Outcome for Outcomes {
    fn table(&self) -> Table {
        let mut table = crate::table::new(["", "frames/s", "came back/s", "CPU", "wake-ups/s", "p50", "p99"]);
        for line in &self.lines {
            let rate = match line.rate {
                Some(0) => "none".to_owned(),
                Some(rate) => rate.to_string(),
                None => "as fast as it goes".to_owned(),
            };
            let micros =
                |ns: f64| if ns == 0.0 { "–".to_owned() } else { format!("{:.1} µs", ns / 1000.0) };
            let cells = [
                format!("{:.0}", line.median(|figures| figures.rate)),
                format!("{:.2} %", 100.0 * line.median(|figures| figures.cpu)),
                format!("{:.0}", line.median(|figures| figures.wakes)),
                micros(line.median(|figures| figures.latency.p50 as f64)),
                micros(line.median(|figures| figures.latency.p99 as f64)),
            ];
            let right = cells.into_iter().map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right));
            table.add_row([Cell::new(line.name), Cell::new(rate)].into_iter().chain(right));
        }
        table
    }

    fn target(&self) -> Option<String> {
        let [cpu, wake_up, throughput] = self.verdicts()?;
        Some(format!(
            "adaptive: idle CPU {:.2} % (at most {:.0} %), wake-up p50 {wake_up:.2} × the kernel's (at most {WAKE_UP}), \
             throughput {throughput:.3} × that of poll (at least {THROUGHPUT})",
            100.0 * cpu,
            100.0 * IDLE_CPU
        ))
    }

    fn caveat(&self) -> Option<String> {
        self.pace.caveat(self.others_shares.iter().copied())
    }

    fn reaches_target(&self) -> Option<bool> {
        let [cpu, wake_up, throughput] = self.verdicts()?;
        Some(cpu <= IDLE_CPU && wake_up <= WAKE_UP && throughput >= THROUGHPUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(cpu: f64, p50: u64, rate: f64) -> Outcomes {
        let line = |name, at, cpu, p50, rate| {
            let latency = Latency { p50, ..Latency::default() };
            Line { name, rate: at, rounds: vec![Figures { cpu, wakes: 0.0, rate, latency }; 3] }
        };
        let lines = vec![
            line("adaptive", Some(0), cpu, 0, 0.0),
            line("adaptive", Some(WAKE_RATE), 0.1, p50, 1000.0),
            line("kernel", Some(WAKE_RATE), 0.1, 50_000, 1000.0),
            line("poll", None, 1.0, 9000, 1e6),
            line("adaptive", None, 1.0, 9000, rate),
        ];
        let pace = Pace { rounds: 3, seconds: 1.0, smoke: false, others_limit: 0.5, retries: 0 };
        Outcomes { lines, others_shares: vec![0.0; 3], pace }
    }

    #[test]
    fn each_of_the_three_targets_has_to_be_reached() {
        for (cpu, p50, rate, reached) in [
            (0.01, 60_000, 0.98e6, true),
            (0.011, 60_000, 0.98e6, false),
            (0.01, 60_100, 0.98e6, false),
            (0.01, 60_000, 0.97e6, false),
        ] {
            assert_eq!(outcomes(cpu, p50, rate).reaches_target(), Some(reached), "{cpu} {p50} {rate}");
        }
        let mut table = outcomes(0.005, 42_000, 1e6).table();
        table.force_no_tty();
        let text = table.to_string();
        for cell in ["0.50 %", "42.0 µs", "as fast as it goes", "none"] {
            assert!(text.contains(cell), "no {cell}: {text}");
        }
    }

    #[test]
    fn a_thread_is_found_by_its_name_and_its_time_passes() {
        let thread = std::thread::Builder::new().name("idle-test".into()).spawn(|| {
            let thread = thread_named("idle-test").unwrap();
            let before = cpu_ns(thread).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(200) {}
            cpu_ns(thread).unwrap() - before
        });
        assert!(thread.unwrap().join().unwrap() > 1_000_000);
        assert!(thread_named("nobody").is_none());
    }
}
