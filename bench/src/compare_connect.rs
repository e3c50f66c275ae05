//! `compare-connect`: connect, one request, close, over and over: ours against the kernel's.

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
pub const ABOUT: About = About { what: "compare-connect", how: HOW };

const HOW: &str = "A TCP connection for each 64-byte request: connect, ask, read the answer, close, and again; so many \
    of them at a time. Server and client have a core each; ours and the kernel's are those of compare-echo. The rate is \
    that of requests answered; the latency from request to answer, without the handshake.";

/// Flags of `compare-connect`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Connections at a time, of each comparison
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    connections: Vec<usize>,
}

/// The rate that is asked for.
const TARGET: f64 = 5.0;

/// Runs it.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Suite> {
    peers::bywash::binary()?;
    let _precedence = Precedence::take();
    let host = Host::new(256)?;
    let socket = host.socket("connect");
    let to = format!("{}:7", our_pair::SERVER);
    let mut parts = Vec::new();
    for &connections in &flags.connections {
        let contenders = vec![Contender::new("kernel, loopback", true), Contender::new("bywash", false)];
        let count = connections.to_string();
        let client = ["--connections", &count, "--reconnect", "--to", &to];
        let comparison =
            Comparison::run_in(Unit::Requests, contenders, Some(TARGET), pace, |index| match index {
                0 => kernel_pair::round(pace, connections, true),
                _ => our_pair::run(pace, &socket, &["echo"], &client)?.round(),
            })?;
        parts.push(Part { title: format!("{connections} at a time"), comparison, latency_target: None });
    }
    Ok(Suite { parts })
}
