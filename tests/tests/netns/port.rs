//! The port itself, against the kernel's sockets.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peers::netns::Netns;
use pmd::mem::{PageSize, Pool, PoolConfig, RegionConfig};
use pmd::port::{Hub, Link, OpenConfig, OpenError, Port, QueueFault, QueuePair, open};
use pmd::{Burst, HomePool, MAX_BURST, Region};

use super::namespace_with;

/// The kernel's end, and ours.
const KERNEL: &str = "192.0.2.1/24";
const OURS: &str = "192.0.2.2";

/// How long something may take that happens at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes in front of a datagram: Ethernet, IPv4, UDP.
pub(crate) const HEADERS: usize = 14 + 20 + 8;

pub(crate) struct Memory {
    pub(crate) region: Arc<Region>,
    pub(crate) pool: HomePool,
}

/// A region of ordinary pages, and a pool of 1,024 mbufs.
pub(crate) fn memory() -> Memory {
    let pool = PoolConfig { mbufs: 1024, ..PoolConfig::default() };
    let len_bytes = pool.region_bytes() + (1 << 20);
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
    Memory { region, pool }
}

/// Opens a port in the namespace, with 256 descriptors a queue.
pub(crate) fn open_in(netns: &Netns, region: &Arc<Region>, spec: &str) -> Result<Box<dyn Port>, OpenError> {
    let body = || {
        let config = OpenConfig {
            region,
            hub: &Hub::default(),
            rx_descriptors: 256,
            tx_descriptors: 256,
            queue_pairs: 1,
            interrupts: false,
            data_room_bytes: 2048,
            offloads: false,
        };
        open(spec, &config)
    };
    netns.inside(body).unwrap()
}

/// Tries until it is so, or fails.
pub(crate) fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A socket of the kernel's end, and a neighbour entry that makes it find ours.
pub(crate) fn kernel_socket(netns: &Netns, port: &dyn Port) -> UdpSocket {
    let mac = port.info().mac.map(|byte| format!("{byte:02x}")).join(":");
    netns.ip(&format!("neigh replace {OURS} lladdr {mac} dev bw0")).unwrap();
    let socket = netns.inside(|| UdpSocket::bind("192.0.2.1:0").unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + len).to_le_bytes()[0]).collect()
}

/// Whether it is a datagram for us; the kernel also sends what was not asked for, such as multicast reports.
fn is_ours(frame: &[u8]) -> bool {
    frame.len() > HEADERS && frame[12..14] == [0x08, 0] && frame[23] == 17 && frame[30..34] == [192, 0, 2, 2]
}

/// Makes the answer of the question: addresses and ports change places, which leaves the checksums right.
pub(crate) fn turn_round(frame: &mut [u8]) {
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    let (source, destination) = frame[26..].split_at_mut(4);
    source.swap_with_slice(&mut destination[..4]);
    let (source, destination) = frame[34..].split_at_mut(2);
    source.swap_with_slice(&mut destination[..2]);
}

/// One turn of a loop that answers; returns the lengths of what it answered, headers included.
pub(crate) fn answer(pair: &mut dyn QueuePair, pool: &HomePool) -> Vec<usize> {
    let (mut incoming, mut outgoing) = (Burst::new(), Burst::new());
    pair.rx_burst(pool, &mut incoming, MAX_BURST);
    let mut lengths = Vec::new();
    for mut frame in incoming.drain(..) {
        let len = frame.pkt_len();
        if is_ours(frame.data()) {
            turn_round(frame.data_mut().unwrap());
            lengths.push(len);
            outgoing.push(frame);
        }
    }
    let count = outgoing.len();
    assert_eq!(pair.tx_burst(&mut outgoing), count);
    lengths
}

/// Sends a datagram of each length to the port and asserts that it comes back whole.
pub(crate) fn assert_answers(
    socket: &UdpSocket,
    pair: &mut dyn QueuePair,
    pool: &HomePool,
    lengths: &[usize],
) {
    let to: SocketAddr = format!("{OURS}:7").parse().unwrap();
    for len in lengths {
        let sent = payload(*len);
        socket.send_to(&sent, to).unwrap();
        let mut seen = Vec::new();
        let mut bytes = vec![0; 65_536];
        wait_for(&format!("a datagram of {len} bytes is back"), || {
            seen.extend(answer(pair, pool));
            match socket.recv_from(&mut bytes) {
                Ok((got, from)) => {
                    assert_eq!(from, to);
                    assert!(bytes[..got] == sent, "{len} bytes sent, {got} came back, or others");
                    true
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    false
                }
            }
        });
        assert_eq!(seen, [len + HEADERS]);
    }
}

