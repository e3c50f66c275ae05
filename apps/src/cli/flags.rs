//! Flags that all programs share, and the settings that they and the configuration file come to.

use std::path::PathBuf;
use std::time::Duration;

use engine::config::{self, Config, Cores, EngineTable, PortTable};
use engine::{Engine, Idle};
use pmd::port::PortSpec;

use super::Failure;

/// Frames taken from a queue per turn by a host that was not told otherwise.
const HOST_BURST: usize = 16;

/// Which ports.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Ports")]
pub struct PortFlags {
    /// Port to open, repeatable; the order counts. Replaces the ports of the configuration file
    #[arg(long = "port", value_name = "SPEC")]
    pub ports: Vec<String>,
}

/// Cores, bursts, rings, memory.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineFlags {
    /// Processors to run on, such as 1,3-5; without it one loop that the kernel places
    #[arg(short = 'l', long, value_name = "LIST")]
    pub cores: Option<Cores>,

    /// Configuration file in TOML; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Most frames taken from a queue per turn, 1 to 64 [default: 64; with a TCP/IP stack 16]
    #[arg(long, value_name = "N", value_parser = number(config::burst))]
    pub burst: Option<usize>,

    /// Descriptors of each receive queue; made a power of two unless the ring is packed [default: 1024]
    #[arg(long, value_name = "N", value_parser = number(config::descriptors))]
    pub rxd: Option<u16>,

    /// Descriptors of each transmit queue; the same [default: 1024]
    #[arg(long, value_name = "N", value_parser = number(config::descriptors))]
    pub txd: Option<u16>,

    /// Packet buffers in all [default: what the queues hold, and 2048 a core]
    #[arg(long, value_name = "N", value_parser = number(config::mbufs))]
    pub mbufs: Option<usize>,

    /// What a core does while nothing comes: poll uses all of it, adaptive sleeps after 50 µs, interrupt at once [default:
    /// poll]
    #[arg(long, value_name = "POLICY", value_parser = clap::builder::ValueParser::new(str::parse::<Idle>))]
    pub idle: Option<Idle>,

    /// Record no latencies: for measuring what recording costs
    #[arg(long)]
    pub no_latency: bool,
}

/// How long, and what is shown.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Run and output")]
pub struct OutputFlags {
    /// Stop after this many seconds [default: 5 for demo, else when interrupted]
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<Duration>,

    /// Print port statistics and latencies every so many seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub stats_period: Option<Duration>,

    /// Write latencies of each interval (--stats-period, or 1 s) as an HdrHistogram interval log
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,

    /// Write the latency distribution as an HdrHistogram percentile table, in µs; further latencies beside it
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,

    /// Write a page about the run when it ends: figures, percentiles, latencies over time, configuration; HTML, complete in
    /// one file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Print one JSON object at the end, and nothing else on standard output
    #[arg(long)]
    pub json: bool,

    /// What other commands call this engine (bywash show, stop, dump) [default: PROGRAM-PROCESS]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Speak DPDK's telemetry protocol under this file prefix: `dpdk-telemetry.py` finds `rte` (without PREFIX), and any
    /// other with -f PREFIX
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "rte")]
    pub telemetry: Option<String>,

    /// Serve a page of metrics for Prometheus at http://ADDRESS:PORT/metrics; who reaches the address may read it
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<std::net::SocketAddr>,

    /// No progress line, no plot
    #[arg(short, long)]
    pub quiet: bool,
}

/// What every program on ports has besides its own flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Shared {
    /// Where frames come from and go to.
    #[command(flatten)]
    pub ports: PortFlags,
    /// Cores, bursts, rings, memory.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputFlags,
}

impl Shared {
    /// These flags over the file, insisting on ports, for `program`.
    ///
    /// # Errors
    /// As [`Settings::with_ports`].
    pub fn settings(&self, program: &str, file: Config) -> Result<Settings, Failure> {
        Settings::new(&self.engine, &self.ports.ports, file).with_ports(program)
    }
}

