//! SIGKILL of the other end while traffic runs: our port as driver and as device, the other end a `bywash` or a testpmd,
//! again and again. The port is in this process, so that it can be asked at every moment.
//!
//! `BYWASH_REQUIRE=dpdk` makes a skip a failure.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peers::bywash::Bywash;
use peers::require::{Suite, skip};
use peers::testpmd::{ForwardMode, Host, Options, Side, Testpmd, VirtioUser};
use pmd::mem::{PageSize, PoolConfig, RegionConfig};
use pmd::port::{Hub, Link, LinkWatch, OpenConfig, Port, PortEvent, QueuePair, open};
use pmd::{Burst, HomePool, MAX_BURST, Pool, Region};

/// How often the other end is killed.
const KILLS: usize = 5;

/// How long another end may take to come up, on a machine that does something else as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many frames show that traffic runs.
const ENOUGH: u64 = 200;

const MBUFS: usize = 4096;

/// Our port with its core and its keeper, both on this thread.
struct Ours {
    port: Box<dyn Port>,
    pair: Box<dyn QueuePair>,
    pool: HomePool,
    link: LinkWatch,
    events: Vec<PortEvent>,
    received: u64,
}

impl Ours {
    fn open(spec: &str) -> Ours {
        let config = PoolConfig { mbufs: MBUFS, ..PoolConfig::default() };
        let len_bytes = config.region_bytes() + (1 << 20);
        let region = Region::new(RegionConfig { len_bytes, page: PageSize::Auto, numa_node: None }).unwrap();
        let pool = Pool::new(&region, config).unwrap().adopt().unwrap();
        let open_config = OpenConfig {
            region: &region,
            hub: &Hub::default(),
            rx_descriptors: 256,
            tx_descriptors: 256,
            queue_pairs: 1,
            data_room_bytes: config.data_room_bytes as usize,
            offloads: false,
            interrupts: false,
        };
        let mut port = open(spec, &open_config).unwrap();
        let pair = port.take_queue_pairs().remove(0);
        let link = LinkWatch::new(port.link());
        Ours { port, pair, pool, link, events: Vec::new(), received: 0 }
    }

    /// One turn of core and keeper: sends what came back, and `fresh` frames more.
    fn turn(&mut self, fresh: usize) {
        let Self { port, pair, pool, link, events, received } = self;
        port.events(&mut |event| {
            link.heard(&event);
            events.push(event);
        });
        events.extend(link.look(port.link()));
        let mut burst = Burst::new();
        *received += pair.rx_burst(pool, &mut burst, MAX_BURST) as u64;
        if fresh > 0 {
            burst.clear();
        }
        for _ in 0..fresh {
            let Some(mut frame) = pool.alloc() else { break };
            let bytes = frame.append(60).unwrap();
            bytes.fill(0);
            bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
            burst.push(frame);
        }
        pair.tx_burst(&mut burst);
        std::thread::yield_now();
    }

    fn wait_for(&mut self, what: &str, fresh: usize, met: impl Fn(&Ours) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !met(self) {
            self.turn(fresh);
            assert!(Instant::now() < deadline, "{what}; {:?}", self.events);
        }
    }

    fn traffic_runs(&mut self, fresh: usize) {
        let enough = self.received + ENOUGH;
        self.wait_for("frames pass", fresh, |ours| ours.received >= enough);
        assert_eq!(self.pair.fault(), None);
    }

    /// Nothing that was posted is lost.
    fn assert_all_mbufs_come_home(self) {
        let Ours { mut port, mut pair, pool, .. } = self;
        port.stop().unwrap();
        pair.quiesce();
        drop((pair, port));
        assert_eq!(pool.levels().free, MBUFS);
    }
}

/// Our driver, and a device that is killed: gone, back, and no other event.
fn drive<D>(socket: &Path, mut device: impl FnMut() -> D) {
    let mut other = device();
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < deadline, "no socket");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut ours = Ours::open(&format!("vhost-user:{}", socket.display()));
    ours.traffic_runs(8);
    for kill in 1..=KILLS {
        drop(other); // SIGKILL
        ours.wait_for("it goes", 8, |ours| matches!(ours.events.last(), Some(PortEvent::Gone { .. })));
        assert_eq!(ours.port.link(), Link::Down);
        other = device();
        ours.wait_for("it comes back", 8, |ours| ours.events.last() == Some(&PortEvent::Back));
        assert_eq!(ours.events.len(), 2 * kill, "{:?}", ours.events);
        ours.traffic_runs(8);
    }
    assert_eq!(ours.pair.counters().faults, KILLS as u64);
    ours.assert_all_mbufs_come_home();
}

/// Our device, and a driver that is killed: link down, link up, and no other event.
fn serve<D>(socket: &Path, mut driver: impl FnMut() -> D) {
    let mut ours = Ours::open(&format!("vhost-user-server:{}", socket.display()));
    for kill in 0..KILLS {
        let other = driver();
        ours.traffic_runs(0);
        assert_eq!(ours.events.len(), 2 * kill + 1, "{:?}", ours.events);
        assert_eq!(ours.events.last(), Some(&PortEvent::LinkUp));
        drop(other); // SIGKILL
        ours.wait_for("it leaves", 0, |ours| ours.events.last() == Some(&PortEvent::LinkDown));
    }
    assert_eq!(ours.pair.counters().faults, 0, "a driver that leaves is nobody's fault");
    ours.assert_all_mbufs_come_home();
}

fn bywash(args: &str) -> Bywash {
    Bywash::start(&args.split_whitespace().collect::<Vec<_>>()).unwrap()
}

fn testpmd_host() -> Option<Arc<Host>> {
    Host::new(384).map_err(|why| skip(Suite::Dpdk, why)).ok()
}

#[test]
fn our_driver_survives_the_kill_of_our_device() {
    peers::bywash::binary().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("x.sock");
    let args = format!("l2fwd --port vhost-user-server:{} --forward-mode macswap --json", socket.display());
    drive(&socket, || bywash(&args));
}

#[test]
fn our_device_survives_the_kill_of_our_driver() {
    peers::bywash::binary().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("x.sock");
    let args = format!("gen --port vhost-user:{} --rate 5k --seconds 60 --json", socket.display());
    serve(&socket, || bywash(&args));
}

#[test]
fn our_driver_survives_the_kill_of_testpmd() {
    let Some(host) = testpmd_host() else { return };
    let socket = host.socket("device");
    drive(&socket, || {
        // DPDK does not listen where a killed one has left its socket.
        drop(std::fs::remove_file(&socket));
        let side = Side::NetVhost(socket.clone());
        Testpmd::start(&host, Options::new(side, ForwardMode::MacSwap, 1)).unwrap()
    });
}

#[test]
fn our_device_survives_the_kill_of_testpmd() {
    let Some(host) = testpmd_host() else { return };
    let socket = host.socket("driver");
    serve(&socket, || {
        let side = Side::NetVirtioUser(VirtioUser::split(&socket));
        Testpmd::start(&host, Options::new(side, ForwardMode::FlowGen, 1)).unwrap()
    });
}
