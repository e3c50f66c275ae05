//! A `vhost-user:` port whose backend dies and comes back: between any two messages, in the middle of one, with traffic.
//!
//! ```text
//!   vhost-user: (this thread) ◄──► Relay (cuts the connection where the test says) ◄──► vhost-user-server: (echoes)
//! ```

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pmd::mem::{Offload, PageSize, PartialChecksum, PoolConfig, RegionConfig};
use pmd::port::{Hub, Link, Offloads, OpenConfig, Port, PortEvent, QueueFault, QueuePair, open};
use pmd::{Burst, HomePool, MAX_BURST, Pool, Region};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const PATIENCE: Duration = Duration::from_secs(20);

fn config<'a>(region: &'a Arc<Region>, hub: &'a Hub) -> OpenConfig<'a> {
    OpenConfig {
        region,
        hub,
        rx_descriptors: 64,
        tx_descriptors: 64,
        queue_pairs: 1,
        data_room_bytes: PoolConfig::default().data_room_bytes as usize,
        offloads: false,
        interrupts: false,
    }
}

/// `spare_bytes` are for the ports' queues.
fn memory(spare_bytes: usize) -> (Arc<Region>, Pool) {
    let pool = PoolConfig { mbufs: 512, ..PoolConfig::default() };
    let len_bytes = pool.region_bytes() + spare_bytes;
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    let pool = Pool::new(&region, pool).unwrap();
    (region, pool)
}

/// The device on a core of its own, from `start` to drop: sends back what comes.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn start(path: &Path, options: &str) -> Echo {
        let (region, pool) = memory(1 << 20);
        let mut port = open(
            &format!("vhost-user-server:{}{options}", path.display()),
            &config(&region, &Hub::default()),
        )
        .unwrap();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let pool = pool.adopt().unwrap();
            let mut pair = port.take_queue_pairs().remove(0);
            let mut burst = Burst::new();
            while !stopped.load(Ordering::Relaxed) {
                pair.rx_burst(&pool, &mut burst, MAX_BURST);
                pair.tx_burst(&mut burst);
                std::thread::yield_now();
            }
            burst.clear();
            pair.quiesce();
            port.stop().unwrap();
        });
        Echo { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Where the next connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Never,
    /// Before this message of the driver's (from 0) is passed on.
    Before(usize),
    /// In the middle of it.
    Within(usize),
}

#[derive(Default)]
struct Relayed {
    next: Mutex<Option<Cut>>,
    /// Both sockets of the connection there is.
    sockets: Mutex<Vec<UnixStream>>,
    messages: AtomicUsize,
    connections: AtomicUsize,
}

impl Relayed {
    fn hang_up(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
    }

    /// Passes the driver's messages on, up to the cut.
    fn pass_on(&self, from: &UnixStream, to: &UnixStream, cut: Cut) -> std::io::Result<()> {
        loop {
            let mut header = [0; 12];
            let (read, file) = from.recv_with_fd(&mut header)?;
            if read == 0 {
                return Ok(());
            }
            (&*from).read_exact(&mut header[read..])?;
            let mut message = header.to_vec();
            message.resize(12 + u32::from_le_bytes(header[8..].try_into().unwrap()) as usize, 0);
            (&*from).read_exact(&mut message[12..])?;
            let number = self.messages.fetch_add(1, Ordering::Relaxed);
            match cut {
                Cut::Before(at) if at == number => return Ok(()),
                Cut::Within(at) if at == number => message.truncate(message.len() / 2),
                _ => {}
            }
            match file {
                Some(file) => drop(to.send_with_fd(&message[..], file.as_raw_fd())?),
                None => (&*to).write_all(&message)?,
            }
            if cut == Cut::Within(number) {
                return Ok(());
            }
        }
    }
}

