//! Nothing as a port: receives nothing, or the same frame without end, and swallows whatever is sent. For measuring a
//! program without a device, as DPDK's `net_null`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::mem::HomePool;
use crate::port::{
    Arm, Burst, Input, Link, Offloads, OpenConfig, Port, PortInfo, QueueCounters, QueueFault, QueuePair,
};
use crate::virtio::transport::TransportError;

/// The options, for messages.
const OPTIONS: &str = "rx=on, rx=off, size=BYTES, queues=N, mac=ADDRESS";

/// Lengths of a received frame, Ethernet header included, FCS not.
const SIZES: std::ops::RangeInclusive<usize> = 14..=1518;

/// Ethertype of received frames: for experiments. Source: IEEE 802, 9.2.4.
const LOCAL_EXPERIMENTAL: [u8; 2] = 0x88b5_u16.to_be_bytes();

/// Sender of received frames: locally administered, and nobody's.
const SENDER: [u8; 6] = [0x02, b'b', b'w', b'n', b'u', b'l'];

/// What is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NullSpec {
    /// Whether there are frames to receive, without end.
    receives: bool,
    /// Their length in bytes.
    frame_bytes: usize,
}

impl Default for NullSpec {
    fn default() -> Self {
        Self { receives: false, frame_bytes: 64 }
    }
}

impl NullSpec {
    /// Reads one option.
    ///
    /// # Errors
    /// What there is.
    pub(crate) fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("rx", "on")) => self.receives = true,
            Some(("rx", "off")) => self.receives = false,
            Some(("size", bytes)) => {
                let bytes = bytes.parse().ok().filter(|bytes| SIZES.contains(bytes));
                self.frame_bytes =
                    bytes.ok_or_else(|| format!("{option}: {} to {} bytes", SIZES.start(), SIZES.end()))?;
            }
            _ => return Err(format!("option {option:?} is none of {OPTIONS}")),
        }
        Ok(())
    }
}

/// Nothing, open.
pub(crate) struct NullPort {
    text: String,
    info: PortInfo,
    receives: bool,
    stopped: Arc<AtomicBool>,
    pairs: Vec<Box<dyn QueuePair>>,
}

impl NullPort {
    pub(crate) fn new(
        text: String,
        spec: &NullSpec,
        mac: [u8; 6],
        queue_pairs: u16,
        config: &OpenConfig<'_>,
    ) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut frame = [&mac[..], &SENDER, &LOCAL_EXPERIMENTAL].concat();
        frame.resize(spec.frame_bytes.min(config.data_room_bytes), 0);
        let pair = || -> Box<dyn QueuePair> {
            Box::new(NullQueue {
                frame: spec.receives.then(|| frame.clone().into()),
                stopped: Arc::clone(&stopped),
                quiesced: false,
                tx_descriptors: config.tx_descriptors.into(),
                counters: QueueCounters::default(),
            })
        };
        let queue_pairs = queue_pairs.max(1);
        Self {
            text,
            info: PortInfo {
                driver: "null",
                mac,
                mtu: 1500,
                rx_descriptors: config.rx_descriptors,
                tx_descriptors: config.tx_descriptors,
                queue_pairs,
                features: 0,
                offloads: Offloads::default(),
            },
            receives: spec.receives,
            pairs: std::iter::repeat_with(pair).take(queue_pairs.into()).collect(),
            stopped,
        }
    }
}

impl Port for NullPort {
    fn name(&self) -> &str {
        &self.text
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link(&self) -> Link {
        // ORDERING: Relaxed. A flag on its own; partner: the store in `stop`.
        if self.stopped.load(Ordering::Relaxed) { Link::Down } else { Link::Up }
    }

    fn input(&self) -> Input {
        if self.receives { Input::Endless } else { Input::None }
    }

    fn take_queue_pairs(&mut self) -> Vec<Box<dyn QueuePair>> {
        std::mem::take(&mut self.pairs)
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        // ORDERING: Relaxed. Nothing is handed over with it. Partners: the loads in `link` and `NullQueue::is_still`.
        self.stopped.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for NullPort {
    fn drop(&mut self) {
        // ORDERING: as in `stop`.
        self.stopped.store(true, Ordering::Relaxed);
    }
}

struct NullQueue {
    /// What is received, if anything is.
    frame: Option<Box<[u8]>>,
    stopped: Arc<AtomicBool>,
    quiesced: bool,
    tx_descriptors: usize,
    counters: QueueCounters,
}

impl NullQueue {
    #[inline]
    fn is_still(&self) -> bool {
        // ORDERING: Relaxed. A flag on its own; partner: the store in `NullPort::stop`.
        self.quiesced || self.stopped.load(Ordering::Relaxed)
    }
}

impl QueuePair for NullQueue {
    fn rx_burst(&mut self, pool: &HomePool, burst: &mut Burst, budget: usize) -> usize {
        if self.is_still() {
            return 0;
        }
        let Some(frame) = &self.frame else { return 0 };
        let wanted = budget.min(burst.remaining_capacity());
        let before = burst.len();
        for mut mbuf in pool.alloc_bulk(wanted) {
            let Ok(to) = mbuf.append(frame.len()) else { break };
            to.copy_from_slice(frame);
            burst.push(mbuf);
        }
        let received = burst.len() - before;
        self.counters.rx_nombuf += u64::from(received < wanted);
        self.counters.rx_packets += received as u64;
        self.counters.rx_bytes += (received * frame.len()) as u64;
        received
    }

    fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        if self.is_still() {
            return 0;
        }
        let count = burst.len();
        let (mut empty, mut bytes) = (0, 0);
        for frame in burst.iter() {
            let len = frame.pkt_len() as u64;
            empty += u64::from(len == 0);
            bytes += len;
        }
        burst.clear();
        self.counters.tx_packets += count as u64 - empty;
        self.counters.tx_bytes += bytes;
        self.counters.tx_errors += empty;
        count
    }

    fn tx_room(&mut self) -> usize {
        if self.is_still() { 0 } else { self.tx_descriptors }
    }

    fn quiesce(&mut self) {
        self.quiesced = true;
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn fault(&self) -> Option<QueueFault> {
        None
    }

    /// Either there is always a frame, or never.
    fn arm(&mut self) -> Arm {
        if self.frame.is_some() && !self.is_still() { Arm::Ready } else { Arm::Armed }
    }
}
