//! What testpmd is asked to do, and the command line that says so.

use std::path::{Path, PathBuf};

/// What testpmd does with frames (`--forward-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardMode {
    /// Sends each frame back as it came.
    Io,
    /// Sends each frame back with its two MAC addresses exchanged.
    MacSwap,
    /// Sends generated frames, round after round, and counts what comes back.
    FlowGen,
    /// Sends frames as fast as it can and receives none.
    TxOnly,
    /// Receives and drops.
    RxOnly,
}

impl ForwardMode {
    /// The word on testpmd's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::MacSwap => "macswap",
            Self::FlowGen => "flowgen",
            Self::TxOnly => "txonly",
            Self::RxOnly => "rxonly",
        }
    }
}

/// The virtio driver side: DPDK's `net_virtio_user`, which connects to a vhost-user backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioUser {
    /// The Unix socket of the backend.
    pub socket: PathBuf,
    /// Descriptors in each virtqueue.
    pub queue_size: u16,
    /// Packed rings instead of split ones.
    pub packed: bool,
    /// Offer `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// Offer `VIRTIO_NET_F_MRG_RXBUF`.
    pub mergeable: bool,
    /// Use the vectorized receive and transmit functions, as wide as the processor has them: 512
    /// bits, without which DPDK silently takes the scalar path for packed rings.
    pub vectorized: bool,
}

impl VirtioUser {
    /// Split rings of 1,024 descriptors with DPDK's own defaults (in order, mergeable).
    pub fn split(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            queue_size: 1024,
            packed: false,
            in_order: true,
            mergeable: true,
            vectorized: false,
        }
    }

    /// Packed rings, the fastest way DPDK has: in order, not mergeable, vectorized.
    pub fn packed_vectorized(socket: impl Into<PathBuf>) -> Self {
        Self { packed: true, mergeable: false, vectorized: true, ..Self::split(socket) }
    }

    fn vdev(&self, queues: u16) -> String {
        format!(
            "net_virtio_user0,path={},queues={queues},queue_size={},packed_vq={},in_order={},mrg_rxbuf={},vectorized={}",
            self.socket.display(),
            self.queue_size,
            u8::from(self.packed),
            u8::from(self.in_order),
            u8::from(self.mergeable),
            u8::from(self.vectorized)
        ) + if queues > 1 { ",cq=1" } else { "" } // it wants its control queue for that, and serves it itself
    }
}

/// Which end of the virtqueues testpmd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// The device: DPDK's `net_vhost`, which listens on this Unix socket.
    NetVhost(PathBuf),
    /// The driver.
    NetVirtioUser(VirtioUser),
    /// Neither: DPDK's `net_af_xdp` on the first queue of this kernel interface.
    NetAfXdp(String),
}

/// One testpmd.
#[derive(Clone, Debug)]
pub struct Options {
    /// Device or driver.
    pub side: Side,
    /// More options of a device, `linear-buffer=1` and the like, separated by commas; none if empty.
    pub vhost_args: &'static str,
    /// What it does with frames.
    pub forward_mode: ForwardMode,
    /// The core that forwards; the other one is for its command line, which sleeps.
    pub forward_core: usize,
    /// The core of the command line.
    pub main_core: usize,
    /// Packets in a burst.
    pub burst: u16,
    /// Size of generated frames (`flowgen`, `txonly`), with the 4 bytes of CRC that never
    /// reach the ring, as testpmd counts it.
    pub frame_bytes: u16,
    /// Queue pairs; one core polls them all.
    pub queues: u16,
    /// Descriptors of the receive queue; of a driver the buffers it keeps posted.
    pub rxd: u16,
    /// Descriptors of the transmit queue.
    pub txd: u16,
    /// Mbufs in the pool.
    pub mbufs: u32,
    /// Hugepage memory in MiB.
    pub memory_mib: u32,
    /// Measure the forwarding function's cycles per packet.
    pub record_cycles: bool,
    /// Print port statistics every so many seconds. testpmd then takes no commands.
    pub stats_period_s: Option<u32>,
}

