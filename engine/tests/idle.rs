//! Engines that sleep: on every kind of port that needs no privilege, until each of the things that may wake them, and
//! without ever missing one.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use engine::stats::{CoreReport, Snapshot, Wake};
use engine::tsc::{Ticks, Tsc};
use engine::{Burst, Cx, Engine, Hub, Idle, Program, ProgramError, Running, StackSettings};
use pmd::port::PortInfo;

/// Both of the policies that sleep.
const SLEEPERS: [Idle; 2] = [Idle::Adaptive, Idle::Interrupt];

/// Sends every frame back where it came from.
struct Reflect;

impl Program for Reflect {
    fn receive(&mut self, port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        cx.send_burst(port, burst);
    }
}

/// Has one frame under way, and sends the next a while after that came back: never the same while, from nothing to
/// `most_ns`.
struct Pitcher {
    most_ns: u64,
    goal: u64,
    returned: u64,
    next: Option<Ticks>,
    dice: u64,
    tsc: Option<Tsc>,
}

impl Pitcher {
    fn new(most_ns: u64, goal: u64) -> Pitcher {
        Pitcher { most_ns, goal, returned: 0, next: Some(Ticks(0)), dice: 0x9e37_79b9, tsc: None }
    }
}

impl Program for Pitcher {
    fn prepare(&mut self, _ports: &[PortInfo], tsc: &Tsc) -> Result<(), ProgramError> {
        self.tsc = Some(*tsc);
        Ok(())
    }

    fn receive(&mut self, _port: usize, burst: &mut Burst, cx: &mut Cx<'_>) {
        self.returned += burst.len() as u64;
        // xorshift64
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.next = Some(cx.now.after(cx.tsc.ticks(self.dice % self.most_ns)));
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.returned == self.goal || self.next.is_none_or(|next| next > cx.now) {
            return false;
        }
        let Some(mut frame) = cx.pool.alloc() else { return false };
        frame.append(60).unwrap();
        cx.send(0, frame);
        self.next = None;
        true
    }

    fn wake_at(&self) -> Option<Ticks> {
        if self.returned == self.goal { None } else { self.next }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("returned", self.returned);
    }

    fn is_done(&self) -> bool {
        self.returned == self.goal
    }
}

fn reflector(port: &str, idle: Idle, hub: &Hub) -> Running {
    let mut engine = Engine::builder();
    engine.hub(hub).idle(idle);
    let (port, core) = (engine.port(port), engine.lcore(None));
    engine.program(core, Reflect, [port]);
    engine.start().unwrap()
}

fn pitcher(port: &str, idle: Idle, hub: &Hub, program: Pitcher) -> Running {
    let mut engine = Engine::builder();
    engine.hub(hub).idle(idle);
    let (port, core) = (engine.port(port), engine.lcore(None));
    engine.program(core, program, [port]);
    engine.start().unwrap()
}

fn core(snapshot: &Snapshot) -> &CoreReport {
    &snapshot.cores[0].total
}

/// The share of `time` that the loop sleeps, from now on.
fn share_asleep(running: &mut Running, time: Duration) -> f64 {
    let before = core(&running.snapshot()).rest.ticks;
    std::thread::sleep(time);
    let after = running.snapshot();
    // A sleep is counted when it is over, so what the readers interrupt counts, and nothing is missed.
    let slept = after.tsc.ns(core(&after).rest.ticks - before);
    slept as f64 / time.as_nanos() as f64
}

/// Waits until `is_true`, at most ten seconds.
fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn socket(name: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name).display().to_string();
    (folder, path)
}

#[test]
fn a_loop_that_polls_never_sleeps() {
    let hub = Hub::default();
    let mut running = reflector("loop:b", Idle::Poll, &hub);
    assert!(share_asleep(&mut running, Duration::from_millis(50)) == 0.0);
    assert_eq!(core(&running.stop().unwrap()).rest.sleeps(), 0);
}

#[test]
fn nothing_to_do_is_slept_through_on_every_kind_of_port_and_a_frame_ends_it() {
    let (_folder, path) = socket("idle");
    let pairs = [
        ("loop:a".to_owned(), "loop:b".to_owned()),
        ("loop:a,ring_packed=on,event_idx=on".to_owned(), "loop:b".to_owned()),
        ("netem:delay=1ms/loop:a".to_owned(), "netem:delay=1ms/loop:b".to_owned()),
        (format!("vhost-user:{path}"), format!("vhost-user-server:{path}")),
    ];
    for idle in SLEEPERS {
        for (near, far) in &pairs {
            let hub = Hub::default();
            let mut there = reflector(far, idle, &hub);
            let mut here = pitcher(near, idle, &hub, Pitcher::new(1_000_000, 50));
            wait_for(&format!("{near} {idle}: 50 frames there and back"), || {
                here.snapshot().counters().get("returned") == 50
            });
            for running in [&mut here, &mut there] {
                let before = core(&running.snapshot()).rest.sleeps();
                let asleep = share_asleep(running, Duration::from_millis(300));
                let rest = core(&running.snapshot()).rest;
                assert!(rest.sleeps() - before < 50, "{near} {far} {idle}: woken for nothing, {rest:?}");
                assert!(asleep > 0.9, "{near} {far} {idle}: asleep {asleep:.3} of the time, {rest:?}");
            }
            let (here, there) = (here.stop().unwrap(), there.stop().unwrap());
            // With a timer of its own the pitcher sleeps between two frames, and both until one comes.
            assert!(core(&here).rest.woken_by(Wake::Timer) > 5, "{near} {idle}: {:?}", core(&here).rest);
            assert!(core(&there).rest.woken_by(Wake::Port) > 5, "{far} {idle}: {:?}", core(&there).rest);
        }
    }
}

