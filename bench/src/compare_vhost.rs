//! `compare-vhost`: forwarders on a vhost-user socket, all facing one DPDK net_vhost.

use anyhow::Result;
use clap::Args;
use peers::precedence::Precedence;
use peers::testpmd::{ForwardMode, Host, Options, Side, Testpmd};

use crate::comparison::{Comparison, Contender};
use crate::forwarder::{self, Forwarder, GENERATE_CORE};
use crate::outcome::About;
use crate::pace::Pace;

/// What it measures.
pub const ABOUT: About = About { what: "compare-vhost", how: HOW };

const HOW: &str = "A forwarder (`macswap`) is the driver side of a vhost-user socket. The device side is always \
    the same DPDK testpmd (net_vhost, `flowgen`, 64-byte frames), which generates, takes back and counts. \
    One core each, bursts of 32, 1,024 descriptors. The rate is that of frames that came back, measured by the \
    generator. Cycles per packet are those of turns that moved packets. The range is largest less smallest by \
    median; the ratio is the median of round-by-round ratios.";

/// Flags of `compare-vhost`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Forwarders to compare; one may be named twice, to see what chance does
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "split,packed,packed-vectorized,bywash-split,bywash-packed-in-order"
    )]
    forwarders: Vec<Forwarder>,

    /// Further arguments for `bywash l2fwd`, as in --l2fwd-arg=--idle=poll
    #[arg(long = "l2fwd-arg")]
    l2fwd_args: Vec<String>,
}

/// Runs it.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Comparison> {
    if flags.forwarders.iter().any(|forwarder| !forwarder.is_peer()) {
        peers::bywash::binary()?;
    }
    let _precedence = Precedence::take();
    // Two testpmds, and as much again for our own region.
    let host = Host::new(512)?;
    let socket = host.socket("device");
    let contenders = flags.forwarders.iter().map(|f| Contender::new(f.title(), f.is_peer())).collect();
    Comparison::run(contenders, Some(1.1), pace, |index| {
        let device = Side::NetVhost(socket.clone());
        let generator = Options::new(device, ForwardMode::FlowGen, GENERATE_CORE);
        forwarder::measure(
            pace,
            || Ok(Testpmd::start(&host, generator)?),
            || flags.forwarders[index].start(&host, &socket, &flags.l2fwd_args),
        )
    })
}
