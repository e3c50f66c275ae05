//! `compare-echo`: our TCP echo and its client against the kernel's.

use anyhow::Result;
use clap::Args;
use peers::precedence::Precedence;
use peers::testpmd::Host;

use crate::comparison::{Comparison, Contender, Unit};
use crate::outcome::About;
use crate::pace::Pace;
use crate::suite::{Part, Suite};
use crate::{kernel_pair, our_pair};

/// What it measures.
pub const ABOUT: About = About { what: "compare-echo", how: HOW };

const HOW: &str = "64-byte messages over TCP in a closed loop, each connection with one request under way; server and \
    client have a core each. Ours: `bywash echo` and `bywash load`, two processes on a vhost-user socket, checksums in \
    software. The kernel's: an epoll server and an epoll client over loopback (`bench/src/kernel_*.rs`), non-blocking, \
    TCP_NODELAY, threads of one process. Both clients check every answer and record round trips into the same \
    histogram; bytes or frames are counted at both ends. The range is largest less smallest by median; ratios are \
    medians of round-by-round ratios.";

/// Flags of `compare-echo`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Connections of each comparison
    #[arg(long, value_delimiter = ',', default_value = "1,32,64")]
    connections: Vec<usize>,

    /// Further arguments for `bywash load`
    #[arg(long = "load-arg")]
    load_args: Vec<String>,

    /// Further arguments for `bywash echo`
    #[arg(long = "echo-arg")]
    echo_args: Vec<String>,
}

/// The rate that is asked for at 64 connections and more.
const RATE_TARGET: f64 = 10.0;
/// How many times shorter the median round trip of a single connection is asked to be.
const LATENCY_TARGET: f64 = 40.0;

/// Runs it.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Suite> {
    peers::bywash::binary()?;
    let _precedence = Precedence::take();
    let host = Host::new(256)?;
    let socket = host.socket("echo");
    let mut parts = Vec::new();
    for &connections in &flags.connections {
        let contenders = vec![Contender::new("kernel, loopback", true), Contender::new("bywash", false)];
        let count = connections.to_string();
        let mut client = vec!["--connections", &count];
        client.extend(flags.load_args.iter().map(String::as_str));
        let mut server = vec!["echo"];
        server.extend(flags.echo_args.iter().map(String::as_str));
        let target = (connections >= 64).then_some(RATE_TARGET);
        let comparison = Comparison::run_in(Unit::Requests, contenders, target, pace, |index| match index {
            0 => kernel_pair::round(pace, connections, false),
            _ => {
                let to = format!("{}:7", our_pair::SERVER);
                let client: Vec<&str> = client.iter().copied().chain(["--to", &to]).collect();
                our_pair::run(pace, &socket, &server, &client)?.round()
            }
        })?;
        let latency_target = (connections == 1).then_some(LATENCY_TARGET);
        let title =
            if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") };
        parts.push(Part { title, comparison, latency_target });
    }
    Ok(Suite { parts })
}
