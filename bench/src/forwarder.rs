//! Programs that send every frame back, driver side of a vhost-user socket: DPDK's and ours.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use engine::tsc::Tsc;
use peers::bywash::{Bywash, Report};
use peers::process::Process;
use peers::testpmd::{ForwardMode, Host, Options, Side, Testpmd, VirtioUser};

use crate::comparison::{Counted, Round};
use crate::pace::Pace;
use crate::quiet::Watch;

/// Descriptors in each virtqueue, the same for all.
pub const DESCRIPTORS: u16 = 1024;
/// The core that forwards; the generator has the other one.
pub const FORWARD_CORE: usize = 0;
/// The core that generates.
pub const GENERATE_CORE: usize = 1;
/// How long a forwarder may take from its start to its first frames.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long our command may take to stop.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// One way to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Forwarder {
    /// testpmd, split rings, its defaults (in order, mergeable)
    Split,
    /// testpmd, split rings, vectorized (not in order, not mergeable)
    SplitVectorized,
    /// testpmd, packed rings, in order, not mergeable
    Packed,
    /// testpmd, packed rings, in order, not mergeable, vectorized with AVX-512
    PackedVectorized,
    /// bywash l2fwd, its defaults
    Bywash,
    /// bywash l2fwd, split rings
    BywashSplit,
    /// bywash l2fwd, split rings, in order
    BywashSplitInOrder,
    /// bywash l2fwd, packed rings
    BywashPacked,
    /// bywash l2fwd, packed rings, in order
    BywashPackedInOrder,
}

impl Forwarder {
    /// Its name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Split => "DPDK split",
            Self::SplitVectorized => "DPDK split vectorized",
            Self::Packed => "DPDK packed",
            Self::PackedVectorized => "DPDK packed vectorized",
            Self::Bywash => "bywash",
            Self::BywashSplit => "bywash split",
            Self::BywashSplitInOrder => "bywash split in order",
            Self::BywashPacked => "bywash packed",
            Self::BywashPackedInOrder => "bywash packed in order",
        }
    }

    /// What our ports' strings end in for it; `None` for DPDK's.
    pub fn port_options(self) -> Option<&'static str> {
        match self {
            Self::Split | Self::SplitVectorized | Self::Packed | Self::PackedVectorized => None,
            Self::Bywash => Some(""),
            Self::BywashSplit => Some(",ring_packed=off,in_order=off"),
            Self::BywashSplitInOrder => Some(",ring_packed=off,in_order=on"),
            Self::BywashPacked => Some(",ring_packed=on,in_order=off"),
            Self::BywashPackedInOrder => Some(",ring_packed=on,in_order=on"),
        }
    }

    /// Whether it is DPDK's.
    pub fn is_peer(self) -> bool {
        self.port_options().is_none()
    }

    /// Starts it as the driver of the backend at `socket`.
    pub fn start(self, host: &Arc<Host>, socket: &PathBuf, extra: &[String]) -> Result<Running> {
        let split = VirtioUser { queue_size: DESCRIPTORS, ..VirtioUser::split(socket) };
        let user = match self {
            Self::Split => split,
            Self::SplitVectorized => {
                VirtioUser { in_order: false, mergeable: false, vectorized: true, ..split }
            }
            Self::Packed => VirtioUser { packed: true, mergeable: false, ..split },
            Self::PackedVectorized => {
                VirtioUser { queue_size: DESCRIPTORS, ..VirtioUser::packed_vectorized(socket) }
            }
            Self::Bywash
            | Self::BywashSplit
            | Self::BywashSplitInOrder
            | Self::BywashPacked
            | Self::BywashPackedInOrder => {
                let options = self.port_options().unwrap_or_default();
                let mut args = l2fwd(&format!("vhost-user:{}{options}", socket.display()), FORWARD_CORE);
                args.extend_from_slice(extra);
                return Ok(Running::Bywash(Bywash::start(&args)?));
            }
        };
        let options = Options::new(Side::NetVirtioUser(user), ForwardMode::MacSwap, FORWARD_CORE);
        let mut testpmd = Testpmd::start(host, options)?;
        // DPDK falls back to slower functions without a word on the console; its log has one.
        if matches!(self, Self::SplitVectorized | Self::PackedVectorized) {
            let log = testpmd.process().stderr();
            ensure!(!log.contains("disabled"), "{} is not what DPDK chose: {log}", self.title());
        }
        Ok(Running::Testpmd(testpmd))
    }
}