/// Sends datagrams of 64 flows to the port and asserts that each of its queue pairs has some, and all come back.
pub(crate) fn assert_spread(
    netns: &Netns,
    port: &dyn Port,
    pairs: &mut [Box<dyn QueuePair>],
    pool: &HomePool,
) {
    let sockets: Vec<UdpSocket> = (0..64).map(|_| kernel_socket(netns, port)).collect();
    for socket in &sockets {
        socket.send_to(b"which queue?", format!("{OURS}:7")).unwrap();
    }
    let mut seen = vec![0; pairs.len()];
    wait_for("all flows are here", || {
        for (pair, seen) in pairs.iter_mut().zip(&mut seen) {
            *seen += answer(&mut **pair, pool).len();
        }
        seen.iter().sum::<usize>() == sockets.len()
    });
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    let answered = sockets.iter().filter(|socket| socket.recv_from(&mut [0; 64]).is_ok()).count();
    assert_eq!(answered, sockets.len());
}

#[test]
fn an_interface_comes_up_carries_frames_of_all_lengths_and_goes() {
    let Some(netns) = namespace_with(&[]) else { return };
    let Memory { region, pool } = memory();
    let before = pool.levels();
    let mut port = open_in(&netns, &region, "tap:bw0").unwrap();
    let info = port.info().clone();
    assert_eq!((info.driver, info.mtu, info.queue_pairs, info.rx_descriptors), ("tap", 1500, 1, 256));
    assert_eq!(info.mac[..3], [0x02, b'b', b'w']);
    assert_eq!(port.link(), Link::Up);
    let shown = netns.ip("link show bw0").unwrap();
    assert!(shown.contains("UP") && shown.contains("qlen 256"), "{shown}");
    netns.ip(&format!("addr add {KERNEL} dev bw0")).unwrap();

    let socket = kernel_socket(&netns, &*port);
    let mut pair = port.take_queue_pairs().remove(0);
    assert!(port.take_queue_pairs().is_empty());
    let lengths: Vec<usize> = (1..64).chain((64..1472).step_by(61)).chain([1471, 1472]).collect();
    assert_answers(&socket, &mut *pair, &pool, &lengths);
    let counters = pair.counters();
    assert_eq!(counters.tx_packets, lengths.len() as u64);
    assert_eq!(counters.tx_bytes, lengths.iter().map(|len| len + HEADERS).sum::<usize>() as u64);
    assert!(counters.rx_packets >= counters.tx_packets);
    assert_eq!((counters.rx_errors, counters.tx_errors, counters.faults), (0, 0, 0));

    port.stop().unwrap();
    let mut burst = Burst::new();
    socket.send_to(b"late", format!("{OURS}:7")).unwrap();
    assert_eq!(pair.rx_burst(&pool, &mut burst, MAX_BURST), 0, "a stopped port moves nothing");
    pair.quiesce();
    assert_eq!(pool.levels(), before, "every mbuf came home");
    drop((pair, port));
    assert!(netns.ip("link show bw0").is_err(), "gone with its port");
}

#[test]
fn frames_longer_than_a_buffer_come_and_go_in_chains() {
    let Some(netns) = namespace_with(&[]) else { return };
    netns.tap("bw0", &[KERNEL]).unwrap();
    netns.ip("link set bw0 mtu 9000").unwrap();
    let Memory { region, pool } = memory();
    let mut port = open_in(&netns, &region, "tap:bw0").unwrap();
    assert_eq!(port.info().mtu, 9000);
    let socket = kernel_socket(&netns, &*port);
    let mut pair = port.take_queue_pairs().remove(0);
    // Around each number of buffers, and the longest.
    assert_answers(&socket, &mut *pair, &pool, &[1, 2005, 2006, 2007, 4053, 4054, 4055, 8192, 8971, 8972]);
    // The interface takes longer frames from now on, our buffers do not: dropped and counted, and no further harm.
    netns.ip("link set bw0 mtu 20000").unwrap();
    socket.send_to(&payload(15_000), format!("{OURS}:7")).unwrap();
    wait_for("the frame is counted", || {
        answer(&mut *pair, &pool);
        pair.counters().rx_errors == 1
    });
    assert_answers(&socket, &mut *pair, &pool, &[100]);
    drop((pair, port));
    assert!(netns.ip("link show bw0").is_ok(), "not ours to delete");
}

#[test]
fn flows_are_spread_over_queues() {
    let Some(netns) = namespace_with(&[]) else { return };
    let Memory { region, pool } = memory();
    let mut port = open_in(&netns, &region, "tap:bw0,queues=2").unwrap();
    assert_eq!(port.info().queue_pairs, 2);
    netns.ip(&format!("addr add {KERNEL} dev bw0")).unwrap();
    let mut pairs = port.take_queue_pairs();
    assert_eq!(pairs.len(), 2);
    assert_spread(&netns, &*port, &mut pairs, &pool);
}

