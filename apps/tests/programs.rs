//! The programs end to end: whole engines over `loop:` links, in this process, without root or hardware.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bywash::programs::generator::pacer::Rate;
use bywash::programs::generator::sizes::Sizes;
use bywash::programs::generator::{Check, FOREIGN, Frames, GenConfig, Generator};
use bywash::programs::l2fwd::{ForwardMode, L2fwd, TOO_SHORT};
use bywash::programs::rxonly::RxOnly;
use engine::stats::Snapshot;
use engine::tsc::Ticks;
use engine::{Burst, Cx, Engine, Program};
use pmd::Mbuf;
use pmd::mem::PageSize;

const PATIENCE: Duration = Duration::from_secs(20);

/// An engine with `near` at the driver's end of `links` links and `far` at the device's, on one core or two.
fn engine(near: impl Program + 'static, far: impl Program + 'static, links: usize, cores: usize) -> Engine {
    let mut engine = Engine::builder();
    engine.memory(PageSize::Ordinary, None).descriptors(256, 256);
    let near_ports: Vec<_> = (0..links).map(|link| engine.port(format!("loop:{link}.a"))).collect();
    let far_ports: Vec<_> =
        (0..links).map(|link| engine.port(format!("loop:{link}.b,mac=02:00:00:00:0b:0{link}"))).collect();
    let first = engine.lcore(None);
    let last = if cores > 1 { engine.lcore(None) } else { first };
    engine.program(first, near, near_ports);
    engine.program(last, far, far_ports);
    engine
}