/// A parser of a number that `check` accepts.
fn number<T: Clone + Send + Sync + 'static>(
    check: fn(i64) -> Result<T, String>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().map_err(|_| format!("`{text}` is not a whole number"))?;
        check(number)
    }
}

/// Seconds, fractions allowed, from a millisecond to a year.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 365.0 * 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=YEAR).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("use a number of seconds such as 5 or 0.5, at least 0.001".to_string()),
    }
}

/// What the shared flags and the configuration file come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Engine-wide values.
    pub engine: EngineTable,
    /// Ports to open.
    pub ports: Vec<PortTable>,
    /// Whether latencies are recorded.
    pub latency: bool,
}

impl Settings {
    /// Flags over file.
    #[must_use]
    pub fn new(flags: &EngineFlags, ports: &[String], file: Config) -> Settings {
        let typed = EngineTable {
            cores: flags.cores.clone(),
            burst: flags.burst,
            mbufs: flags.mbufs,
            rxd: flags.rxd,
            txd: flags.txd,
            idle: flags.idle,
            ..EngineTable::default()
        };
        let ports = if ports.is_empty() { file.ports } else { ports.iter().map(PortTable::new).collect() };
        Settings { engine: typed.or(file.engine), ports, latency: !flags.no_latency }
    }

    /// The same, insisting on ports, and on port strings that are some.
    ///
    /// # Errors
    /// [`Failure::Usage`] if there is none, or one that cannot be.
    pub fn with_ports(self, program: &str) -> Result<Settings, Failure> {
        if self.ports.is_empty() {
            let advice = format!(
                "{program} needs a port; give --port SPEC (such as --port vhost-user:/tmp/x.sock) or [[port]] in a \
                 --config file, or run `bywash demo`, which needs none"
            );
            return Err(Failure::usage(advice));
        }
        // A misspelt port is found here, before anything is started.
        for port in &self.ports {
            port.spec.parse::<PortSpec>().map_err(|error| Failure::usage(error.to_string()))?;
        }
        Ok(self)
    }

    /// [`engine`](Self::engine) for hosts with a TCP/IP stack, in smaller bursts if nothing is said: a request costs so
    /// much more than a frame to forward that the other end would wait for the whole burst to be answered, and this
    /// one then for it, each idle half the time. With 64 connections over vhost-user, bursts of 16 carried 1.52 million
    /// requests a second where bursts of 64 carried 1.05.
    #[must_use]
    pub fn host_engine(&self) -> (Engine, Vec<Option<usize>>) {
        let (mut engine, cpus) = self.engine();
        if self.engine.burst.is_none() {
            engine.burst(HOST_BURST);
        }
        (engine, cpus)
    }

    /// An engine of these values, its ports added; and the processors, one entry a loop, `None` for a loop that the
    /// kernel places.
    #[must_use]
    pub fn engine(&self) -> (Engine, Vec<Option<usize>>) {
        let mut engine = Engine::builder();
        let EngineTable { cores, burst, mbufs, rxd, txd, idle, page_size, node, gro } = &self.engine;
        if let Some(burst) = burst {
            engine.burst(*burst);
        }
        if let Some(mbufs) = mbufs {
            engine.mbufs(*mbufs);
        }
        engine.latency(self.latency);
        engine.gro(gro.unwrap_or_default());
        engine.idle(idle.unwrap_or_default());
        engine.memory(page_size.unwrap_or_default(), *node);
        for port in &self.ports {
            let default = config::DEFAULT_DESCRIPTORS;
            engine.descriptors(port.rxd.or(*rxd).unwrap_or(default), port.txd.or(*txd).unwrap_or(default));
            engine.port(port.spec.clone());
        }
        let cpus = match cores {
            Some(cores) => cores.as_slice().iter().copied().map(Some).collect(),
            None => vec![None],
        };
        (engine, cpus)
    }
}