/// Stands between driver and device, one connection at a time; ends with the test.
fn relay(front: &Path, back: PathBuf) -> Arc<Relayed> {
    let relayed = Arc::<Relayed>::default();
    let listener = UnixListener::bind(front).unwrap();
    let shared = Arc::clone(&relayed);
    std::thread::spawn(move || {
        for front in listener.incoming() {
            let front = front.unwrap();
            let Ok(back) = UnixStream::connect(&back) else { continue };
            let cut = shared.next.lock().unwrap().take().unwrap_or(Cut::Never);
            shared.messages.store(0, Ordering::Relaxed);
            shared.connections.fetch_add(1, Ordering::Relaxed);
            let clones = [&front, &back].map(|socket| socket.try_clone().unwrap());
            *shared.sockets.lock().unwrap() = clones.into();
            let (mut answers, mut to_driver) = (back.try_clone().unwrap(), front.try_clone().unwrap());
            let answering = std::thread::spawn(move || drop(std::io::copy(&mut answers, &mut to_driver)));
            drop(shared.pass_on(&front, &back, cut));
            shared.hang_up();
            answering.join().unwrap();
        }
    });
    relayed
}

/// The driver's side on this thread: its core and its keeper in one.
struct Driver {
    port: Box<dyn Port>,
    pair: Box<dyn QueuePair>,
    pool: HomePool,
    events: Vec<PortEvent>,
    next: u64,
}

impl Driver {
    fn open(spec: &str, region: &Arc<Region>, pool: &Pool) -> Driver {
        Self::open_with(spec, &config(region, &Hub::default()), pool)
    }

    fn open_with(spec: &str, config: &OpenConfig<'_>, pool: &Pool) -> Driver {
        let mut port = open(spec, config).unwrap();
        let pair = port.take_queue_pairs().remove(0);
        Driver { port, pair, pool: pool.adopt().unwrap(), events: Vec::new(), next: 0 }
    }

    /// One turn of each; returns the numbers of the frames that came.
    fn turn(&mut self, send: usize) -> Vec<u64> {
        self.port.events(&mut |event| self.events.push(event));
        let mut burst = Burst::new();
        for _ in 0..send {
            let Some(mut frame) = self.pool.alloc() else { break };
            frame.append(60).unwrap()[..8].copy_from_slice(&self.next.to_le_bytes());
            self.next += 1;
            burst.push(frame);
        }
        self.pair.tx_burst(&mut burst);
        burst.clear();
        self.pair.rx_burst(&self.pool, &mut burst, MAX_BURST);
        std::thread::yield_now();
        burst.iter().map(|frame| u64::from_le_bytes(frame.data()[..8].try_into().unwrap())).collect()
    }

    fn wait_for(&mut self, what: &str, send: usize, mut met: impl FnMut(&mut Driver, &[u64]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let came = self.turn(send);
            if met(self, &came) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}; {:?}", self.events);
        }
    }

    fn goes(&mut self) {
        self.wait_for("it goes", 1, |driver, _| {
            driver.events.iter().any(|event| matches!(event, PortEvent::Gone { .. }))
        });
    }

    /// Until the backend is there again and frames that were sent since come back.
    fn comes_back(&mut self) {
        self.wait_for("it comes back", 1, |driver, _| driver.events.contains(&PortEvent::Back));
        assert!(matches!(&self.events[..], [PortEvent::Gone { .. }, PortEvent::Back]), "{:?}", self.events);
        self.events.clear();
        assert_eq!(self.port.link(), Link::Up);
        let (from, mut back) = (self.next, 0);
        self.wait_for("frames come back", 4, |_, came| {
            assert!(came.windows(2).all(|pair| pair[0] < pair[1]), "in order: {came:?}");
            back += came.iter().filter(|number| **number >= from).count();
            back >= 32
        });
        assert_eq!(self.pair.fault(), None);
    }

    /// Mbufs that are not with the device, all told.
    fn assert_none_is_lost(self, mbufs: usize) {
        let Driver { mut port, mut pair, pool, .. } = self;
        port.stop().unwrap();
        pair.quiesce();
        drop((pair, port));
        assert_eq!(pool.levels().free, mbufs, "every mbuf came home");
    }
}

