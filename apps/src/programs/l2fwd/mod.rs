//! `bywash l2fwd`: forwards frames between pairs of ports.

mod rewrite;
mod seed;

use engine::tsc::Tsc;
use engine::{Burst, Cx, Program, ProgramError};
use pmd::port::PortInfo;

pub use rewrite::{Addresses, ETHERNET_BYTES, ForwardMode, paired_with, set_addresses, swap_addresses};

/// Why [`L2fwd`] drops a frame: it has no Ethernet header to rewrite.
pub const TOO_SHORT: &str = "too_short";
/// Why [`L2fwd`] drops a frame: a clone of it exists, so its bytes cannot be changed.
pub const SHARED: &str = "shared";

/// Flags of `bywash l2fwd`.
#[derive(Clone, Debug, clap::Args)]
pub struct L2fwdArgs {
    /// What happens to the addresses of a frame: `io` nothing, `mac` as DPDK's l2fwd does, `macswap` they
    /// change places
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub forward_mode: ForwardMode,
}

/// What follows the flags in `bywash l2fwd --help`.
pub const EXAMPLES: &str = "\
Ports are paired in the order given: the first with the second, the third with the fourth; the last of an odd
number sends back what it receives. Frames shorter than 14 bytes are dropped as too_short (not in mode io, which
does not look at them).

Examples:
  Two NICs bound to vfio-pci, one core:
      bywash l2fwd --port vfio:0000:00:03.0 --port vfio:0000:00:04.0 -l 1
  Against DPDK testpmd's net_vhost, addresses swapped, totals every second:
      bywash l2fwd --port vhost-user:/tmp/vu.sock --forward-mode macswap --stats-period 1
  Ten seconds, percentiles of the residence time into a file:
      bywash l2fwd --port vhost-user:/tmp/vu.sock --seconds 10 --hgrm residence.hgrm";

/// Forwards each port's frames to the port paired with it, whole bursts at a time, in place.
#[derive(Debug)]
pub struct L2fwd {
    mode: ForwardMode,
    first_port: usize,
    routes: Vec<Route>,
    /// Bursts still to be sent from each port before anything was received.
    seeds: u32,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    to: usize,
    addresses: Addresses,
}

impl L2fwd {
    /// A forwarder; it pairs its ports when the engine prepares it. `first_port` is what the first of its
    /// ports is called in the addresses of mode `mac`: the number of ports that other cores' forwarders have
    /// before it.
    pub fn new(mode: ForwardMode, first_port: usize) -> Self {
        Self { mode, first_port, routes: Vec::new(), seeds: 0 }
    }

    /// Sends `bursts` bursts of its own from each port first, one a turn, as testpmd's `--tx-first` does.
    #[must_use]
    pub fn tx_first(mut self, bursts: u32) -> Self {
        self.seeds = bursts;
        self
    }

    /// Takes the frames out that were not rewritten. Only after [`set_addresses`] or [`swap_addresses`] said
    /// that there are some.
    #[cold]
    fn drop_unwritable(burst: &mut Burst, cx: &mut Cx<'_>) {
        for index in (0..burst.len()).rev() {
            let reason = match burst[index].data_mut() {
                None => SHARED,
                Some(data) if data.len() < ETHERNET_BYTES => TOO_SHORT,
                Some(_) => continue,
            };
            cx.drop(reason, burst.remove(index));
        }
    }
}

impl Program for L2fwd {
    fn prepare(&mut self, ports: &[PortInfo], _tsc: &Tsc) -> Result<(), ProgramError> {
        let route = |from| {
            let to = paired_with(from, ports.len());
            Route { to, addresses: Addresses::of_port(self.first_port + to, ports[to].mac) }
        };
        self.routes = (0..ports.len()).map(route).collect();
        Ok(())
    }

    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        let Route { to, addresses } = self.routes[port];
        let all = match self.mode {
            ForwardMode::Io => true,
            ForwardMode::Mac => set_addresses(burst, addresses),
            ForwardMode::Macswap => swap_addresses(burst),
        };
        if !all {
            Self::drop_unwritable(burst, cx);
        }
        cx.send_burst(to, burst);
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.seeds == 0 {
            return false;
        }
        self.seeds -= 1;
        for port in 0..self.routes.len() {
            // What a frame from this port's pair would be sent with.
            let addresses = self.routes[paired_with(port, self.routes.len())].addresses;
            let mut burst = Burst::new();
            burst.extend(cx.pool.alloc_bulk(seed::FRAMES).filter_map(seed::fill));
            set_addresses(&mut burst, addresses);
            cx.send_burst(port, &mut burst);
        }
        true
    }
}
