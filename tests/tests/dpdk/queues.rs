//! Two queue pairs, in both directions: what is sent on one comes back on the same.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peers::testpmd::{ForwardMode, Options, Side, Testpmd, VirtioUser};
use pmd::mem::{PageSize, PoolConfig, RegionConfig};
use pmd::port::{Hub, Link, OpenConfig, Port, QueuePair, open};
use pmd::virtio::spec::feature;
use pmd::{Burst, HomePool, MAX_BURST, Pool, Region};

use super::{PEER_CORE, host};

/// Frames that each queue pair sends.
const FRAMES: u32 = 20_000;
/// Frames of a queue pair that are under way at a time: fewer than any ring holds.
const UNDER_WAY: u32 = 64;

fn our_port(spec: &str) -> (Box<dyn Port>, Pool) {
    let pool = PoolConfig { mbufs: 8192, ..PoolConfig::default() };
    let len_bytes = pool.region_bytes() + (4 << 20);
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Auto, numa_node: None }).unwrap();
    let pool = Pool::new(&region, pool).unwrap();
    let config = OpenConfig {
        region: &region,
        hub: &Hub::default(),
        rx_descriptors: 1024,
        tx_descriptors: 1024,
        queue_pairs: 2,
        data_room_bytes: 2048,
        offloads: false,
        interrupts: false,
    };
    (open(spec, &config).unwrap(), pool)
}

/// A UDP datagram of the queue pair's own flow, with a number.
fn frame(queue: usize, number: u32) -> Vec<u8> {
    let flow = u8::try_from(queue).unwrap();
    let mut frame =
        vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0];
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 4, flow, 4, flow, 0, 26, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame.resize(60, flow);
    frame
}

/// Sends on both queue pairs; every frame must come back on the one that sent it, once, in order, as it was.
fn all_come_back(pairs: &mut [Box<dyn QueuePair>], pool: &HomePool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut sent, mut back) = ([0; 2], [0; 2]);
    while back.iter().any(|count| *count < FRAMES) {
        assert!(Instant::now() < deadline, "sent {sent:?}, back {back:?}");
        for (queue, pair) in pairs.iter_mut().enumerate() {
            let mut burst = Burst::new();
            while !burst.is_full() && sent[queue] < FRAMES && sent[queue] - back[queue] < UNDER_WAY {
                let Some(mut mbuf) = pool.alloc() else { break };
                mbuf.append(60).unwrap().copy_from_slice(&frame(queue, sent[queue]));
                burst.push(mbuf);
                sent[queue] += 1;
            }
            pair.tx_burst(&mut burst);
            assert!(burst.is_empty(), "rings are longer than what is under way");
            pair.rx_burst(pool, &mut burst, MAX_BURST);
            for mbuf in burst.drain(..) {
                assert_eq!(
                    mbuf.data(),
                    frame(queue, back[queue]),
                    "queue pair {queue}, frame {}",
                    back[queue]
                );
                back[queue] += 1;
            }
        }
    }
    assert!(pairs.iter().all(|pair| pair.fault().is_none()));
}

fn poll(pairs: &mut [Box<dyn QueuePair>], pool: &HomePool) {
    for pair in pairs {
        pair.rx_burst(pool, &mut Burst::new(), MAX_BURST);
    }
}

/// Polls until testpmd is there. What it sends meanwhile is not ours.
fn until_up(port: &dyn Port, pairs: &mut [Box<dyn QueuePair>], pool: &HomePool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut settled = None;
    // It throws away what it finds in its receive ring when it starts (`virtio_dev_start`): a moment longer.
    while settled.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(500)) {
        assert!(Instant::now() < deadline, "no link");
        poll(pairs, pool);
        if port.link() == Link::Up {
            settled.get_or_insert_with(Instant::now);
        }
    }
}

#[test]
fn two_queue_pairs_of_net_vhost_are_driven() {
    let Some((host, _precedence)) = host() else { return };
    for options in ["", ",ring_packed=on"] {
        let socket = host.socket("queues");
        let side = Side::NetVhost(socket.clone());
        let options_of = Options { queues: 2, ..Options::new(side, ForwardMode::Io, PEER_CORE) };
        let testpmd = Testpmd::start(&host, options_of).unwrap();
        let (mut port, pool) = our_port(&format!("vhost-user:{},queues=2{options}", socket.display()));
        assert_eq!(port.info().queue_pairs, 2);
        assert_ne!(port.info().features & feature::MQ, 0);
        let (mut pairs, pool) = (port.take_queue_pairs(), pool.adopt().unwrap());
        until_up(&*port, &mut pairs, &pool);
        all_come_back(&mut pairs, &pool);
        drop((pairs, port));
        testpmd.quit().unwrap();
    }
}

fn serve(socket: &Path, user: VirtioUser, host: &std::sync::Arc<peers::testpmd::Host>) {
    let (mut port, pool) = our_port(&format!("vhost-user-server:{},queues=2", socket.display()));
    let options =
        Options { queues: 2, ..Options::new(Side::NetVirtioUser(user), ForwardMode::Io, PEER_CORE) };
    let mut pairs = port.take_queue_pairs();
    let started = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        // It comes up while we poll: it waits for the queues that it sets up. The other thread is the one that polls,
        // because a peer dies with the thread that has started it.
        let polling = scope.spawn(move || {
            let pool = pool.adopt().unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while !started.load(Ordering::Relaxed) {
                assert!(Instant::now() < deadline, "testpmd does not start");
                poll(&mut pairs, &pool);
            }
            until_up(&*port, &mut pairs, &pool);
            // Before it has sent anything, each queue pair's frames go to its own receive queue; testpmd sends them back
            // on the transmit queue of the same pair, from which the device learns just that.
            all_come_back(&mut pairs, &pool);
        });
        let testpmd = Testpmd::start(host, options).unwrap();
        started.store(true, Ordering::Relaxed);
        polling.join().unwrap();
        testpmd.quit().unwrap();
    });
}

#[test]
fn two_queue_pairs_are_served_to_net_virtio_user() {
    let Some((host, _precedence)) = host() else { return };
    let socket = host.socket("served");
    let split = VirtioUser::split(socket.clone());
    serve(&socket, split.clone(), &host);
    serve(&socket, VirtioUser { packed: true, ..split }, &host);
}