#[test]
fn a_driver_that_joins_or_leaves_wakes_the_device() {
    let (_folder, path) = socket("join");
    let hub = Hub::default();
    let mut server = reflector(&format!("vhost-user-server:{path}"), Idle::Adaptive, &hub);
    let asleep = share_asleep(&mut server, Duration::from_millis(100));
    assert!(asleep > 0.9, "without a driver: asleep {asleep:.3} of the time");
    let before = core(&server.snapshot()).rest.woken_by(Wake::Port);
    let client =
        pitcher(&format!("vhost-user:{path}"), Idle::Adaptive, &hub, Pitcher::new(100_000, u64::MAX));
    // Bounded by what the driver waits for, so it left in good order.
    let begun = Instant::now();
    client.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    assert!(core(&server.stop().unwrap()).rest.woken_by(Wake::Port) > before);
}

#[test]
fn stop_winding_down_and_readers_wake_at_once() {
    for idle in SLEEPERS {
        let hub = Hub::default();
        let mut running = reflector("loop:b", idle, &hub);
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        let snapshot = running.snapshot();
        assert!(!snapshot.cores[0].silent && begun.elapsed() < Duration::from_millis(150), "{idle}");
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        let snapshot = running.finish(Duration::from_secs(5)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{idle}: {:?}", begun.elapsed());
        assert!(core(&snapshot).rest.woken_by(Wake::Control) >= 2, "{idle}: {:?}", core(&snapshot).rest);
    }
}

fn host(address: &str) -> StackSettings {
    StackSettings { addresses: vec![address.parse().unwrap()], ..StackSettings::default() }
}

#[test]
fn threads_and_other_cores_wake_a_stack_whose_timers_it_sleeps_by() {
    for idle in SLEEPERS {
        let mut engine = Engine::builder();
        engine.idle(idle);
        let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
        let cores = [engine.lcore(None), engine.lcore(None), engine.lcore(None)];
        let client = engine.sockets(&cores[..1], a, &host("10.0.0.1/24"), 64);
        // Two cores and one queue pair: one steers and carries for the other.
        let server = engine.sockets(&cores[1..], b, &host("10.0.0.2/24"), 64);
        let mut running = engine.start().unwrap();
        let at = "10.0.0.2:7".parse().unwrap();
        let listener = server.listen(at).unwrap();
        let echo = std::thread::spawn(move || {
            for stream in listener.incoming().take(6) {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..count]).unwrap();
                }
            }
        });
        for index in 0..6_u8 {
            let mut stream = client.connect(at).unwrap();
            for _ in 0..5 {
                // Long enough for all loops to fall asleep, whatever the policy.
                std::thread::sleep(Duration::from_millis(2));
                stream.write_all(&[index; 10]).unwrap();
                let mut back = [0; 10];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, [index; 10]);
            }
        }
        echo.join().unwrap();
        let snapshot = running.snapshot();
        let by = |wake| snapshot.cores.iter().map(|core| core.total.rest.woken_by(wake)).sum::<u64>();
        let rests: Vec<_> = snapshot.cores.iter().map(|core| core.total.rest).collect();
        for wake in [Wake::Thread, Wake::Core, Wake::Port, Wake::Timer] {
            assert!(by(wake) > 0, "{idle}: nobody was woken by {}: {rests:?}", wake.name());
        }
        running.stop().unwrap();
    }
}

/// With one frame under way, a wake-up that is missed is the end of it: nothing else would ever come.
#[test]
fn no_frame_is_slept_through_whenever_it_comes() {
    const FRAMES: u64 = 4000;
    for (near, far) in [("loop:a", "loop:b"), ("loop:a,ring_packed=on,event_idx=on", "loop:b")] {
        for idle in SLEEPERS {
            let hub = Hub::default();
            let there = reflector(far, idle, &hub);
            // Around the time that it takes to fall asleep.
            let mut here = pitcher(near, idle, &hub, Pitcher::new(120_000, FRAMES));
            let deadline = Instant::now() + Duration::from_secs(60);
            while !here.is_done() {
                // Seldom, for a reader's look would wake a loop that has missed something.
                std::thread::sleep(Duration::from_millis(50));
                assert!(Instant::now() < deadline, "{near} {idle}: {:?}", here.snapshot().counters());
            }
            let (here, there) = (here.stop().unwrap(), there.stop().unwrap());
            let sleeps = core(&here).rest.sleeps() + core(&there).rest.sleeps();
            assert!(sleeps > 100, "{near} {idle}: {sleeps} sleeps");
        }
    }
}

/// The same for calls of threads: with nobody else awake, a ring that is missed stops both.
#[test]
fn no_call_of_a_thread_is_slept_through() {
    for idle in SLEEPERS {
        let mut engine = Engine::builder();
        engine.idle(idle);
        let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
        let (one, two) = (engine.lcore(None), engine.lcore(None));
        let client = engine.sockets(&[one], a, &host("10.0.0.1/24"), 8);
        let server = engine.sockets(&[two], b, &host("10.0.0.2/24"), 8);
        let running = engine.start().unwrap();
        let at = "10.0.0.2:7".parse().unwrap();
        let listener = server.listen(at).unwrap();
        let echo = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                stream.write_all(&byte).unwrap();
            }
        });
        let mut stream = client.connect(at).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for round in 0..1500_u64 {
            std::thread::sleep(Duration::from_micros(round * 7 % 150));
            stream.write_all(&[1]).unwrap();
            let begun = Instant::now();
            stream.read_exact(&mut [0]).unwrap();
            // A retransmission would hide a frame that was missed.
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "{idle}: round {round} took {:?}",
                begun.elapsed()
            );
        }
        drop(stream);
        echo.join().unwrap();
        running.stop().unwrap();
    }
}
