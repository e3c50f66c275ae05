//! The reference for our VFIO driver: DPDK's testpmd on the same two devices, in the same guest.
//!
//! The two NICs are wired to each other ([`Nic::hub`](super::Nic::hub)); testpmd sends 32-frame bursts from
//! each and forwards what arrives, so a fixed number of 64-byte frames goes round for ever and the rate is
//! limited by the forwarder's core, by QEMU's device model, or both: a figure to compare with, not to quote.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::image::{find_program, libraries};
use super::{Builder, Guest};
use crate::testpmd::{ForwardStats, forward_stats};

/// DPDK's libraries that are loaded at run time: the bus, the driver, and the pool of the buffers.
const PLUGINS: [&str; 3] = ["librte_bus_pci", "librte_net_virtio", "librte_mempool_ring"];

/// Hugepages of 2 MiB that [`forward`] needs.
pub const HUGEPAGES_2M: u32 = 192;

/// What [`forward`] measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarded {
    /// Frames sent by both ports per second, in each period of a second after the first.
    pub samples_pps: Vec<u64>,
    /// What testpmd counted in all, both ports together.
    pub totals: ForwardStats,
}

impl Forwarded {
    /// The median of the samples.
    ///
    /// # Panics
    /// Never: [`forward`] returns at least one sample.
    pub fn median_pps(&self) -> u64 {
        let mut sorted = self.samples_pps.clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    }
}

/// Adds testpmd and its plug-ins to a guest.
///
/// # Errors
/// The Debian package `dpdk` is not installed.
pub fn install(builder: Builder) -> Result<Builder> {
    let testpmd = find_program("dpdk-testpmd")?;
    let mut builder = builder;
    for plugin in plugins()? {
        let path = plugin.to_str().context("path of a DPDK plug-in")?.to_owned();
        builder = builder.program(plugin, &path);
    }
    Ok(builder.program(testpmd, "/bin/dpdk-testpmd"))
}

/// Where the plug-ins are. testpmd itself needs the first of them, and each must be loaded by the very path
/// under which the dynamic linker finds it: loaded twice it would register itself twice, which ends DPDK.
fn plugins() -> Result<Vec<PathBuf>> {
    let libraries = libraries(&find_program("dpdk-testpmd")?)?;
    let bus = libraries
        .iter()
        .find(|path| path.to_string_lossy().contains(PLUGINS[0]))
        .with_context(|| format!("dpdk-testpmd does not need {}", PLUGINS[0]))?;
    let version = bus.extension().context("a DPDK library without version")?;
    let version = version.to_string_lossy();
    Ok(PLUGINS.map(|name| bus.with_file_name(format!("{name}.so.{version}"))).to_vec())
}

/// Runs testpmd on NICs 0 and 1, bound to vfio-pci and wired to each other, for `seconds` (at least 3), one
/// forwarding core, MAC addresses swapped.
///
/// # Errors
/// testpmd did not start or reported no rates; the error holds its output.
pub fn forward(guest: &mut Guest, seconds: u32) -> Result<Forwarded> {
    let mut command = String::from("dpdk-testpmd -l 0,1 --main-lcore 0 --no-telemetry --iova-mode=va -m 256");
    for plugin in plugins()? {
        command += &format!(" -d {}", plugin.display());
    }
    for nic in [0, 1] {
        command += &format!(" -a {}", guest.address(nic));
    }
    command += " -- --forward-mode=macswap --tx-first --stats-period 1 --total-num-mbufs=8192";
    // testpmd takes some seconds to start; it ends at SIGINT with its totals.
    let script = format!(
        "{command} > /tmp/testpmd 2>&1 & pid=$!\n\
         for i in $(seq 60); do\n\
           grep -q 'Port statistics' /tmp/testpmd && break\n\
           kill -0 $pid || break\n\
           sleep 0.5\n\
         done\n\
         sleep {seconds}; kill -INT $pid; wait $pid; cat /tmp/testpmd"
    );
    let text = guest.shell(&script, Duration::from_secs(60 + u64::from(seconds)))?.text;
    let samples_pps = parse(&text);
    ensure!(!samples_pps.is_empty(), "testpmd reported no rates:\n{text}");
    let totals = forward_stats(&text).with_context(|| format!("testpmd printed no totals:\n{text}"))?;
    Ok(Forwarded { samples_pps, totals })
}

/// The sums of `Tx-pps` over the ports, one a period; the first period, in which the ports came up, is left out.
fn parse(text: &str) -> Vec<u64> {
    let mut periods = Vec::new();
    for period in text.split("Port statistics").skip(2) {
        let rates = period.lines().filter_map(|line| line.trim().strip_prefix("Tx-pps:"));
        let rates: Vec<u64> = rates.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect();
        if rates.len() == 2 {
            periods.push(rates.iter().sum());
        }
    }
    periods
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: &str = "Port statistics ====\n\
        ######## NIC statistics for port 0 ########\n\
        Rx-pps:        94000          Rx-bps:     45000000\n\
        Tx-pps:        95000          Tx-bps:     45000000\n\
        ######## NIC statistics for port 1 ########\n\
        Rx-pps:        94000          Rx-bps:     45000000\n\
        Tx-pps:        96000          Tx-bps:     45000000\n";

    #[test]
    fn rates_of_both_ports_are_added_and_the_first_period_left_out() {
        assert_eq!(parse(&PERIOD.repeat(3)), [191_000, 191_000]);
    }

    #[test]
    fn a_period_cut_short_is_left_out() {
        let text = PERIOD.repeat(2) + "Port statistics ====\nTx-pps: 1 Tx-bps: 2\n";
        assert_eq!(parse(&text), [191_000]);
    }
}
