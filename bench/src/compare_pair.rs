//! `compare-pair`: both ends ours against both ends DPDK's. Our generator only counts (`--check count`), as flowgen
//! does.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use peers::bywash::Bywash;
use peers::precedence::Precedence;
use peers::testpmd::{ForwardMode, Host, Options, Side, Testpmd};

use crate::comparison::{Comparison, Contender, Counted, Round};
use crate::forwarder::{self, DESCRIPTORS, FORWARD_CORE, Forwarder, GENERATE_CORE, STOP_LIMIT};
use crate::outcome::About;
use crate::pace::Pace;
use crate::quiet::Watch;

/// What it measures.
pub const ABOUT: About = About { what: "compare-pair", how: HOW };

const HOW: &str = "A generator that serves a vhost-user socket as the device, and a forwarder (`macswap`) that drives \
    it: both bywash (`gen` on vhost-user-server:, `l2fwd` on vhost-user:), or both DPDK testpmd (net_vhost `flowgen`, \
    net_virtio_user). 64-byte frames (60 in the ring), one core each, bursts of 32, 1,024 descriptors. Of the DPDK pair \
    the rate is that of frames that came back, by the generator's clock; of ours that of frames sent back, by the \
    forwarder's. Our generator runs with `--check count`, flowgen's counterpart: it copies a prepared frame where \
    flowgen fills in a header, and both only count what comes back. The counts of both ends must agree. The range is \
    largest less smallest by median; the ratio is the median of round-by-round ratios.";

/// Flags of `compare-pair`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Pairs to compare; each of bywash's stands for a pair of its own
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "split,packed,packed-vectorized,bywash-split,bywash-packed-in-order"
    )]
    pairs: Vec<Forwarder>,

    /// Further arguments for `bywash gen`
    #[arg(long = "gen-arg")]
    gen_args: Vec<String>,

    /// Further arguments for `bywash l2fwd`
    #[arg(long = "l2fwd-arg")]
    l2fwd_args: Vec<String>,
}

/// Runs it.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Comparison> {
    if flags.pairs.iter().any(|pair| !pair.is_peer()) {
        peers::bywash::binary()?;
    }
    let _precedence = Precedence::take();
    let host = Host::new(512)?;
    let contenders = flags
        .pairs
        .iter()
        .map(|pair| Contender::new(format!("{}, both ends", pair.title()), pair.is_peer()))
        .collect();
    Comparison::run(contenders, Some(1.3), pace, |index| {
        match (flags.pairs[index], flags.pairs[index].port_options()) {
            (_, Some(options)) => ours(options, flags, pace, &host),
            (theirs, None) => {
                let socket = host.socket("device");
                let device = Side::NetVhost(socket.clone());
                let generator = Options::new(device, ForwardMode::FlowGen, GENERATE_CORE);
                forwarder::measure(
                    pace,
                    || Ok(Testpmd::start(&host, generator)?),
                    || theirs.start(&host, &socket, &[]),
                )
            }
        }
    })
}

fn ours(options: &str, flags: &Flags, pace: &Pace, host: &Arc<Host>) -> Result<Round> {
    let socket = host.socket("ours");
    let port = format!("vhost-user-server:{}{options}", socket.display());
    let mut args = vec!["gen".to_owned(), "--port".to_owned(), port, "--size=60".to_owned()];
    // Flowgen numbers, stamps and checks nothing; full checks would measure what has no counterpart there.
    args.push("--check=count".to_owned());
    args.extend(forwarder::common(GENERATE_CORE));
    args.extend_from_slice(&flags.gen_args);
    let mut generator = Bywash::start(&args)?;
    wait_for_socket(&mut generator, &socket)?;

    let mut l2fwd = forwarder::l2fwd(&format!("vhost-user:{}{options}", socket.display()), FORWARD_CORE);
    l2fwd.extend_from_slice(&flags.l2fwd_args);
    let mut forwarder = Bywash::start(&l2fwd)?;
    std::thread::sleep(pace.settle());
    let watch = Watch::start(&[generator.process().pid(), forwarder.process().pid()])?;
    std::thread::sleep(pace.round());
    let others_share = watch.others_share()?;

    forwarder.interrupt();
    let forwarded = forwarder.report(STOP_LIMIT).context("the forwarder")?;
    generator.interrupt();
    let generated = generator.report(STOP_LIMIT).context("the generator")?;
    let sent = forwarded.count("/ports/0/tx_packets")?;
    // What lay in the ring when the forwarder reset its device never reached the generator.
    let counted =
        Counted { sent, received: generated.count("/counters/received")?, slack: u64::from(DESCRIPTORS) };
    #[allow(clippy::cast_precision_loss)] // packets of a run are far below 2^52
    let rate = sent as f64 / forwarded.number("/seconds")?;
    Ok(Round {
        rate,
        cycles_per_packet: Some(forwarder::our_cycles_per_packet(&forwarded)?),
        others_share,
        counted,
        latency: None,
    })
}

/// Waits until `generator` listens.
fn wait_for_socket(generator: &mut Bywash, socket: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        let process = generator.process();
        ensure!(
            process.is_running() && Instant::now() < deadline,
            "the generator does not listen: {}",
            process.stderr()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
