//! `latency-cost`: what the latency histograms cost our forwarder.

use anyhow::Result;
use peers::precedence::Precedence;
use peers::testpmd::{ForwardMode, Host, Options, Side, Testpmd};

use crate::comparison::{Comparison, Contender};
use crate::forwarder::{self, Forwarder, GENERATE_CORE};
use crate::outcome::About;
use crate::pace::Pace;

/// What it measures.
pub const ABOUT: About = About { what: "latency-cost", how: HOW };

const HOW: &str = "`bywash l2fwd` facing DPDK's net_vhost `flowgen` as in compare-vhost, in turns with its latency \
    histograms and with `--no-latency`. The ratio is that of the rates, round by round. Where the generator and not the \
    forwarder is the slower end, the cost shows in the cycles per packet alone.";

/// Runs it.
pub fn run(pace: &Pace) -> Result<Comparison> {
    peers::bywash::binary()?;
    let _precedence = Precedence::take();
    let host = Host::new(512)?;
    let socket = host.socket("device");
    let contenders =
        vec![Contender::new("without histograms", true), Contender::new("with histograms", false)];
    Comparison::run(contenders, Some(0.98), pace, |index| {
        let device = Side::NetVhost(socket.clone());
        let generator = Options::new(device, ForwardMode::FlowGen, GENERATE_CORE);
        let extra = if index == 0 { vec!["--no-latency".to_owned()] } else { Vec::new() };
        forwarder::measure(
            pace,
            || Ok(Testpmd::start(&host, generator)?),
            || Forwarder::Bywash.start(&host, &socket, &extra),
        )
    })
}