impl Options {
    /// The settings of all our comparisons: 64-byte frames, bursts of 32, 1,024 descriptors,
    /// forwarding on `forward_core` of the two cores 0 and 1.
    pub fn new(side: Side, forward_mode: ForwardMode, forward_core: usize) -> Self {
        Self {
            side,
            vhost_args: "",
            forward_mode,
            forward_core,
            main_core: usize::from(forward_core == 0),
            burst: 32,
            frame_bytes: 64,
            queues: 1,
            rxd: 1024,
            txd: 1024,
            mbufs: 16_384,
            memory_mib: 256,
            record_cycles: true,
            stats_period_s: None,
        }
    }

    /// Hugepages of 2 MiB that this testpmd takes.
    pub fn hugepages(&self) -> u64 {
        u64::from(self.memory_mib.div_ceil(2))
    }

    /// testpmd's arguments: those of the EAL, `--`, its own.
    pub(super) fn arguments(&self, huge_dir: &Path, file_prefix: &str) -> Vec<String> {
        let mut args: Vec<String> = vec![
            // Never look at the machine's own network cards.
            "--no-pci".into(),
            "-l".into(),
            format!("{},{}", self.main_core, self.forward_core),
            "--main-lcore".into(),
            self.main_core.to_string(),
            format!("--file-prefix={file_prefix}"),
            format!("--huge-dir={}", huge_dir.display()),
            "--iova-mode=va".into(),
            "-m".into(),
            self.memory_mib.to_string(),
            // Says which receive and transmit functions were chosen.
            "--log-level=pmd.net.virtio.init:info".into(),
            "--log-level=pmd.net.virtio.driver:info".into(),
        ];
        match &self.side {
            Side::NetVhost(socket) => {
                let comma = if self.vhost_args.is_empty() { "" } else { "," };
                args.push(format!(
                    "--vdev=net_vhost0,iface={},queues={}{comma}{}",
                    socket.display(),
                    self.queues,
                    self.vhost_args
                ));
            }
            Side::NetAfXdp(interface) => args.push(format!("--vdev=net_af_xdp0,iface={interface}")),
            Side::NetVirtioUser(user) => {
                // A vhost-user backend takes at most 8 memory regions.
                args.push("--single-file-segments".into());
                args.push(format!("--vdev={}", user.vdev(self.queues)));
                if user.vectorized {
                    args.push("--force-max-simd-bitwidth=512".into());
                }
            }
        }
        args.push("--".into());
        args.extend([
            "--auto-start".to_owned(),
            // Or it silently throws away what arrives before it forwards.
            "--no-flush-rx".to_owned(),
            format!("--forward-mode={}", self.forward_mode.name()),
            format!("--burst={}", self.burst),
            format!("--txpkts={}", self.frame_bytes),
            format!("--rxq={}", self.queues),
            format!("--txq={}", self.queues),
            format!("--rxd={}", self.rxd),
            format!("--txd={}", self.txd),
            format!("--total-num-mbufs={}", self.mbufs),
        ]);
        if self.record_cycles {
            args.push("--record-core-cycles".into());
        }
        match self.stats_period_s {
            Some(seconds) => args.push(format!("--stats-period={seconds}")),
            None => args.push("--interactive".into()),
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_network_cards_are_never_touched() {
        let sides =
            [Side::NetVhost("/tmp/a".into()), Side::NetVirtioUser(VirtioUser::packed_vectorized("/tmp/a"))];
        for side in sides {
            let args = Options::new(side, ForwardMode::MacSwap, 0).arguments(Path::new("/h"), "p");
            assert!(args.contains(&"--no-pci".to_owned()), "{args:?}");
        }
    }

    #[test]
    fn command_line_and_forwarding_have_a_core_each() {
        let args = Options::new(Side::NetVhost("/tmp/a".into()), ForwardMode::Io, 0)
            .arguments(Path::new("/h"), "p")
            .join(" ");
        assert!(args.contains("-l 1,0 --main-lcore 1"), "{args}");
    }
}