/// Runs it until its programs are done.
fn run(engine: Engine) -> Snapshot {
    let running = engine.start().unwrap();
    let start = Instant::now();
    while !running.is_done() {
        assert!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    running.stop().unwrap()
}

fn made(sizes: Sizes, flows: usize, count: u64) -> GenConfig {
    GenConfig {
        frames: Frames::Made { sizes, flows, destination: None, source: None },
        count: Some(count),
        drain: Duration::from_secs(2),
        ..GenConfig::default()
    }
}

/// Every frame came back once, in order and whole, but `dropped` of them.
#[track_caller]
fn assert_back(snapshot: &Snapshot, sent: u64, dropped: u64) {
    let counters = snapshot.counters();
    let got = ["sent", "received", "in_flight", "lost", "reordered", "duplicated", "late", "corrupted"]
        .map(|name| (name, counters.get(name)));
    let want = [sent, sent - dropped, 0, dropped, 0, 0, 0, 0];
    assert_eq!(got.map(|(_, count)| count), want, "{got:?}; drops {:?}", snapshot.drops());
    assert_eq!(snapshot.drops().sum(), dropped, "{:?}", snapshot.drops());
    assert_eq!(snapshot.latencies().get("round_trip").unwrap().len(), sent - dropped);
}

#[track_caller]
fn assert_all_back(snapshot: &Snapshot, sent: u64) {
    assert_back(snapshot, sent, 0);
}

#[test]
fn gen_and_l2fwd_on_one_core_lose_nothing_in_any_mode() {
    for mode in [ForwardMode::Io, ForwardMode::Mac, ForwardMode::Macswap] {
        let generator = Generator::new(made(Sizes::Fixed(60), 7, 20_000));
        let snapshot = run(engine(generator, L2fwd::new(mode, 0), 2, 1));
        assert_all_back(&snapshot, 40_000);
        assert_eq!(snapshot.ports[0].total.counters.rx_packets, 20_000, "{mode:?}");
    }
}

/// On two cores one may be descheduled while the other runs on: then a ring overflows, as a wire would.
#[test]
fn on_two_cores_each_lost_frame_is_one_that_a_full_ring_refused() {
    for mode in [ForwardMode::Io, ForwardMode::Mac, ForwardMode::Macswap] {
        let generator = Generator::new(made(Sizes::Fixed(60), 7, 20_000));
        let snapshot = run(engine(generator, L2fwd::new(mode, 0), 2, 2));
        let refused: Vec<_> = snapshot.ports.iter().map(|port| port.total.tx_dropped).collect();
        assert_eq!(refused[..2], [0, 0], "the generator sends no more than there is room for");
        assert_back(&snapshot, 40_000, refused.iter().sum());
    }
}

#[test]
fn the_last_of_three_ports_sends_back_what_it_receives() {
    let snapshot = run(engine(
        Generator::new(made(Sizes::SimpleImix, 100, 5_000)),
        L2fwd::new(ForwardMode::Macswap, 0),
        3,
        1,
    ));
    assert_all_back(&snapshot, 15_000);
    for port in &snapshot.ports[..3] {
        assert_eq!((port.total.counters.tx_packets, port.total.counters.rx_packets), (5_000, 5_000));
    }
}

#[test]
fn one_port_of_largest_frames_in_65536_flows_comes_back_whole() {
    let config = made(Sizes::Fixed(1514), 65_536, 70_000);
    assert_all_back(&run(engine(Generator::new(config), L2fwd::new(ForwardMode::Mac, 0), 1, 1)), 70_000);
}

#[test]
fn frames_that_are_only_counted_are_as_many_at_both_ends() {
    for (sizes, bytes) in
        [(Sizes::Fixed(60), 60 * 12_000), (Sizes::SimpleImix, (7 * 60 + 4 * 566 + 1514) * 1_000)]
    {
        let config = GenConfig {
            check: Check::Count,
            rate: Rate::Frames(200_000),
            drain: Duration::from_millis(100),
            ..made(sizes, 5, 12_000)
        };
        let snapshot = run(engine(Generator::new(config), L2fwd::new(ForwardMode::Macswap, 0), 1, 1));
        let counters = snapshot.counters();
        let got = ["sent", "received", "received_bytes", "lost"].map(|name| counters.get(name));
        assert_eq!(got, [12_000, 12_000, bytes, 0]);
        let [near, far] = [0, 1].map(|port| &snapshot.ports[port].total);
        assert_eq!((near.counters.tx_packets, near.counters.rx_packets), (12_000, 12_000));
        assert_eq!((far.counters.rx_packets, far.counters.tx_packets), (12_000, 12_000));
        assert_eq!((far.counters.rx_bytes, snapshot.drops().sum()), (bytes, 0));
        assert!(snapshot.latencies().get("round_trip").is_none(), "counted frames carry no stamp");
    }
}

/// Sends everything back and notes, on the loop's clock, when the first and the last frame came.
struct Clocked(Arc<Mutex<Option<(Ticks, Ticks)>>>);

impl Program for Clocked {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        let mut times = self.0.lock().unwrap();
        *times = Some((times.map_or(cx.now, |(first, _)| first), cx.now));
        cx.send_burst(port, burst);
    }
}

/// Three seconds, so that a core taken away at the end for the time that is caught up (20 ms) is within 1 %.
#[test]
fn the_rate_asked_for_is_the_rate_sent() {
    let times = Arc::new(Mutex::new(None));
    let config = GenConfig { rate: Rate::Frames(100_000), ..made(Sizes::Fixed(64), 1, 300_000) };
    let snapshot = run(engine(Generator::new(config), Clocked(times.clone()), 1, 1));
    assert_all_back(&snapshot, 300_000);
    let (first, last) = times.lock().unwrap().unwrap();
    let seconds = snapshot.tsc.ns_between(first, last) as f64 / 1e9;
    // What the machine kept the loop from sending in time was forfeited and counted.
    let due = 300_000.0 + snapshot.counters().get("rate_missed") as f64;
    let ratio = due / seconds / 100_000.0;
    assert!((0.99..1.01).contains(&ratio), "{due} frames were due in {seconds} s");
}

/// What [`Faulty`] did.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    lost: u64,
    duplicated: u64,
    corrupted: u64,
    delayed: u64,
}

/// A bad network: of every twenty frames it loses one, sends one twice, damages one, and one overtakes another.
struct Faulty {
    seen: u64,
    held: Option<Mbuf>,
    faults: Arc<Mutex<Faults>>,
}

