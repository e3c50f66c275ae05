//! Whole engines over `loop:` ports: start, traffic, snapshots, errors, stop.

use std::time::{Duration, Instant};

use engine::{Burst, Cx, Engine, Hub, Owner, Program, Running, StartError, StopError};

/// Sends every frame back where it came from.
struct Reflect;

impl Program for Reflect {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        cx.send_burst(port, burst);
    }
}

/// Keeps `window` frames under way on port 0 until `goal` have come back, each with its number in it.
struct Pitcher {
    window: usize,
    goal: u64,
    sent: u64,
    back: u64,
    wrong: u64,
}

impl Pitcher {
    fn new(window: usize, goal: u64) -> Self {
        Self { window, goal, sent: 0, back: 0, wrong: 0 }
    }
}

impl Program for Pitcher {
    fn receive(&mut self, _port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        for frame in burst.iter() {
            let number = frame.data().first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            self.wrong += u64::from(number != Some(self.back));
            self.back += 1;
            cx.record(0, 1000, 1);
        }
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        let under_way = usize::try_from(self.sent - self.back).unwrap();
        let room = self.window.saturating_sub(under_way).min(cx.room(0));
        let left =
            if cx.winding_down { 0 } else { usize::try_from(self.goal - self.sent).unwrap_or(usize::MAX) };
        let mut sent = 0;
        for mut frame in cx.pool.alloc_bulk(room.min(left)).collect::<Vec<_>>() {
            frame.append(60).unwrap()[..8].copy_from_slice(&self.sent.to_be_bytes());
            cx.send(0, frame);
            self.sent += 1;
            sent += 1;
        }
        sent > 0
    }

    fn latencies(&self) -> &'static [&'static str] {
        &["round_trip"]
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("sent", self.sent);
        visit("back", self.back);
        visit("wrong", self.wrong);
    }

    fn is_done(&self) -> bool {
        self.back == self.goal
    }
}

