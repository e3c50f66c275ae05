//! The command line: what can be typed, checked, and merged with the configuration file.
//!
//! ```text
//!   typed text ─► clap ─► is there --config? ─► its program table becomes flags ─► clap ─► Cli
//!                                └────────────► [engine], [[port]] ──────────────────────► Settings
//! ```
//!
//! What is typed wins over the file; what stands in neither is the engine's default.

pub mod failure;
mod file;
pub mod flags;
pub mod net;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use failure::Failure;
pub use file::parse;
pub use flags::{EngineFlags, OutputFlags, PortFlags, Settings, Shared};
pub use net::StackFlags;

use crate::programs::echo::EchoArgs;
use crate::programs::generator::GenArgs;
use crate::programs::http::HttpArgs;
use crate::programs::l2fwd::L2fwdArgs;
use crate::programs::load::LoadArgs;
use crate::programs::ping::PingArgs;
use crate::programs::resolve::ResolveArgs;
use crate::programs::rxonly::RxOnlyArgs;
use crate::programs::{echo, generator, http, l2fwd, load, ping, resolve, rxonly};
use crate::{devices, doctor, dump, hist, show, stop};

/// Programs that may have a table in the configuration file.
pub const PROGRAMS: [&str; 9] = ["demo", "l2fwd", "gen", "rxonly", "echo", "load", "http", "ping", "resolve"];

const EXIT_CODES: &str = "\
Exit codes: 0 all went well; 1 something failed at run time; 2 wrong usage or configuration.";

const OVERVIEW: &str = "\
Port strings:
  vfio:0000:00:03.0              virtio-net PCI device bound to vfio-pci
  vhost-user:/run/x.sock         we are the driver of a vhost-user backend
  vhost-user-server:/run/x.sock  we are the device, for QEMU, DPDK or another bywash
  tap:bw0                        TAP interface, made if it is not there: the kernel is the other side
  xdp:eth1                       AF_XDP on a kernel interface; addr=IP, port=N take only those frames, the kernel the rest
  loop:a, loop:b                 two ends of a virtqueue pair in this process
  pcap:in=a.pcap,out=b.pcapng    what is in a file is received, what is sent is written; loop=N, speed=max|original|2x
  null:                          receives nothing (rx=on: the same frame for ever) and swallows what is sent
  netem:loss=1%,delay=5ms/PORT   any of these behind a bad link, both ways: loss, duplicate, corrupt, reorder, delay

Examples:
  bywash demo                                          five seconds, no NIC, no root
  bywash doctor                                        what this machine is ready for
  bywash l2fwd --port vfio:0000:00:03.0 --port vfio:0000:00:04.0 -l 1 --stats-period 1
  bywash l2fwd --port pcap:in=a.pcap,speed=original --port tap:bw0
  bywash dump tap:bw0 -w - | wireshark -k -i -         look into an engine that runs
  bywash hist before.hlog after.hlog --plot ab.png     two runs side by side
  bywash show ports --watch 1                          the rates of an engine that runs
  bywash gen --port vhost-user:/tmp/x.sock --rate 1M --seconds 10 --json
  bywash echo --port tap:bw0 --ip 10.0.0.2/24
  bywash http --port tap:bw0 --ip 10.0.0.2/24 --root /srv/www
  bywash ping 10.0.0.1 --port tap:bw0 --ip 10.0.0.2/24 -c 3

Exit codes: 0 all went well; 1 something failed at run time; 2 wrong usage or configuration.
Log messages go to standard error; BYWASH_LOG=debug shows more of them.";

/// A user-space packet engine: frames of a NIC, a guest or a file, past the kernel.
#[derive(Debug, Parser)]
#[command(name = "bywash", version, after_help = OVERVIEW, max_term_width = 100)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the engine at work: a generator, a virtqueue pair, a forwarder, and back; no NIC, no root
    Demo(Demo),
    /// Forward frames between pairs of ports
    L2fwd(L2fwd),
    /// Generate traffic and judge what comes back: loss, order, round trip
    Gen(Gen),
    /// Receive, count and discard
    Rxonly(RxOnly),
    /// Send back whatever comes over TCP and UDP
    Echo(Echo),
    /// Ask a server over TCP, UDP or HTTP, check the answers, measure how long they take
    Load(Load),
    /// Serve files, or one fixed answer, over HTTP
    Http(Http),
    /// Ask a host whether it is there, and measure how long its answers take
    Ping(Ping),
    /// Ask DNS servers for the addresses of names
    Resolve(Resolve),
    /// Capture what passes a port of a running engine: to a file, a pipe, or as lines
    Dump(dump::Args),
    /// Show what runs left behind: percentiles, comparisons, pictures, reports
    Hist(hist::Args),
    /// Show what a running engine does: its loops, ports, queues, memory, drops, latencies, configuration
    Show(show::Args),
    /// End a running engine as Ctrl-C does: it finishes what is under way and prints its report
    Stop(stop::Args),
    /// Say what keeps a port from opening on this machine, and the command that fixes it
    Doctor(doctor::Args),
    /// List the NICs of this machine; give them to vfio-pci, and back to the kernel
    Devices(devices::Args),
    /// Print what a shell reads to complete commands and flags
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder; made if it is not there
        folder: PathBuf,
    },
}