impl Program for Faulty {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        let mut faults = self.faults.lock().unwrap();
        for mut frame in burst.drain(..) {
            self.seen += 1;
            match self.seen % 20 {
                3 => faults.lost += 1,
                7 => {
                    let copy = frame.copy_linear(cx.pool).unwrap();
                    cx.send(port, frame);
                    cx.send(port, copy);
                    faults.duplicated += 1;
                }
                11 => {
                    let last = frame.len() - 1;
                    frame.data_mut().unwrap()[last] ^= 1;
                    cx.send(port, frame);
                    faults.corrupted += 1;
                }
                15 => self.held = Some(frame),
                16 => {
                    cx.send(port, frame);
                    if let Some(held) = self.held.take() {
                        cx.send(port, held);
                        faults.delayed += 1;
                    }
                }
                _ => cx.send(port, frame),
            }
        }
    }
}

#[test]
fn loss_duplication_damage_and_reordering_are_each_counted() {
    let faults = Arc::new(Mutex::new(Faults::default()));
    let faulty = Faulty { seen: 0, held: None, faults: faults.clone() };
    // A rate that leaves room for the copies, so that the link itself loses nothing.
    let config = GenConfig { rate: Rate::Frames(200_000), ..made(Sizes::Fixed(100), 1, 20_000) };
    let snapshot = run(engine(Generator::new(config), faulty, 1, 1));
    let faults = *faults.lock().unwrap();
    assert_eq!(
        (faults.lost, faults.duplicated, faults.corrupted, faults.delayed),
        (1_000, 1_000, 1_000, 1_000)
    );
    let counters = snapshot.counters();
    assert_eq!(counters.get("sent"), 20_000);
    assert_eq!(counters.get("lost"), 2_000, "lost and damaged frames");
    assert_eq!(counters.get("received"), 18_000);
    assert_eq!(counters.get("duplicated"), 1_000);
    assert_eq!(counters.get("corrupted"), 1_000);
    assert_eq!(counters.get("reordered"), 1_000);
    assert_eq!(snapshot.latencies().get("round_trip").unwrap().len(), 18_000);
}

#[test]
fn what_never_comes_back_is_lost_after_the_drain_time() {
    let config = GenConfig { drain: Duration::from_millis(50), ..made(Sizes::SimpleImix, 1, 1_200) };
    let snapshot = run(engine(Generator::new(config), RxOnly::new(), 1, 1));
    let counters = snapshot.counters();
    assert_eq!((counters.get("sent"), counters.get("received"), counters.get("lost")), (1_200, 0, 1_200));
    let bins = ["size_to_64", "size_512_to_1023", "size_1024_to_1518"].map(|bin| counters.get(bin));
    assert_eq!(bins, [700, 400, 100]);
}

#[test]
fn without_a_count_it_sends_until_the_engine_winds_down() {
    let config = GenConfig { count: None, ..made(Sizes::Fixed(64), 4, 0) };
    let running = engine(Generator::new(config), L2fwd::new(ForwardMode::Mac, 0), 1, 1).start().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!running.is_done());
    let snapshot = running.finish(PATIENCE).unwrap();
    let sent = snapshot.counters().get("sent");
    assert!(sent > 1_000, "{sent}");
    assert_all_back(&snapshot, sent);
}