fn wait_until_done(running: &Running) {
    let begun = Instant::now();
    while !running.is_done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not done within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pitched(cores: usize, window: usize, goal: u64) -> engine::stats::Snapshot {
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let first = engine.lcore(None);
    let second = if cores == 1 { first } else { engine.lcore(None) };
    engine.program(first, Pitcher::new(window, goal), [a]);
    engine.program(second, Reflect, [b]);
    let running = engine.start().unwrap();
    wait_until_done(&running);
    running.stop().unwrap()
}

#[test]
fn frames_go_round_on_one_core_and_on_two_in_order_and_none_is_lost() {
    for cores in [1, 2] {
        let snapshot = pitched(cores, 200, 100_000);
        let counters = snapshot.counters();
        assert_eq!((counters.get("back"), counters.get("wrong")), (100_000, 0), "{cores} cores");
        let latencies = snapshot.latencies();
        assert_eq!(latencies.get("round_trip").unwrap().len(), 100_000);
        assert_eq!(latencies.get("residence").unwrap().len(), 100_000, "what was received and sent on");
        assert!(!latencies.get("turn").unwrap().is_empty());
        for port in &snapshot.ports {
            let counters = &port.total.counters;
            assert_eq!((counters.rx_packets, counters.tx_packets), (100_000, 100_000));
            assert_eq!((counters.rx_bytes, counters.tx_bytes), (6_000_000, 6_000_000));
            assert_eq!(port.total.tx_dropped, 0);
        }
        assert_eq!(snapshot.drops().sum(), 0);
    }
}

#[test]
fn snapshots_under_traffic_add_up_to_the_last() {
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let core = engine.lcore(None);
    engine.program(core, Pitcher::new(100, 300_000), [a]).program(core, Reflect, [b]);
    let mut running = engine.start().unwrap();
    let (mut recorded, mut before) = (0, 0);
    while !running.is_done() {
        let snapshot = running.snapshot();
        assert!(!snapshot.cores[0].silent);
        recorded += snapshot.cores[0].interval.get("round_trip").unwrap().len();
        let back = snapshot.counters().get("back");
        assert!(back >= before);
        before = back;
    }
    let last = running.stop().unwrap();
    recorded += last.cores[0].interval.get("round_trip").unwrap().len();
    assert_eq!(recorded, 300_000);
}

#[test]
fn two_engines_in_one_process_meet_in_a_hub_and_stop_on_their_own() {
    let hub = Hub::default();
    let mut far = Engine::builder();
    far.hub(&hub);
    let port = far.port("loop:b");
    let core = far.lcore(None);
    far.program(core, Reflect, [port]);
    let far = far.start().unwrap();

    for goal in [1000, 2000] {
        let mut near = Engine::builder();
        near.hub(&hub);
        let port = near.port("loop:a");
        let core = near.lcore(None);
        near.program(core, Pitcher::new(64, goal), [port]);
        let near = near.start().unwrap();
        wait_until_done(&near);
        assert_eq!(near.stop().unwrap().counters().get("back"), goal);
    }
    assert_eq!(far.stop().unwrap().ports[0].total.counters.rx_packets, 3000);
}

#[test]
fn finish_lets_programs_wind_down() {
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let core = engine.lcore(None);
    engine.program(core, Pitcher::new(100, u64::MAX), [a]).program(core, Reflect, [b]);
    let running = engine.start().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let counters = running.finish(Duration::from_millis(100)).unwrap().counters();
    assert!(counters.get("sent") > 0);
    assert_eq!(counters.get("sent"), counters.get("back"));
}

#[test]
fn dropping_a_running_engine_stops_it_and_gives_its_ports_back() {
    let hub = Hub::default();
    for _ in 0..3 {
        let mut engine = Engine::builder();
        engine.hub(&hub);
        let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
        let core = engine.lcore(None);
        engine.program(core, Reflect, [a, b]);
        drop(engine.start().unwrap());
    }
}

#[test]
fn program_that_panics_is_reported_and_the_others_figures_kept() {
    struct Bug;
    impl Program for Bug {
        fn receive(&mut self, _port: usize, _burst: &mut Burst, _cx: &mut Cx<'_>) {
            panic!("a bug in a program, on purpose");
        }
    }
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let (first, second) = (engine.lcore(None), engine.lcore(None));
    engine.program(first, Pitcher::new(10, 10), [a]).program(second, Bug, [b]);
    let running = engine.start().unwrap();
    wait_until_done(&running); // its thread has ended
    match running.stop().unwrap_err() {
        StopError::Panicked { lcore, snapshot } => {
            assert_eq!(lcore, 1);
            assert_eq!(snapshot.cores[0].total.counters.get("sent"), 10);
        }
        other => panic!("{other}"),
    }
}

fn start_error(prepare: impl FnOnce(&mut Engine)) -> StartError {
    let mut engine = Engine::builder();
    prepare(&mut engine);
    engine.start().err().expect("must not start")
}

#[test]
fn what_cannot_start_says_why() {
    assert!(matches!(start_error(|_| {}), StartError::Empty));

    let burst = start_error(|engine| {
        let (core, port) = (engine.lcore(None), engine.port("loop:a"));
        engine.burst(65).program(core, Reflect, [port]);
    });
    assert_eq!(burst.to_string(), "a burst of 65 frames; 1 to 64 are possible");

    let nobody = start_error(|engine| {
        let (core, a) = (engine.lcore(None), engine.port("loop:a"));
        engine.port("loop:b");
        engine.program(core, Reflect, [a]);
    });
    assert!(matches!(nobody, StartError::PortTakers { port: 1, ports: 2, takers: 0 }), "{nobody}");

    let absent = start_error(|engine| {
        let core = engine.lcore(None);
        engine.program(core, Reflect, [7]);
    });
    assert!(matches!(absent, StartError::PortTakers { port: 7, ports: 0, takers: 1 }), "{absent}");

    let core = start_error(|engine| {
        let (core, port) = (engine.lcore(Some(4000)), engine.port("loop:a"));
        engine.program(core, Reflect, [port]);
    });
    assert!(core.to_string().starts_with("cannot run on core 4000; this process may use 0"), "{core}");

    let port = start_error(|engine| {
        let (core, port) = (engine.lcore(None), engine.port("loop:c"));
        engine.program(core, Reflect, [port]);
    });
    assert!(port.to_string().contains("`a` or `b`"), "{port}");

    let memory = start_error(|engine| {
        let (core, port) = (engine.lcore(None), engine.port("loop:a"));
        engine.mbufs(20_000_000).program(core, Reflect, [port]);
    });
    assert!(memory.to_string().contains("mbufs is 20000000"), "{memory}");
}

/// Counts what arrives on its instance and sends it back.
struct Tally(&'static str, u64);

impl Program for Tally {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        self.1 += burst.len() as u64;
        cx.send_burst(port, burst);
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit(self.0, self.1);
    }
}

/// The last byte of the pitcher's number, odd or even: the second core's or the first's.
fn by_parity(frame: &[u8], count: u16) -> Owner {
    Owner::Core(u16::from(frame[7]) % count)
}

#[test]
fn two_cores_share_a_port_of_one_queue_pair_and_each_has_its_own_frames() {
    let goal = 20_000;
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b,queues=1"));
    let cores = [engine.lcore(None), engine.lcore(None), engine.lcore(None)];
    engine.program(cores[0], Pitcher::new(100, goal), [a]);
    let names = ["first", "second"];
    engine.spread(&cores[1..], &[b], Some(by_parity), |index| Tally(names[usize::from(index)], 0));
    let running = engine.start().unwrap();
    wait_until_done(&running);
    let snapshot = running.stop().unwrap();
    let counters = snapshot.counters();
    for (name, count) in [
        ("first", goal / 2),
        ("second", goal / 2),
        ("steered_out", goal / 2),
        ("steered_in", goal / 2),
        ("tx_relayed", goal / 2),
        ("steer_full", 0),
    ] {
        assert_eq!(counters.get(name), count, "{name}");
    }
    assert_eq!(snapshot.drops().sum(), 0);
    assert_eq!(snapshot.ports[1].total.counters.tx_packets, goal);
    assert_eq!(
        snapshot.latencies().get("residence").unwrap().len(),
        goal,
        "from the core that received to where it was sent"
    );
}