/// The command line of our forwarder.
pub fn l2fwd(port: &str, core: usize) -> Vec<String> {
    let mut args: Vec<String> =
        ["l2fwd", "--port", port, "--forward-mode", "macswap"].map(str::to_owned).into();
    args.extend(common(core));
    args
}

/// The flags that our forwarder and our generator share.
pub fn common(core: usize) -> Vec<String> {
    let flags = ["--burst", "32", "--json", "--quiet"].map(str::to_owned).into_iter();
    flags
        .chain(["--cores".into(), core.to_string()])
        .chain(["--rxd".into(), DESCRIPTORS.to_string(), "--txd".into(), DESCRIPTORS.to_string()])
        .collect()
}

/// Time stamp counter ticks that the first loop of our program spent in busy turns, by packets received:
/// what testpmd calls CPU cycles per packet.
pub fn our_cycles_per_packet(report: &Report) -> Result<f64> {
    static TSC: OnceLock<Tsc> = OnceLock::new();
    let hz = TSC.get_or_init(Tsc::calibrate).hz();
    let packets = report.count("/ports/0/rx_packets")?;
    ensure!(packets > 0, "no packet was received: {}", report.value());
    #[allow(clippy::cast_precision_loss)] // both are far below 2^52
    let per_second = (hz as f64, packets as f64 / report.number("/seconds")?);
    Ok(report.number("/cores/0/busy")? * per_second.0 / per_second.1)
}

/// A forwarder at work.
pub enum Running {
    /// DPDK's.
    Testpmd(Testpmd),
    /// Ours.
    Bywash(Bywash),
}

/// What a forwarder counted in its life.
#[derive(Clone, Copy, Debug)]
pub struct Total {
    /// Frames it sent.
    pub sent: u64,
    /// Cycles of the turns that moved packets, by packets.
    pub cycles_per_packet: Option<f64>,
}

impl Running {
    /// The process.
    pub fn process(&mut self) -> &mut Process {
        match self {
            Self::Testpmd(testpmd) => testpmd.process(),
            Self::Bywash(bywash) => bywash.process(),
        }
    }

    /// Stops it and returns what it counted.
    pub fn stop(self) -> Result<Total> {
        match self {
            Self::Testpmd(mut testpmd) => {
                let stats = testpmd.stop()?;
                testpmd.quit()?;
                Ok(Total { sent: stats.tx_packets, cycles_per_packet: stats.cycles_per_packet })
            }
            Self::Bywash(mut bywash) => {
                bywash.interrupt();
                let report = bywash.report(STOP_LIMIT)?;
                Ok(Total {
                    sent: report.count("/ports/0/tx_packets")?,
                    cycles_per_packet: Some(our_cycles_per_packet(&report)?),
                })
            }
        }
    }
}

/// Measures one forwarder with the clock and the counters of a generator, so that all contenders are
/// measured by the same instrument. Both processes are fresh: a generator whose mbufs an earlier
/// forwarder has shuffled is a little slower.
pub fn measure(
    pace: &Pace,
    start_generator: impl FnOnce() -> Result<Testpmd>,
    start_forwarder: impl FnOnce() -> Result<Running>,
) -> Result<Round> {
    let mut generator = start_generator().context("the generator")?;
    let mut running = start_forwarder()?;
    let deadline = Instant::now() + START_LIMIT;
    while generator.port_stats()?.rx_packets == 0 {
        let process = running.process();
        ensure!(
            Instant::now() < deadline && process.is_running(),
            "no frame came back; the forwarder says\n{}\n{}",
            process.stdout(),
            process.stderr()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(pace.settle());
    let watch = Watch::start(&[generator.process().pid(), running.process().pid()])?;
    generator.port_stats()?;
    std::thread::sleep(pace.round());
    let after = generator.port_stats()?;
    let others_share = watch.others_share()?;
    let total = running.stop().context("the forwarder")?;
    let received = settled_rx(&mut generator)?;
    generator.quit()?;
    // What lies in the ring when the driver resets the device never reaches the generator.
    let counted = Counted { sent: total.sent, received, slack: u64::from(DESCRIPTORS) };
    #[allow(clippy::cast_precision_loss)] // packets per second are far below 2^52
    let rate = after.rx_pps as f64;
    Ok(Round { rate, cycles_per_packet: total.cycles_per_packet, others_share, counted, latency: None })
}

/// The generator's received frames once they no longer grow.
fn settled_rx(generator: &mut Testpmd) -> Result<u64> {
    let mut last = generator.port_stats()?.rx_packets;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(20));
        let now = generator.port_stats()?.rx_packets;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    anyhow::bail!("frames still arrive one second after the forwarder has stopped")
}
