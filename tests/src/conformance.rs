//! One suite for every kind of port: what [`Port`] and [`QueuePair`] promise, checked on each.
//!
//! ```text
//!   Kind (a port string, its wire, what does not apply and why) ─► run ─► Check, Check, …  each on a port of its own
//!
//!   Check ──── the port under test ════ Wire: another port, the kernel's packet socket, files
//! ```
//!
//! A kind names the checks that do not apply to it, each with the reason, which is printed. A name that no check has is a
//! mistake and fails.

mod checks;
mod files;
#[allow(unsafe_code)] // sockets, poll
mod packet;
mod ports;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pmd::mem::{PageSize, Pool, PoolConfig, RegionConfig};
use pmd::port::{Hub, OpenConfig, Port, open};
use pmd::{Burst, HomePool, MAX_BURST, Mbuf, QueuePair, Region};

use checks::CHECKS;
pub use files::FilesWire;
pub use packet::PacketWire;
pub use ports::{NoWire, PortWire};

/// How long something may take that takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors of each queue.
pub const DESCRIPTORS: u16 = 256;

/// Ethertype of the suite's frames: for experiments. What else comes is somebody else's.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Bytes in front of a frame's pattern: addresses, ethertype, number, direction.
const HEADER_BYTES: usize = 19;

/// The other end of a port.
pub trait Wire {
    /// Puts a frame on its way to the port; false where there is no room now.
    fn send(&mut self, frame: &[u8]) -> bool;

    /// The oldest frame that the port has sent and that was not taken yet.
    fn receive(&mut self) -> Option<Vec<u8>>;

    /// How many frames it keeps for the port while that does not look.
    fn window(&self) -> usize {
        usize::from(DESCRIPTORS) / 4
    }

    /// The other side goes away, as a process that is killed does.
    fn die(&mut self);
}

/// Memory of one side, on this thread.
pub struct Memory {
    /// What ports carve from.
    pub region: Arc<Region>,
    /// 1,024 mbufs.
    pub pool: HomePool,
}

impl Default for Memory {
    fn default() -> Self {
        let pool = PoolConfig { mbufs: 1024, ..PoolConfig::default() };
        let len_bytes = pool.region_bytes() + (4 << 20);
        let region =
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
        let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
        Self { region, pool }
    }
}

impl Memory {
    /// Opens a port with this memory.
    ///
    /// # Panics
    /// When it does not open.
    pub fn open(&self, hub: &Hub, text: &str) -> Box<dyn Port> {
        let config = OpenConfig {
            region: &self.region,
            hub,
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            queue_pairs: 1,
            interrupts: true,
            data_room_bytes: self.pool.data_room_bytes(),
            offloads: false,
        };
        open(text, &config).unwrap_or_else(|error| panic!("{text}: {error}"))
    }
}

/// A port and its wire.
pub struct Subject {
    /// The port under test.
    pub port: Box<dyn Port>,
    /// What is at its other end.
    pub wire: Box<dyn Wire>,
}

/// A kind of port.
pub struct Kind<'a> {
    /// As messages call it.
    pub name: &'a str,
    /// Opens one with the memory it is given.
    pub open: Box<dyn FnMut(&Memory) -> Subject + 'a>,
    /// Checks that do not apply, and why.
    pub exempt: &'a [(&'a str, &'a str)],
}

/// Runs all checks that apply.
///
/// # Panics
/// When the port breaks a promise.
pub fn run(mut kind: Kind<'_>) {
    for (name, _) in kind.exempt {
        assert!(CHECKS.iter().any(|(known, _)| known == name), "{}: no check is called {name}", kind.name);
    }
    for (name, check) in CHECKS {
        if let Some((_, why)) = kind.exempt.iter().find(|(exempt, _)| exempt == name) {
            println!("{}: {name} does not apply: {why}", kind.name);
            continue;
        }
        println!("{}: {name}", kind.name);
        let memory = Memory::default();
        let before = memory.pool.levels();
        assert_eq!(before.free, before.mbufs);
        let Subject { port, wire } = (kind.open)(&memory);
        let mut bed = Bed::new(&memory.pool, port, wire);
        check(&mut bed);
        bed.close();
        // Ports of which a thread frees mbufs have joined it.
        assert_eq!(memory.pool.levels(), before, "{}: {name}: every mbuf came home", kind.name);
    }
}

/// A port under test, one queue pair of it polled by this thread.
pub(crate) struct Bed<'a> {
    pool: &'a HomePool,
    port: Box<dyn Port>,
    pair: Option<Box<dyn QueuePair>>,
    wire: Box<dyn Wire>,
    /// Frames that the port received, with those that are not the suite's; and their bytes.
    received: (u64, u64),
    /// Frames and bytes that it took.
    sent: (u64, u64),
}

impl<'a> Bed<'a> {
    fn new(pool: &'a HomePool, mut port: Box<dyn Port>, wire: Box<dyn Wire>) -> Self {
        let mut pairs = port.take_queue_pairs();
        assert_eq!(pairs.len(), usize::from(port.info().queue_pairs), "as many as the port says");
        let pair = Some(pairs.remove(0));
        let mut bed = Self { pool, port, pair, wire, received: (0, 0), sent: (0, 0) };
        // Some have no buffers before the first poll, and some no peer.
        bed.poll(MAX_BURST);
        bed
    }

    fn pair(&mut self) -> &mut dyn QueuePair {
        &mut **self.pair.as_mut().expect("not dropped yet")
    }

    /// The suite's frames among what the port receives now, at most `budget`.
    fn poll(&mut self, budget: usize) -> Vec<Vec<u8>> {
        self.poll_into(budget, &mut Vec::new())
    }

