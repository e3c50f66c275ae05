//! Side-by-side comparisons and micro benchmarks.
//!
//! ```text
//! cargo run --release -p bywash-bench -- compare-vhost --rounds 5 --archive
//! ```
//!
//! Every benchmark checks its own answer: packets are counted at both ends. A comparison alternates its
//! contenders within one run and states ratios; absolute figures differ from machine to machine.

mod archive;
mod compare_pair;
mod compare_vhost;
mod comparison;
mod conditions;
mod figures;
mod forwarder;
mod latency_cost;
mod mempool;
mod outcome;
mod pace;
mod quiet;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use conditions::Conditions;
use outcome::show;
use pace::Pace;

/// Benchmarks of bywash, each against a peer in the same run.
///
/// Needs root, hugepages and DPDK's testpmd (apt-get install dpdk); two cores that nobody else uses.
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
    /// What the latency histograms of our l2fwd cost
    LatencyCost,
    /// Allocation and freeing of mbufs: on the home core, and from a foreign one
    Mempool,
}

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

/// Whether the target was reached, or there was none.
fn run(cli: &Cli) -> Result<bool> {
    let conditions = Conditions::now();
    match &cli.bench {
        Bench::CompareVhost(flags) => {
            let outcome = compare_vhost::run(flags, &cli.pace)?;
            show(compare_vhost::ABOUT, &conditions, &outcome, cli.archive)
        }
        Bench::ComparePair(flags) => {
            let outcome = compare_pair::run(flags, &cli.pace)?;
            show(compare_pair::ABOUT, &conditions, &outcome, cli.archive)
        }
        Bench::LatencyCost => {
            show(latency_cost::ABOUT, &conditions, &latency_cost::run(&cli.pace)?, cli.archive)
        }
        Bench::Mempool => show(mempool::ABOUT, &conditions, &mempool::run(&cli.pace)?, cli.archive),
    }
}