#[test]
fn an_interface_made_for_several_queues_may_be_used_with_one() {
    let Some(netns) = namespace_with(&[]) else { return };
    netns.ip("tuntap add dev bw0 mode tap multi_queue").unwrap();
    netns.ip(&format!("addr add {KERNEL} dev bw0")).unwrap();
    netns.ip("link set bw0 up").unwrap();
    let Memory { region, pool } = memory();
    let mut port = open_in(&netns, &region, "tap:bw0").unwrap();
    let socket = kernel_socket(&netns, &*port);
    let mut pair = port.take_queue_pairs().remove(0);
    assert_answers(&socket, &mut *pair, &pool, &[1, 1472]);
}

#[test]
fn a_persistent_interface_stays_and_serves_the_next() {
    let Some(netns) = namespace_with(&[]) else { return };
    let Memory { region, pool } = memory();
    let port = open_in(&netns, &region, "tap:bw0,persist=on").unwrap();
    let mac = port.info().mac;
    netns.ip(&format!("addr add {KERNEL} dev bw0")).unwrap();
    drop(port);
    assert!(netns.ip("addr show bw0").unwrap().contains("192.0.2.1/24"));
    let mut port = open_in(&netns, &region, "tap:bw0").unwrap();
    assert_eq!(port.info().mac, mac, "neighbours may remember it");
    let socket = kernel_socket(&netns, &*port);
    let mut pair = port.take_queue_pairs().remove(0);
    assert_answers(&socket, &mut *pair, &pool, &[1000]);
}

#[test]
fn a_deleted_interface_is_a_fault() {
    let Some(netns) = namespace_with(&[]) else { return };
    let Memory { region, pool } = memory();
    let mut port = open_in(&netns, &region, "tap:bw0").unwrap();
    let mut pair = port.take_queue_pairs().remove(0);
    let mut burst = Burst::new();
    pair.rx_burst(&pool, &mut burst, MAX_BURST);
    assert_eq!(pair.fault(), None);
    netns.ip("link del bw0").unwrap();
    wait_for("the fault shows", || {
        pair.rx_burst(&pool, &mut burst, MAX_BURST);
        pair.fault().is_some()
    });
    assert_eq!(pair.fault(), Some(QueueFault::InterfaceGone));
    assert_eq!((pair.counters().faults, pair.tx_room(), port.link()), (1, 0, Link::Down));
    burst.clear();
    let mut frame = pool.alloc().unwrap();
    frame.append(60).unwrap().fill(0);
    burst.push(frame);
    assert_eq!(pair.tx_burst(&mut burst), 0);
    assert_eq!(pair.counters().faults, 1, "counted once");
}

#[test]
fn frames_wait_while_the_interface_is_down() {
    let Some(netns) = namespace_with(&[]) else { return };
    let Memory { region, pool } = memory();
    let mut port = open_in(&netns, &region, "tap:bw0").unwrap();
    let mut pair = port.take_queue_pairs().remove(0);
    let mut burst = Burst::new();
    let frame = |bytes: usize| {
        let mut frame = pool.alloc().unwrap();
        frame.append(bytes).unwrap().fill(0xff);
        frame
    };
    netns.ip("link set bw0 down").unwrap();
    assert_eq!(port.link(), Link::Down);
    burst.push(frame(60));
    assert_eq!((pair.tx_burst(&mut burst), burst.len()), (0, 1), "still the sender's");
    netns.ip("link set bw0 up").unwrap();
    assert_eq!(port.link(), Link::Up);
    assert_eq!(pair.tx_burst(&mut burst), 1);
    assert_eq!((pair.counters().tx_packets, pair.counters().tx_errors), (1, 0));

    // What can never be sent is dropped and counted.
    burst.push(frame(13));
    burst.push(frame(0));
    burst.push(frame(60));
    assert_eq!(pair.tx_burst(&mut burst), 3);
    assert_eq!((pair.counters().tx_packets, pair.counters().tx_errors), (2, 2));
    assert_eq!(pair.fault(), None);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let Some(netns) = namespace_with(&[]) else { return };
    let Memory { region, .. } = memory();
    let error = |spec: &str| open_in(&netns, &region, spec).err().unwrap().to_string();
    netns.ip("link add other type bridge").unwrap();
    assert!(error("tap:other").contains("other exists and is no TAP interface; see `ip -d link show other`"));
    assert!(error("tap:lo").contains("lo exists and is no TAP interface"));
    let _held = open_in(&netns, &region, "tap:bw0").unwrap();
    assert!(error("tap:bw0").contains("bw0 is open in another process"), "{}", error("tap:bw0"));
    assert!(error("tap:bw0,queues=2").contains("no TAP interface with multi_queue"));
    netns.tap("bw1", &[]).unwrap();
    netns.ip("link set bw1 address 02:00:00:00:00:07").unwrap();
    assert!(error("tap:bw1,mac=02:00:00:00:00:07").contains("02:00:00:00:00:07 is the kernel's own address"));
    assert!(netns.ip("link show bw1").is_ok());
}