/// `bywash demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{DEMO_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Demo {
    /// Requests over TCP in place of frames: a client, a virtqueue pair, an echo server; --size, --rate, --count and
    /// --drain-ms are then those of requests
    #[arg(long, conflicts_with_all = ["imix", "line_rate", "flows", "check", "pcap", "dst_mac", "src_mac",
        "settle_ms", "forward_mode"])]
    pub tcp: bool,
    /// With --tcp: connections [default: 16]
    #[arg(long, value_name = "N", requires = "tcp", value_parser = load::args::connections)]
    pub connections: Option<usize>,
    /// What the forwarder does to the frames.
    #[command(flatten)]
    pub l2fwd: L2fwdArgs,
    /// What the generator sends.
    #[command(flatten)]
    pub traffic: GenArgs,
    /// Cores, bursts, rings, memory.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputFlags,
}

const DEMO_EXAMPLES: &str = "\
A traffic generator sends into loop:a, a forwarder takes the frames out of loop:b and sends them back; both ends are \
virtqueues in shared memory, as with a real device. With two cores (-l, or more than two in the machine) each of them \
has its own, with one they share a loop.

Examples:
  bywash demo                          as fast as it goes, five seconds
  bywash demo -l 0,1                   generator and forwarder on a core each
  bywash demo --tcp                    TCP requests between two stacks, answered by an echo server
  bywash demo --tcp --rate 500k        requests on time, whether or not earlier ones are answered
  bywash demo --rate 500k --seconds 20 at a rate that leaves room: short round trips
  bywash demo --imix --hgrm demo.hgrm  mixed sizes; the latency distribution into files
  bywash demo --json | jq .latency_ns.round_trip";

/// `bywash l2fwd`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", l2fwd::EXAMPLES))]
pub struct L2fwd {
    /// What happens to the frames.
    #[command(flatten)]
    pub args: L2fwdArgs,
    /// First send this many bursts of 32 frames of 64 bytes from each port: two ports that are wired to each other
    /// then pass them round for ever
    #[arg(long, value_name = "BURSTS", default_value_t = 0)]
    pub tx_first: u32,
    /// Ports, cores, output.
    #[command(flatten)]
    pub shared: Shared,
}

/// `bywash gen`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", generator::EXAMPLES))]
pub struct Gen {
    /// What to send.
    #[command(flatten)]
    pub args: GenArgs,
    /// Ports, cores, output.
    #[command(flatten)]
    pub shared: Shared,
}

/// `bywash rxonly`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", rxonly::EXAMPLES))]
pub struct RxOnly {
    /// Flags of its own.
    #[command(flatten)]
    pub args: RxOnlyArgs,
    /// Ports, cores, output.
    #[command(flatten)]
    pub shared: Shared,
}

/// `bywash echo`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", echo::EXAMPLES))]
pub struct Echo {
    /// What is answered.
    #[command(flatten)]
    pub args: EchoArgs,
    /// Addresses, routes, connections.
    #[command(flatten)]
    pub stack: StackFlags,
    /// Ports, cores, output.
    #[command(flatten)]
    pub shared: Shared,
}

/// `bywash load`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", load::EXAMPLES))]
pub struct Load {
    /// What is asked.
    #[command(flatten)]
    pub args: LoadArgs,
    /// Addresses, routes, connections.
    #[command(flatten)]
    pub stack: StackFlags,
    /// Ports, cores, output.
    #[command(flatten)]
    pub shared: Shared,
}

/// `bywash http`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", http::EXAMPLES))]
pub struct Http {
    /// What is served.
    #[command(flatten)]
    pub args: HttpArgs,
    /// Addresses, routes, connections.
    #[command(flatten)]
    pub stack: StackFlags,
    /// Ports, cores, output.
    #[command(flatten)]
    pub shared: Shared,
}

/// `bywash ping`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", ping::EXAMPLES))]
pub struct Ping {
    /// Whom to ask, and how.
    #[command(flatten)]
    pub args: PingArgs,
    /// Addresses, routes, connections.
    #[command(flatten)]
    pub stack: StackFlags,
    /// Ports, cores, output.
    #[command(flatten)]
    pub shared: Shared,
}

/// `bywash resolve`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{EXIT_CODES}", resolve::EXAMPLES))]
pub struct Resolve {
    /// What to ask for.
    #[command(flatten)]
    pub args: ResolveArgs,
    /// Addresses, routes, connections.
    #[command(flatten)]
    pub stack: StackFlags,
    /// Where the name server is.
    #[command(flatten)]
    pub ports: PortFlags,
    /// Cores, bursts, rings, memory.
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// Runs the command line `arguments` (the program's name first) and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> std::process::ExitCode {
    // vfio-ioctls warns of each interrupt that a device does not have.
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("BYWASH_LOG", "warn,vfio_ioctls=error"))
        .format_timestamp(None)
        .format_target(false)
        .init();
    match parse(arguments).and_then(|(cli, file)| crate::commands::run(cli.command, file)) {
        Ok(code) => code,
        Err(failure) => failure.show(),
    }
}

#[cfg(test)]
mod tests;
