//! Both ends in this process, joined by a pair of virtqueues (`loop:`): the client of `bywash load` against a server that
//! the benchmark chooses. Unlike two processes they can be looked at while they run, so that opening the connections is
//! neither measured nor guessed at.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bywash::programs::load::target::Host;
use bywash::programs::load::{Load, LoadConfig};
use bywash::stack::{IpAddress, Share, TcpOptions};
use engine::latency::ROUND_TRIP;
use engine::stats::{CoreReport, Snapshot};
use engine::{Engine, PortIndex, Running, StackSettings};

use crate::forwarder::DESCRIPTORS;
use crate::latency::Latency;
use crate::pace::Pace;
use crate::quiet::Watch;

/// The server's address; it listens on [`PORT`].
pub const SERVER: IpAddress = IpAddress::v4(10, 99, 0, 2);
/// Where it listens.
pub const PORT: u16 = 7;
/// One address has 49,152 ports for connections to one server.
const CLIENTS: [IpAddress; 4] = [
    IpAddress::v4(10, 99, 0, 11),
    IpAddress::v4(10, 99, 0, 12),
    IpAddress::v4(10, 99, 0, 13),
    IpAddress::v4(10, 99, 0, 14),
];
/// Most connections of the four addresses.
pub const MOST_CONNECTIONS: u32 = 4 * 49_152;
/// How long opening a connection may take on average: many times what it does.
const OPENING_EACH: Duration = Duration::from_micros(200);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An engine with the client's port and the server's, not yet with anything on them.
pub struct LoopPair {
    /// To add the server to, and to start.
    pub engine: Engine,
    /// The client's end.
    pub client: PortIndex,
    /// The server's end.
    pub server: PortIndex,
}

impl LoopPair {
    /// Two ports in this process.
    pub fn new() -> LoopPair {
        let mut engine = Engine::builder();
        engine.descriptors(DESCRIPTORS, DESCRIPTORS);
        let (client, server) = (engine.port("loop:a"), engine.port("loop:b"));
        LoopPair { engine, client, server }
    }

    /// Runs `connections` with a request of 64 bytes under way on each of the first `active`, on `lcore`.
    pub fn load(&mut self, lcore: usize, connections: u32, active: u32, tcp: TcpOptions) {
        let config = LoadConfig {
            host: Host::Address(SERVER),
            port: PORT,
            connections: connections as usize,
            active: Some(active as usize),
            // Else the requests of the first ones would keep the last ones waiting.
            together: true,
            tcp,
            ..LoadConfig::default()
        };
        let settings = settings(&CLIENTS, connections, tcp);
        self.engine.stack(&[lcore], self.client, &settings, |_| Load::new(&config, Share::default()));
    }
}

/// A host of `addresses` with room for `connections` and for as many that close.
pub fn settings(addresses: &[IpAddress], connections: u32, tcp: TcpOptions) -> StackSettings {
    use bywash::stack::IpCidr;
    let addresses = addresses.iter().map(|address| IpCidr::new(*address, 24)).collect();
    let mut settings = StackSettings { addresses, tcp, ..StackSettings::default() };
    settings.limits.flows = settings.limits.flows.max(2 * connections as usize);
    settings
}

/// What happened in a round.
pub struct Window {
    /// Requests that the client got answers to.
    pub requests: u64,
    /// How long it was.
    pub seconds: f64,
    /// From a request to its answer.
    pub round_trip: Latency,
    /// Time of the core `lcore` in turns that did something, in nanoseconds.
    pub busy_ns: u64,
    /// Share of all processor time that went to other programs meanwhile.
    pub others_share: f64,
}

/// Waits until all of `connections` are open, then for the machine to settle, then measures a round: requests and round
/// trips of the loop `client`, busy time of the loop `server` (which may be the same).
///
/// # Errors
/// If not all are open in time, one is lost, or an answer is wrong or missing.
pub fn measure(
    running: &mut Running,
    pace: &Pace,
    connections: u32,
    client: usize,
    server: usize,
) -> Result<Window> {
    wait_until_open(running, connections, client)?;
    std::thread::sleep(pace.settle());
    let watch = Watch::start(&[std::process::id()])?;
    let before = running.snapshot();
    std::thread::sleep(pace.round());
    let after = running.snapshot();
    let others_share = watch.others_share()?;
    ensure!(!running.has_died(), "a loop has died");
    ensure!(!after.cores.iter().any(|core| core.silent), "a loop gave no report");
    let more = |name: &str| count(&after, client, name) - count(&before, client, name);
    for name in ["errors", "lost", "connections"] {
        ensure!(
            more(name) == 0,
            "{} {name} while measuring: {:?}",
            more(name),
            core(&after, client).counters
        );
    }
    let requests = more("requests");
    ensure!(requests > 0, "no request was answered: {:?}", core(&after, client).counters);
    let histogram = after.cores[client].interval.get(ROUND_TRIP).context("no round trips")?;
    // A stack keeps some thousands of samples for the end of its turn, and says how many more there were.
    let (timed, lost) = (histogram.len(), more("samples_lost"));
    ensure!(
        timed + lost == requests,
        "{requests} answers, but {timed} round trips, {lost} lost: {:?}",
        core(&after, client).counters
    );
    let busy = core(&after, server).busy_ticks - core(&before, server).busy_ticks;
    Ok(Window {
        requests,
        seconds: after.interval.as_secs_f64(),
        round_trip: Latency::of(histogram),
        busy_ns: after.tsc.ns(busy),
        others_share,
    })
}

fn wait_until_open(running: &mut Running, connections: u32, client: usize) -> Result<()> {
    let started = Instant::now();
    let limit = Duration::from_secs(5) + connections * OPENING_EACH;
    loop {
        let snapshot = running.snapshot();
        let open = count(&snapshot, client, "connections");
        if open == u64::from(connections) {
            return Ok(());
        }
        let told = &core(&snapshot, client).counters;
        ensure!(
            started.elapsed() < limit && !running.has_died(),
            "{open} of {connections} connections were open after {limit:?}: {told:?}"
        );
        std::thread::sleep(LOOK_EVERY);
    }
}

fn core(snapshot: &Snapshot, lcore: usize) -> &CoreReport {
    &snapshot.cores[lcore].total
}

fn count(snapshot: &Snapshot, lcore: usize, name: &str) -> u64 {
    core(snapshot, lcore).counters.get(name)
}
