//! Side-by-side comparisons and micro benchmarks.
//!
//! ```text
//! cargo run --release -p bywash-bench -- compare-vhost --rounds 5 --archive
//! ```
//!
//! Every benchmark checks its own answer: packets are counted at both ends. A comparison alternates its
//! contenders within one run and states ratios; absolute figures differ from machine to machine.

mod archive;
mod compare_connect;
mod compare_echo;
mod compare_pair;
mod compare_stream;
mod compare_vfio;
mod compare_vhost;
mod compare_xdp;
mod comparison;
mod conditions;
mod connections;
#[allow(unsafe_code)]
mod epoll;
mod figures;
mod forwarder;
mod handoff;
mod idle;
mod kernel_echo;
mod kernel_iperf;
mod kernel_load;
mod kernel_pair;
mod latency;
mod latency_cost;
#[allow(unsafe_code)]
mod live_frames;
mod loop_pair;
mod mempool;
mod our_pair;
mod outcome;
mod pace;
mod priority;
mod quiet;
mod suite;
mod table;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use compare_xdp::Task;
use conditions::Conditions;
use outcome::show;
use pace::Pace;

/// Benchmarks of bywash, each against a peer in the same run.
///
/// Needs root, hugepages, DPDK's testpmd and iperf3 (apt-get install dpdk iperf3); two cores that nobody else uses.
///
/// Exit codes: 0 measured; 1 could not be measured, or a count was wrong; 2 wrong usage;
/// 3 measured, but short of the target and --strict was given.
#[derive(Parser, Debug)]
#[command(name = "bywash-bench", version)]
struct Cli {
    #[command(flatten)]
    pace: Pace,

    /// Keep the run: raw data and README.md in bench/runs/DATE-WHAT/
    #[arg(long, global = true)]
    archive: bool,

    /// End with exit code 3 if the target is not reached
    #[arg(long, global = true)]
    strict: bool,

    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand, Debug)]
enum Bench {
    /// Our l2fwd on vhost-user against testpmd on virtio-user, both facing the same DPDK net_vhost
    CompareVhost(compare_vhost::Flags),
    /// Our generator and our forwarder, device and driver of a vhost-user socket, against the all-DPDK pair
    ComparePair(compare_pair::Flags),
    /// Our VFIO driver against DPDK's, on two virtio-net-pci devices in a QEMU guest
    CompareVfio(compare_vfio::Flags),
    /// Our forwarder on an `xdp:` port against testpmd on net_af_xdp, over veth, 64-byte frames
    CompareXdp,
    /// The same for receiving and dropping
    CompareXdpReceive,
    /// Our TCP echo and its client against the kernel's: 64-byte messages, a core for each side
    CompareEcho(compare_echo::Flags),
    /// A connection for each request: ours against the kernel's
    CompareConnect(compare_connect::Flags),
    /// One TCP stream: ours at an MTU of 1500 against iperf3 over loopback
    CompareStream,
    /// TCP echo by a thread through the rings against echo on the loop, round trips
    Handoff,
    /// What a request costs our echo with 1 to 100,000 connections, active or silent
    Connections(connections::Flags),
    /// Response times of urgent and of normal messages, from an idle link to a saturated one
    Priority(priority::Flags),
    /// Processor time and wake-ups of each idle policy, from no frame to as many as go
    Idle,
    /// What the latency histograms of our l2fwd cost
    LatencyCost,
    /// Every benchmark in turn, with its default flags
    All,
    /// Allocation and freeing of mbufs: on the home core, and from a foreign one
    Mempool,
}

/// What `all` runs: from the quickest to the slowest.
const ALL: [&str; 14] = [
    "mempool",
    "latency-cost",
    "handoff",
    "idle",
    "compare-echo",
    "compare-connect",
    "compare-stream",
    "priority",
    "connections",
    "compare-vhost",
    "compare-pair",
    "compare-vfio",
    "compare-xdp",
    "compare-xdp-receive",
];

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    cli.pace.shorten_for_smoke();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) if cli.strict => ExitCode::from(3),
        Ok(false) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bywash-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the targets were reached, or there were none.
fn run(cli: &Cli) -> Result<bool> {
    let conditions = Conditions::now();
    let Bench::All = cli.bench else { return run_one(&cli.bench, cli, &conditions) };
    let mut reached = true;
    for name in ALL {
        println!("\n{name}");
        let bench = Cli::try_parse_from(["bywash-bench", name])?.bench;
        reached &= run_one(&bench, cli, &conditions).with_context(|| name)?;
    }
    Ok(reached)
}

fn run_one(bench: &Bench, cli: &Cli, conditions: &Conditions) -> Result<bool> {
    let (pace, archive) = (&cli.pace, cli.archive);
    match bench {
        Bench::CompareVhost(flags) => {
            show(compare_vhost::ABOUT, conditions, &compare_vhost::run(flags, pace)?, archive)
        }
        Bench::ComparePair(flags) => {
            show(compare_pair::ABOUT, conditions, &compare_pair::run(flags, pace)?, archive)
        }
        Bench::CompareVfio(flags) => {
            show(compare_vfio::ABOUT, conditions, &compare_vfio::run(flags, pace)?, archive)
        }
        Bench::CompareXdp => {
            show(compare_xdp::FORWARD, conditions, &compare_xdp::run(Task::Forward, pace)?, archive)
        }
        Bench::CompareXdpReceive => {
            show(compare_xdp::RECEIVE, conditions, &compare_xdp::run(Task::Receive, pace)?, archive)
        }
        Bench::CompareEcho(flags) => {
            show(compare_echo::ABOUT, conditions, &compare_echo::run(flags, pace)?, archive)
        }
        Bench::CompareConnect(flags) => {
            show(compare_connect::ABOUT, conditions, &compare_connect::run(flags, pace)?, archive)
        }
        Bench::CompareStream => show(compare_stream::ABOUT, conditions, &compare_stream::run(pace)?, archive),
        Bench::Handoff => show(handoff::ABOUT, conditions, &handoff::run(pace)?, archive),
        Bench::Connections(flags) => {
            show(connections::ABOUT, conditions, &connections::run(flags, pace)?, archive)
        }
        Bench::Priority(flags) => show(priority::ABOUT, conditions, &priority::run(flags, pace)?, archive),
        Bench::Idle => show(idle::ABOUT, conditions, &idle::run(pace)?, archive),
        Bench::LatencyCost => show(latency_cost::ABOUT, conditions, &latency_cost::run(pace)?, archive),
        Bench::Mempool => show(mempool::ABOUT, conditions, &mempool::run(pace)?, archive),
        Bench::All => anyhow::bail!("one benchmark at a time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_means_every_subcommand() {
        use clap::CommandFactory as _;
        let mut every: Vec<String> =
            Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        every.retain(|name| name != "all");
        every.sort();
        let mut all = ALL.to_vec();
        all.sort_unstable();
        assert_eq!(all, every);
        for name in ALL {
            assert!(Cli::try_parse_from(["bywash-bench", name]).is_ok(), "{name} needs arguments");
        }
    }
}