#[test]
fn a_backend_may_end_before_or_within_any_message() {
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (folder.path().join("front.sock"), folder.path().join("back.sock"));
    let echo = Echo::start(&back, "");
    let relayed = relay(&front, back);
    let (region, pool) = memory(1 << 20);
    let mut driver = Driver::open(&format!("vhost-user:{}", front.display()), &region, &pool);
    let mut back = 0;
    driver.wait_for("frames come back", 4, |_, came| {
        back += came.len();
        back >= 32
    });
    let messages = relayed.messages.load(Ordering::Relaxed);
    assert!(messages >= 15, "a whole handshake: {messages} messages");
    for cut in (0..messages).flat_map(|at| [Cut::Before(at), Cut::Within(at)]) {
        let before = relayed.connections.load(Ordering::Relaxed);
        *relayed.next.lock().unwrap() = Some(cut);
        relayed.hang_up();
        driver.goes();
        assert_eq!(driver.port.link(), Link::Down);
        driver.comes_back();
        let tries = relayed.connections.load(Ordering::Relaxed) - before;
        assert!(tries >= 2, "{cut:?}: cut short once at least, {tries} tries");
    }
    let counters = driver.pair.counters();
    assert_eq!(counters.faults, 2 * messages as u64, "one for each end");
    assert!(counters.tx_lost <= counters.tx_packets);
    driver.assert_none_is_lost(512);
    drop(echo);
}

#[test]
fn a_thousand_returns_cost_no_memory_and_no_mbuf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let bytes = pmd::port::region_bytes(64, 64, 1) + 256;
    // Ordinary pages: what is left over is less than one port's queues.
    let (region, pool) = memory(bytes);
    let mut echo = Some(Echo::start(&path, ""));
    let mut driver = Driver::open(&format!("vhost-user:{}", path.display()), &region, &pool);
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (mut threads_then, mut files_then) = (0, 0);
    for round in 0..1000 {
        driver.turn(8);
        drop(echo.take());
        // Split and packed by turns: the format may change.
        echo = Some(Echo::start(&path, if round % 2 == 0 { ",ring_packed=on" } else { ",ring_packed=off" }));
        driver.goes();
        driver.comes_back();
        if round == 10 {
            (threads_then, files_then) = (threads(), files());
        }
    }
    // Others' tests run in this process as well.
    assert!(files() <= files_then + 32, "{files_then} files, then {}", files());
    assert!(threads() <= threads_then + 16, "{threads_then} threads, then {}", threads());
    assert_eq!(driver.pair.counters().faults, 1000);
    driver.assert_none_is_lost(512);
}

#[test]
fn a_port_may_open_before_its_backend_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let (region, pool) = memory(1 << 20);
    let spec = format!("vhost-user:{}", path.display());
    let error = open(&spec, &config(&region, &Hub::default())).err().unwrap().to_string();
    assert!(error.contains("no vhost-user socket"), "without being told to it does not wait: {error}");
    let mut driver = Driver::open(&format!("{spec},wait=on,mac=02:00:00:00:00:07"), &region, &pool);
    assert_eq!((driver.port.link(), driver.pair.fault()), (Link::Down, None));
    assert_eq!(driver.port.info().mac, [2, 0, 0, 0, 0, 7]);
    for _ in 0..50 {
        assert_eq!(driver.turn(1), [0; 0]);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((driver.pair.counters().tx_packets, driver.pair.tx_room()), (0, 0));
    assert_eq!(driver.events, [], "nothing has happened yet");
    let echo = Echo::start(&path, "");
    driver.wait_for("it is there", 1, |driver, _| driver.events == [PortEvent::Back]);
    let mut back = 0;
    driver.wait_for("frames come back", 4, |_, came| {
        back += came.len();
        back >= 32
    });
    driver.assert_none_is_lost(512);
    drop(echo);
}