/// A capture of one frame each of these lengths, a millisecond apart, filled with their number from 1.
fn capture(lengths: &[usize]) -> tempfile::NamedTempFile {
    let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut bytes = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]);
    for (number, &length) in (0..).zip(lengths) {
        let len = u32::try_from(length).unwrap();
        bytes.extend(words(&[1, number * 1_000, len, len]));
        bytes.resize(bytes.len() + length, u8::try_from(number).unwrap() + 1);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

fn replay(file: &tempfile::NamedTempFile, repeat: bool, timed: bool, count: Option<u64>) -> GenConfig {
    GenConfig {
        frames: Frames::Replayed { path: file.path().to_owned(), repeat, timed },
        count,
        drain: Duration::from_millis(100),
        ..GenConfig::default()
    }
}

/// What [`Collect`] received: port and bytes.
type Collected = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// Sends prepared frames, keeps a copy of what comes, and sends that back if asked to.
#[derive(Default)]
struct Collect {
    to_send: Vec<(usize, Vec<u8>)>,
    reflect: bool,
    collected: Collected,
}

impl Program for Collect {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        self.collected.lock().unwrap().extend(burst.iter().map(|frame| (port, frame.data().to_vec())));
        if self.reflect {
            cx.send_burst(port, burst);
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        match self.to_send.last() {
            Some((port, bytes)) if cx.room(*port) > 0 => {
                let mut frame = cx.pool.alloc().unwrap();
                frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
                cx.send(*port, frame);
                self.to_send.pop();
                true
            }
            _ => false,
        }
    }
}

#[test]
fn gen_waits_before_its_first_frame_and_then_loses_none() {
    let settle = Duration::from_millis(300);
    let start = Instant::now();
    let config = GenConfig { settle, ..made(Sizes::Fixed(60), 1, 1_000) };
    let snapshot = run(engine(Generator::new(config), L2fwd::new(ForwardMode::Io, 0), 1, 1));
    assert!(start.elapsed() >= settle, "{:?}", start.elapsed());
    assert_all_back(&snapshot, 1_000);
}

#[test]
fn gen_that_still_waits_can_be_stopped() {
    let config = GenConfig { settle: Duration::from_secs(3600), ..made(Sizes::Fixed(60), 1, 1_000) };
    let running = engine(Generator::new(config), L2fwd::new(ForwardMode::Io, 0), 1, 1).start().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let start = Instant::now();
    let snapshot = running.finish(PATIENCE).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(snapshot.counters().get("sent"), 0);
}

#[test]
fn a_capture_is_replayed_byte_for_byte_as_often_as_asked() {
    let file = capture(&[60, 1514, 100]);
    for (repeat, timed, count, frames) in
        [(false, false, None, 3), (true, false, Some(8), 8), (true, true, Some(5), 5)]
    {
        let collected = Collected::default();
        let collect = Collect { reflect: true, collected: collected.clone(), ..Collect::default() };
        let snapshot = run(engine(Generator::new(replay(&file, repeat, timed, count)), collect, 1, 1));
        let lengths: Vec<_> = collected.lock().unwrap().iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [60, 1514, 100].iter().copied().cycle().take(frames).collect::<Vec<_>>());
        for (place, (_, bytes)) in collected.lock().unwrap().iter().enumerate() {
            assert!(bytes.iter().all(|&byte| usize::from(byte) == place % 3 + 1));
        }
        let counters = snapshot.counters();
        assert_eq!((counters.get("sent"), counters.get("received")), (frames as u64, frames as u64));
        assert!(snapshot.latencies().get("round_trip").is_none(), "replayed frames carry no stamp");
    }
}

#[test]
fn frames_of_others_are_dropped_as_foreign() {
    let file = capture(&[60; 40]);
    let config =
        GenConfig { count: Some(10), drain: Duration::from_millis(200), ..made(Sizes::Fixed(60), 1, 0) };
    let snapshot =
        run(engine(Generator::new(config), Generator::new(replay(&file, false, false, None)), 1, 1));
    assert_eq!(snapshot.drops().get(FOREIGN), 40);
    assert_eq!(snapshot.counters().get("lost"), 10);
}

