//! `compare-vfio`: our VFIO driver against DPDK's, in a QEMU guest.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use peers::bywash::Report;
use peers::guest::{self, Guest, Nic, testpmd};
use peers::precedence::Precedence;

use crate::comparison::{Comparison, Contender, Counted, Round};
use crate::outcome::About;
use crate::pace::Pace;
use crate::quiet::Watch;

/// What it measures.
pub const ABOUT: About = About { what: "compare-vfio", how: HOW };

const HOW: &str = "In a Linux guest under QEMU (software emulation, two processors, virtual IOMMU) two virtio-net-pci \
    devices are bound to vfio-pci and wired to each other. A forwarder (`macswap`, one core, driver of both) sends a \
    burst of 32 64-byte frames from each port first and from then on passes on what arrives, so a fixed number of \
    frames goes round for ever. The rate counts frames sent by both ports. The range is largest less smallest by \
    median; the ratio is the median of round-by-round ratios. Cycles of an emulated processor mean nothing and are \
    not shown.";

/// Flags of `compare-vfio`.
#[derive(Args, Debug)]
pub struct Flags {
    /// Forwarders to compare; one may be named twice, to see what chance does
    #[arg(long, value_delimiter = ',', default_value = "testpmd,bywash")]
    forwarders: Vec<InGuest>,
}

/// A forwarder in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InGuest {
    /// DPDK's
    Testpmd,
    /// bywash l2fwd
    Bywash,
}

/// Frames that go round: a burst of each port.
const FRAMES: u64 = 64;

/// Runs it.
pub fn run(flags: &Flags, pace: &Pace) -> Result<Comparison> {
    if let Some(why) = guest::unavailable() {
        anyhow::bail!("no guest can run here: {why}");
    }
    let mut builder = Guest::builder().nic(Nic::hub(0)).nic(Nic::hub(0)).hugepages_2m(testpmd::HUGEPAGES_2M);
    if flags.forwarders.contains(&InGuest::Bywash) {
        builder = builder.program(peers::bywash::binary()?, "/bin/bywash");
    }
    let _precedence = Precedence::take();
    let mut guest = testpmd::install(builder)?.start()?;
    guest.bind_vfio(0)?;
    guest.bind_vfio(1)?;
    let contender = |forwarder: &InGuest| match forwarder {
        InGuest::Testpmd => Contender::new("DPDK testpmd", true),
        InGuest::Bywash => Contender::new("bywash", false),
    };
    let contenders = flags.forwarders.iter().map(contender).collect();
    // The guest leaves a core of ours idle whenever it waits; that others use it disturbs nothing.
    let pace = &Pace { retries: 0, others_limit: 1.0, ..pace.clone() };
    Comparison::run(contenders, Some(1.0), pace, |index| {
        let watch = Watch::start(&[guest.pid()])?;
        let round = match flags.forwarders[index] {
            InGuest::Testpmd => theirs(&mut guest, pace),
            InGuest::Bywash => ours(&mut guest, pace),
        }?;
        Ok(Round { others_share: watch.others_share()?, ..round })
    })
}

fn theirs(guest: &mut Guest, pace: &Pace) -> Result<Round> {
    // It needs three periods of a second for one that counts.
    let seconds = pace.round().as_secs().max(3);
    let forwarded = testpmd::forward(guest, u32::try_from(seconds)?)?;
    #[allow(clippy::cast_precision_loss)] // packets per second are far below 2^52
    let rate = forwarded.median_pps() as f64;
    let totals = forwarded.totals;
    let counted = Counted { sent: totals.tx_packets, received: totals.rx_packets, slack: FRAMES };
    Ok(Round { rate, cycles_per_packet: None, others_share: 0.0, counted, latency: None })
}

fn ours(guest: &mut Guest, pace: &Pace) -> Result<Round> {
    let seconds = pace.round().as_secs_f64();
    let command = format!(
        "bywash l2fwd --port vfio:{} --port vfio:{} --cores 1 --forward-mode macswap --burst 32 --tx-first 1 \
         --seconds {seconds} --json --quiet 2>/tmp/bywash",
        guest.address(0),
        guest.address(1)
    );
    let output = guest.shell(&command, Duration::from_secs(60) + pace.round())?;
    if output.status != 0 {
        let told = guest.shell("cat /tmp/bywash", Duration::from_secs(20))?.text;
        anyhow::bail!("bywash ended with {} in the guest: {told}", output.status);
    }
    let report = Report::parse(output.text.trim()).context("in the guest")?;
    let both = |what: &str| -> Result<u64> {
        Ok(report.count(&format!("/ports/0/{what}"))? + report.count(&format!("/ports/1/{what}"))?)
    };
    let (sent, received) = (both("tx_packets")?, both("rx_packets")?);
    ensure!(report.count("/errors")? == 0, "the devices or the driver failed: {}", report.value());
    #[allow(clippy::cast_precision_loss)] // packets of a run are far below 2^52
    let rate = sent as f64 / report.number("/seconds")?;
    let counted = Counted { sent, received, slack: FRAMES };
    Ok(Round { rate, cycles_per_packet: None, others_share: 0.0, counted, latency: None })
}