#[test]
fn a_port_that_waits_promises_offloads_and_its_queue_pair_says_which_of_them_the_backend_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let (region, pool) = memory(1 << 20);
    let hub = Hub::default();
    let with_offloads = OpenConfig { offloads: true, ..config(&region, &hub) };
    let spec = format!("vhost-user:{},wait=on", path.display());
    let mut driver = Driver::open_with(&spec, &with_offloads, &pool);
    assert_eq!(driver.port.info().offloads, Offloads::ALL);
    assert_eq!(driver.pair.offloads(), Offloads::default(), "nobody is there to do them");

    // The first backend does none: a checksum is completed here, and what stands for several is cut above.
    let echo = Echo::start(&path, "");
    driver.wait_for("it is there", 0, |driver, _| driver.events == [PortEvent::Back]);
    assert_eq!(driver.port.info().offloads, Offloads::ALL, "a promise holds");
    driver.wait_for("it receives", 0, |driver, _| driver.pair.tx_room() > 0);
    assert_eq!(driver.pair.offloads(), Offloads::default());
    let mut frame = driver.pool.alloc().unwrap();
    frame.append(60).unwrap().copy_from_slice(&[1; 60]);
    frame.set_offload(Offload::partial(PartialChecksum { start: 34, offset: 16 }));
    assert_eq!(driver.pair.tx_burst(&mut Burst::from_iter([frame])), 1);
    let mut came = Burst::new();
    driver.wait_for("it comes back", 0, |driver, _| {
        driver.pair.rx_burst(&driver.pool, &mut came, 1);
        !came.is_empty()
    });
    let words = came[0].data()[34..].as_chunks().0;
    let sum = words.iter().fold(0, |sum, word| sum + u32::from(u16::from_be_bytes(*word)));
    // What the place held, 0x0101, was the pseudo-header's part. RFC 1071.
    assert_eq!(sum, 0xffff - 0x0101, "{:02x?}", came[0].data());
    came.clear();

    // The next does all of them.
    drop(echo);
    driver.goes();
    driver.events.clear();
    let all = "csum=on,guest_csum=on,host_tso4=on,host_tso6=on,host_ecn=on,guest_tso4=on,guest_tso6=on,guest_ecn=on";
    let echo = Echo::start(&path, &format!(",{all}"));
    driver.wait_for("it is there again", 0, |driver, _| driver.events == [PortEvent::Back]);
    driver.wait_for("it receives", 0, |driver, _| driver.pair.tx_room() > 0);
    assert_eq!(driver.pair.offloads(), Offloads::ALL);
    driver.assert_none_is_lost(512);
    drop(echo);
}

#[test]
fn one_that_is_told_not_to_wait_stays_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let (region, pool) = memory(1 << 20);
    let echo = Echo::start(&path, "");
    let mut driver = Driver::open(&format!("vhost-user:{},reconnect=off", path.display()), &region, &pool);
    driver.turn(8);
    drop(echo);
    driver.goes();
    let _echo = Echo::start(&path, "");
    for _ in 0..100 {
        driver.turn(1);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert_eq!(driver.events.len(), 1, "{:?}", driver.events);
    assert_eq!(driver.pair.fault(), Some(QueueFault::DeviceGone));
    driver.assert_none_is_lost(512);
}

#[test]
fn a_backend_that_comes_back_with_less_is_refused_with_the_reason_until_it_has_as_much() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let (region, pool) = memory(1 << 20);
    let echo = Echo::start(&path, ",ring_packed=on");
    let spec = format!("vhost-user:{},ring_packed=on", path.display());
    let mut driver = Driver::open(&spec, &region, &pool);
    driver.turn(8);
    drop(echo);
    driver.goes();
    let echo = Echo::start(&path, ",ring_packed=off");
    let is_refused =
        |event: &PortEvent| matches!(event, PortEvent::Gone { why } if why.contains("RING_PACKED"));
    driver.wait_for("it is refused", 1, |driver, _| driver.events.iter().any(is_refused));
    drop(echo);
    let _echo = Echo::start(&path, ",ring_packed=on");
    driver.wait_for("it comes back", 1, |driver, _| driver.events.last() == Some(&PortEvent::Back));
    let told = driver.events.iter().filter(|event| is_refused(event)).count();
    assert_eq!(told, 1, "once, however often it was tried: {:?}", driver.events);
    driver.assert_none_is_lost(512);
}

/// The seat of a frontend that stops in the middle of a message is free for the next one some seconds later.
#[test]
fn a_frontend_that_never_finishes_a_message_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let echo = Echo::start(&path, "");
    let stuck: Vec<UnixStream> = [
        &[1][..],
        &[15, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1],
        &[5, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ]
    .into_iter()
    .map(|part| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(part).unwrap();
        stream
    })
    .collect();
    let (region, pool) = memory(1 << 20);
    let mut driver = Driver::open(&format!("vhost-user:{},wait=on", path.display()), &region, &pool);
    driver.wait_for("it is there", 1, |driver, _| driver.events == [PortEvent::Back]);
    let mut back = 0;
    driver.wait_for("frames come back", 4, |_, came| {
        back += came.len();
        back >= 32
    });
    driver.assert_none_is_lost(512);
    drop((stuck, echo));
}