#[test]
fn l2fwd_sends_its_first_bursts_from_each_port_and_nothing_more() {
    let collected = Collected::default();
    let collect = Collect { collected: collected.clone(), ..Collect::default() };
    let running = engine(L2fwd::new(ForwardMode::Macswap, 0).tx_first(2), collect, 2, 1).start().unwrap();
    let start = Instant::now();
    while collected.lock().unwrap().len() < 2 * 2 * 32 {
        assert!(start.elapsed() < PATIENCE, "{} frames", collected.lock().unwrap().len());
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(20));
    running.stop().unwrap();
    let collected = collected.lock().unwrap();
    for port in [0, 1] {
        let frames: Vec<_> = collected.iter().filter(|(at, _)| *at == port).collect();
        assert_eq!(frames.len(), 64, "port {port}");
        for (_, bytes) in frames {
            assert_eq!((bytes.len(), &bytes[..6]), (64, &[2, 0, 0, 0, 0, u8::try_from(port).unwrap()][..]));
        }
    }
}

#[test]
fn l2fwd_rewrites_the_addresses_of_the_port_it_sends_on() {
    let frame = |source: u8| {
        [&[0xd0, 1, 2, 3, 4, 5, 0xa0, 7, 8, 9, 10, source][..], &[0x88, 0xb5], &[source; 50]].concat()
    };
    for (mode, first_port, headers) in [
        (
            ForwardMode::Io,
            0,
            [[0xd0, 1, 2, 3, 4, 5, 0xa0, 7, 8, 9, 10, 0], [0xd0, 1, 2, 3, 4, 5, 0xa0, 7, 8, 9, 10, 1]],
        ),
        (
            ForwardMode::Macswap,
            0,
            [[0xa0, 7, 8, 9, 10, 0, 0xd0, 1, 2, 3, 4, 5], [0xa0, 7, 8, 9, 10, 1, 0xd0, 1, 2, 3, 4, 5]],
        ),
        (
            ForwardMode::Mac,
            0,
            [[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0x0b, 1], [2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0x0b, 0]],
        ),
        (
            ForwardMode::Mac,
            4,
            [[2, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0x0b, 1], [2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0x0b, 0]],
        ),
    ] {
        let collected = Collected::default();
        let to_send = vec![(0, frame(0)), (1, frame(1)), (0, vec![0xff; 13]), (0, frame(0))];
        let near = Collect { to_send, reflect: false, collected: collected.clone() };
        let running = engine(near, L2fwd::new(mode, first_port), 2, 1).start().unwrap();
        let start = Instant::now();
        let wanted = if mode == ForwardMode::Io { 4 } else { 3 };
        while collected.lock().unwrap().len() < wanted && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let snapshot = running.stop().unwrap();
        assert_eq!(snapshot.drops().get(TOO_SHORT), u64::from(mode != ForwardMode::Io), "{mode:?}");
        let mut got = collected.lock().unwrap().clone();
        got.retain(|(_, bytes)| bytes.len() > 13);
        got.sort();
        // Sent on 0, received on 1, and the other way round.
        let want = [(0, 1), (1, 0), (1, 0)].map(|(port, source): (usize, u8)| {
            (port, [&headers[usize::from(source)][..], &frame(source)[12..]].concat())
        });
        assert_eq!(got, want, "{mode:?}");
    }
}

#[track_caller]
fn refused(config: GenConfig) -> String {
    match engine(Generator::new(config), RxOnly::new(), 1, 1).start() {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_sent_is_refused_at_the_start_with_the_reason() {
    for (config, words) in [
        (made(Sizes::Fixed(1515), 1, 1), "60 to 1514"),
        (made(Sizes::Fixed(20), 1, 1), "60 to 1514"),
        (made(Sizes::Genome("agi".into()), 1, 1), "leave out the letters"),
        (made(Sizes::Genome("x".into()), 1, 1), "'x' is unknown"),
        (made(Sizes::Fixed(60), 0, 1), "1 to 65536 flows"),
        (GenConfig { data_room_bytes: 1000, ..made(Sizes::SimpleImix, 1, 1) }, "do not fit the 1000 bytes"),
        (replay(&capture(&[60, 1600]), false, false, None), "frame 2 of"),
        (replay(&capture(&[]), false, false, None), "no frames"),
    ] {
        let error = refused(config);
        assert!(error.contains(words), "{error}");
    }
}