    /// The same, with the mbufs kept in `held`.
    fn poll_into(&mut self, budget: usize, held: &mut Vec<Mbuf>) -> Vec<Vec<u8>> {
        let (pool, mut burst) = (self.pool, Burst::new());
        let count = self.pair().rx_burst(pool, &mut burst, budget);
        assert_eq!(count, burst.len());
        assert!(count <= budget, "{count} frames for a budget of {budget}");
        let mut frames = Vec::new();
        for mbuf in &burst {
            let frame: Vec<u8> = mbuf.segments().flat_map(pmd::Mbuf::data).copied().collect();
            assert_eq!(frame.len(), mbuf.pkt_len());
            self.received = (self.received.0 + 1, self.received.1 + frame.len() as u64);
            if is_ours(&frame) {
                frames.push(frame);
            }
        }
        held.extend(burst.drain(..));
        frames
    }

    /// A frame in an mbuf of its own.
    fn mbuf(&self, frame: &[u8]) -> Mbuf {
        let mut mbuf = self.pool.alloc().expect("the bed holds few");
        mbuf.append(frame.len()).expect("within a data room").copy_from_slice(frame);
        mbuf
    }

    /// One `tx_burst`, which must take at least as many as there was room for.
    fn send(&mut self, burst: &mut Burst) -> usize {
        let lengths: Vec<u64> = burst.iter().map(|mbuf| mbuf.pkt_len() as u64).collect();
        let single = burst.iter().all(|mbuf| mbuf.segments().count() == 1);
        let room = self.pair().tx_room();
        let taken = self.pair().tx_burst(burst);
        assert_eq!(taken + burst.len(), lengths.len(), "what is not taken stays");
        if single {
            assert!(taken >= room.min(lengths.len()), "room for {room}, {taken} of {} taken", lengths.len());
        }
        self.sent.0 += taken as u64;
        self.sent.1 += lengths[..taken].iter().sum::<u64>();
        taken
    }

    /// Waits until it is so, with the wire's other end looked after.
    fn wait_for(&mut self, what: &str, mut met: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !met(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?}, {:?}",
                self.pair().counters(),
                self.pair().fault()
            );
            std::thread::yield_now();
        }
    }

    /// Frames both ways at once: all arrive, in order and whole.
    fn exchange(&mut self, outward: &[Vec<u8>], inward: &[Vec<u8>]) {
        let (mut to_send, mut came_out) = (outward.iter(), outward.iter());
        let (mut to_feed, mut came_in) = (inward.iter().peekable(), inward.iter());
        let mut burst = Burst::new();
        let window = self.wire.window();
        let (mut out_underway, mut in_underway) = (0, 0);
        self.wait_for("not all frames arrived", |bed| {
            while out_underway < window
                && !burst.is_full()
                && let Some(frame) = to_send.next()
            {
                burst.push(bed.mbuf(frame));
                out_underway += 1;
            }
            bed.send(&mut burst);
            while in_underway < window
                && let Some(frame) = to_feed.peek()
                && bed.wire.send(frame)
            {
                to_feed.next();
                in_underway += 1;
            }
            for frame in bed.poll(MAX_BURST) {
                let wanted = came_in.next().expect("a frame too many was received");
                assert_same(&frame, wanted);
                in_underway -= 1;
            }
            while let Some(frame) = bed.wire.receive() {
                let wanted = came_out.next().expect("a frame too many was sent");
                assert_same(&frame, wanted);
                out_underway -= 1;
            }
            came_in.len() == 0 && came_out.len() == 0
        });
    }

    /// The counters are what passed, and nothing went wrong.
    fn assert_counted(&mut self) {
        let counters = self.pair().counters();
        assert_eq!((counters.rx_packets, counters.rx_bytes), self.received);
        assert_eq!((counters.tx_packets, counters.tx_bytes), self.sent);
        assert_eq!((counters.rx_errors, counters.tx_errors, counters.faults), (0, 0, 0));
        assert_eq!(self.pair().fault(), None);
    }

    /// Stops the port while its other end is polled, as it is where that is another core's: a driver's queues are given
    /// back by the core that serves them.
    fn stop(&mut self) {
        let Self { port, wire, .. } = self;
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| port.stop());
            while !stopping.is_finished() {
                wire.receive();
            }
            stopping.join().expect("stopping panics").unwrap();
        });
    }

    /// Gives everything back in the order in which an engine does.
    fn close(mut self) {
        if let Some(pair) = &mut self.pair {
            pair.quiesce();
        }
        self.stop();
        let Bed { port, pair, .. } = self;
        drop(pair);
        drop(port);
    }
}

fn is_ours(frame: &[u8]) -> bool {
    frame.len() >= HEADER_BYTES && frame[12..14] == ETHERTYPE
}

#[track_caller]
fn assert_same(frame: &[u8], wanted: &[u8]) {
    let number = |frame: &[u8]| frame[14..18].iter().fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte));
    assert_eq!((number(frame), frame.len()), (number(wanted), wanted.len()), "number and length");
    assert!(frame == wanted, "contents of frame {}", number(frame));
}

/// Frame `number` of `len` bytes; frames of the two directions differ.
fn frame(number: u32, len: usize, is_outward: bool) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x0a, 0x02, 0, 0, 0, 0, 0x0b];
    frame.extend(ETHERTYPE);
    frame.extend(number.to_be_bytes());
    frame.push(u8::from(is_outward));
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    frame.resize_with(len.max(HEADER_BYTES), || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    });
    frame
}

/// Frames of these lengths.
fn frames(lengths: impl Iterator<Item = usize>, is_outward: bool) -> Vec<Vec<u8>> {
    (0..).zip(lengths).map(|(number, len)| frame(number, len, is_outward)).collect()
}
