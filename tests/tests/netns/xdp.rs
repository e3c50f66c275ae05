//! `xdp:` ports on one end of a `veth` pair, the kernel in another namespace on the other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use peers::bywash::{Bywash, Report};
use peers::netns::Netns;
use pmd::port::{Link, Port, PortEvent, QueueFault, QueuePair};
use pmd::{Burst, HomePool, MAX_BURST};

use super::host::{KERNEL, OURS, both_addresses, bytes, start};
use super::port::{
    HEADERS, Memory, answer, assert_answers, assert_spread, kernel_socket, memory, open_in, wait_for,
};
use super::{SOON, namespace_with};

/// The two ends: the kernel's `bw0` with its addresses, and `bw1`, which a port takes.
struct Wire {
    kernel: Netns,
    ours: Netns,
}

impl Wire {
    /// A pair with so many queues at each end; `None` after having said why there is none.
    fn new(programs: &[&str], queues: u16) -> Option<Wire> {
        let programs: Vec<&str> = ["ethtool"].iter().chain(programs).copied().collect();
        let (kernel, ours) = (namespace_with(&programs)?, namespace_with(&[])?);
        peers::bywash::binary().unwrap();
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        let peer = format!("peer name bw1 netns {} {queues}", ours.name());
        kernel.ip(&format!("link add bw0 {queues} type veth {peer}")).unwrap();
        for address in KERNEL {
            kernel.ip(&format!("addr add {address} dev bw0")).unwrap();
        }
        // Nobody finishes checksums between two ends of one machine.
        kernel.run("ethtool", &["-K", "bw0", "tx", "off"], SOON).unwrap();
        kernel.ip("link set bw0 up").unwrap();
        ours.ip("link set bw1 up").unwrap();
        // What is sent before the kernel has noticed the carrier is lost.
        for (netns, name) in [(&kernel, "bw0"), (&ours, "bw1")] {
            let state = format!("link show {name}");
            wait_for("the link", || netns.ip(&state).unwrap().contains("state UP"));
        }
        Some(Wire { kernel, ours })
    }

    /// What `ip` says of our end.
    fn shown(&self) -> String {
        self.ours.ip("-d link show bw1").unwrap()
    }

    /// `bywash COMMAND` on our end, once it has taken the interface.
    fn start(&self, command: &str, port: &str, flags: &str) -> Bywash {
        let mut ours = start(&self.ours, command, port, flags);
        wait_for("the program is on the interface", || {
            assert!(ours.process().is_running(), "{}", ours.process().stderr());
            self.shown().contains("bywash_xdp")
        });
        ours
    }

    /// The kernel's end reaches ours.
    fn ping(&self, address: &str) {
        wait_for("an answer", || self.kernel.run("ping", &["-c1", "-W1", "-n", address], SOON).is_ok());
    }
}

/// The port's queue pairs, with buffers where the kernel looks for them: it has none before the first poll, and drops.
fn primed(port: &mut dyn Port, pool: &HomePool) -> Vec<Box<dyn QueuePair>> {
    let mut pairs = port.take_queue_pairs();
    for pair in &mut pairs {
        assert!(answer(&mut **pair, pool).is_empty());
    }
    pairs
}

fn stop(mut ours: Bywash) -> Report {
    ours.interrupt();
    let report = ours.report(SOON).unwrap();
    assert_eq!(report.count("/ports/0/faults").unwrap(), 0, "{}", report.value());
    report
}

#[test]
fn datagrams_of_all_sizes_cross_the_port_and_come_back_whole() {
    let Some(wire) = Wire::new(&[], 1) else { return };
    let Memory { region, pool } = memory();
    let before = pool.levels();
    for mode in ["xdp_mode=native", "xdp_mode=generic"] {
        let mut port = open_in(&wire.ours, &region, &format!("xdp:bw1,mode=copy,{mode}")).unwrap();
        let info = port.info().clone();
        assert_eq!((info.driver, info.mtu, info.queue_pairs, info.rx_descriptors), ("af_xdp", 1500, 1, 256));
        assert_eq!(port.link(), Link::Up);
        let generic = wire.shown().contains("xdpgeneric");
        assert_eq!(generic, mode.ends_with("generic"), "{}", wire.shown());
        let socket = kernel_socket(&wire.kernel, &*port);
        let mut pair = primed(&mut *port, &pool).remove(0);
        let lengths: Vec<usize> = (1..64).chain((64..1472).step_by(61)).chain([1471, 1472]).collect();
        // Until the rings have been round.
        for _ in 0..8 {
            assert_answers(&socket, &mut *pair, &pool, &lengths);
        }
        let counters = pair.counters();
        assert_eq!(counters.tx_packets, 8 * lengths.len() as u64);
        assert_eq!(counters.tx_bytes, 8 * lengths.iter().map(|len| len + HEADERS).sum::<usize>() as u64);
        assert!(counters.rx_packets >= counters.tx_packets && counters.notifications > 0);
        assert_eq!((counters.rx_errors, counters.tx_errors, counters.faults), (0, 0, 0));
        // What came before the first poll found no buffers.
        pair.extra_counters(&mut |name, count| {
            assert!(count == 0 || !name.contains("invalid"), "{name} {count}")
        });

        port.stop().unwrap();
        assert!(!wire.shown().contains("prog/xdp"), "{}", wire.shown());
        let mut burst = Burst::new();
        assert_eq!(pair.rx_burst(&pool, &mut burst, MAX_BURST), 0, "a stopped port moves nothing");
        pair.quiesce();
        assert_eq!(pool.levels(), before, "every mbuf came home");
    }
}

/// Neither lies in one piece where the kernel reads it, or may be written: copied on the way, and counted like others.
#[test]
fn frames_in_pieces_and_shared_frames_leave_like_others() {
    let Some(wire) = Wire::new(&[], 1) else { return };
    let Memory { region, pool } = memory();
    let before = pool.levels();
    let mut port = open_in(&wire.ours, &region, "xdp:bw1,mode=copy").unwrap();
    let socket = kernel_socket(&wire.kernel, &*port);
    let mut pair = primed(&mut *port, &pool).remove(0);
    let (mut incoming, mut outgoing) = (Burst::new(), Burst::new());
    socket.send_to(&[7; 1000], format!("{}:7", OURS[0])).unwrap();
    wait_for("the question", || {
        incoming.clear();
        pair.rx_burst(&pool, &mut incoming, MAX_BURST);
        incoming.iter().any(|frame| frame.pkt_len() == 1000 + HEADERS)
    });
    let question = incoming.iter().find(|frame| frame.pkt_len() == 1000 + HEADERS).unwrap();
    let mut bytes = question.data().to_vec();
    super::port::turn_round(&mut bytes);
    let mut whole = pool.alloc().unwrap();
    whole.append(bytes.len()).unwrap().copy_from_slice(&bytes);
    // Two handles to the same bytes, outstanding at once.
    outgoing.push(whole.clone_ref(&pool).unwrap());
    outgoing.push(whole);
    for cut in [1, 14, 20, 42, 500, bytes.len() - 1] {
        let (front, back) = bytes.split_at(cut);
        let mut pieces = [front, back].map(|piece| {
            let mut mbuf = pool.alloc().unwrap();
            mbuf.append(piece.len()).unwrap().copy_from_slice(piece);
            mbuf
        });
        let [front, back] = &mut pieces;
        std::mem::swap(front, back);
        let [back, mut front] = pieces;
        front.chain(back);
        outgoing.push(front);
    }
    // What can never be sent is dropped and counted: shorter than a header, longer than the MTU.
    for len in [0, 13, 1519] {
        let mut mbuf = pool.alloc().unwrap();
        mbuf.append(len).unwrap().fill(0xff);
        outgoing.push(mbuf);
    }
    assert_eq!((pair.tx_burst(&mut outgoing), outgoing.len()), (11, 0));
    let counters = pair.counters();
    assert_eq!((counters.tx_packets, counters.tx_errors), (8, 3));
    let mut answers = 0;
    wait_for("all answers", || {
        let mut bytes = [0; 2048];
        while let Ok((len, _)) = socket.recv_from(&mut bytes) {
            assert_eq!(bytes[..len], [7; 1000]);
            answers += 1;
        }
        answers == 8
    });
    assert_eq!(pair.tx_room(), 256, "all of them came back");
    incoming.clear();
    drop((pair, port));
    assert_eq!(pool.levels(), before, "every mbuf came home");
}

#[test]
fn flows_are_spread_over_queues() {
    let Some(wire) = Wire::new(&[], 2) else { return };
    let Memory { region, pool } = memory();
    let mut port = open_in(&wire.ours, &region, "xdp:bw1,mode=copy,queues=2").unwrap();
    assert_eq!(port.info().queue_pairs, 2);
    let mut pairs = primed(&mut *port, &pool);
    assert_spread(&wire.kernel, &*port, &mut pairs, &pool);
}

#[test]
fn a_deleted_interface_is_a_fault_and_a_downed_one_is_not() {
    let Some(wire) = Wire::new(&[], 1) else { return };
    let Memory { region, pool } = memory();
    let mut port = open_in(&wire.ours, &region, "xdp:bw1,mode=copy").unwrap();
    let mut pair = primed(&mut *port, &pool).remove(0);
    let mut burst = Burst::new();
    let frame = || {
        let mut frame = pool.alloc().unwrap();
        frame.append(60).unwrap().fill(0xff);
        frame
    };
    wire.ours.ip("link set bw1 down").unwrap();
    assert_eq!(port.link(), Link::Down);
    burst.push(frame());
    pair.tx_burst(&mut burst);
    pair.rx_burst(&pool, &mut burst, MAX_BURST);
    assert_eq!(pair.fault(), None);
    wire.ours.ip("link set bw1 up").unwrap();
    wait_for("the link", || port.link() == Link::Up);
    wait_for("the frame that waited is sent", || {
        pair.rx_burst(&pool, &mut burst, MAX_BURST);
        pair.tx_room() == 256
    });

    let mut told = Vec::new();
    wire.ours.ip("link set bw1 mtu 1400").unwrap();
    port.events(&mut |event| told.push(event));
    wire.ours.ip("link del bw1").unwrap();
    for _ in 0..3 {
        port.events(&mut |event| told.push(event));
    }
    let [PortEvent::Mtu(1400), PortEvent::Gone { why }] = &told[..] else { panic!("{told:?}") };
    assert!(why.contains("interface bw1 was deleted; waiting for it"), "{why}");
    assert_eq!(port.link(), Link::Down);
    burst.clear();
    pair.rx_burst(&pool, &mut burst, MAX_BURST);
    assert_eq!(pair.fault(), Some(QueueFault::DeviceGone));
    assert_eq!((pair.counters().faults, pair.tx_room()), (1, 0));
    burst.push(frame());
    assert_eq!((pair.tx_burst(&mut burst), burst.len()), (0, 1));
    assert_eq!(pair.counters().faults, 1, "counted once");
}

/// The interface's MTU may be raised after the port was opened: what its peer sends then does not fit a buffer.
#[test]
fn frames_longer_than_a_buffer_are_counted() {
    let Some(wire) = Wire::new(&[], 1) else { return };
    let Memory { region, pool } = memory();
    let mut port = open_in(&wire.ours, &region, "xdp:bw1,mode=copy").unwrap();
    let socket = kernel_socket(&wire.kernel, &*port);
    let mut pair = primed(&mut *port, &pool).remove(0);
    wire.ours.ip("link set bw1 mtu 3000").unwrap();
    wire.kernel.ip("link set bw0 mtu 3000").unwrap();
    let mut told = Vec::new();
    port.events(&mut |event| told.push(event));
    assert_eq!(told, [PortEvent::Mtu(3000)]);
    let dropped = |pair: &dyn QueuePair| {
        let mut dropped = 0;
        pair.extra_counters(&mut |name, count| dropped += if name == "xdp_rx_dropped" { count } else { 0 });
        dropped
    };
    // What came before there were buffers is among them.
    let before = dropped(&*pair);
    for _ in 0..3 {
        socket.send_to(&[7; 2500], format!("{}:7", OURS[0])).unwrap();
    }
    wait_for("the frames are counted", || {
        assert!(answer(&mut *pair, &pool).is_empty());
        dropped(&*pair) == before + 3
    });
    // Nor is one sent that is longer than a buffer, whatever the MTU: it would have to lie in two.
    let mut frame = pool.alloc().unwrap();
    frame.append(1500).unwrap().fill(0xff);
    let mut rest = pool.alloc().unwrap();
    rest.append(1400).unwrap().fill(0xff);
    frame.chain(rest);
    let mut burst = Burst::new();
    burst.push(frame);
    assert_eq!((pair.tx_burst(&mut burst), pair.counters().tx_errors), (1, 1));
    assert_answers(&socket, &mut *pair, &pool, &[100, 1472]);
}

/// A sender finds out by itself, whoever asks the port.
#[test]
fn a_sender_notices_a_deleted_interface() {
    let Some(wire) = Wire::new(&[], 1) else { return };
    let Memory { region, pool } = memory();
    let mut port = open_in(&wire.ours, &region, "xdp:bw1,mode=copy").unwrap();
    let mut pair = primed(&mut *port, &pool).remove(0);
    wire.kernel.ip("link del bw0").unwrap();
    let mut frame = pool.alloc().unwrap();
    frame.append(60).unwrap().fill(0xff);
    let mut burst = Burst::new();
    burst.push(frame);
    pair.tx_burst(&mut burst);
    assert_eq!(pair.fault(), Some(QueueFault::InterfaceGone));
}

#[test]
fn what_cannot_be_opened_says_why_and_what_to_run() {
    let Some(wire) = Wire::new(&[], 2) else { return };
    let Memory { region, .. } = memory();
    let error = |spec: &str| open_in(&wire.ours, &region, spec).err().unwrap().to_string();
    assert!(error("xdp:nothing").contains("no interface nothing; `ip -br link`"));
    assert!(error("xdp:bw1,queues=3").contains("bw1 has 2 receive queues, queues=3 asked for"));
    // Whatever memory there is: hugepages would not help.
    let told = error("xdp:bw1,mode=zero-copy");
    assert!(told.contains("bw1 cannot do zero-copy (its driver refuses: Operation not supported"), "{told}");
    assert!(told.contains("use mode=auto or mode=copy"), "{told}");
    wire.ours.ip("link set bw1 mtu 2000").unwrap();
    let told = error("xdp:bw1");
    assert!(told.contains("MTU 2000 of interface bw1 is too large"), "{told}");
    assert!(told.contains("sudo ip link set bw1 mtu 1838"), "{told}");
    wire.ours.ip("link set bw1 mtu 1838").unwrap();
    drop(open_in(&wire.ours, &region, "xdp:bw1,mode=copy").unwrap());
    wire.ours.ip("link set bw1 mtu 1500").unwrap();

    wire.ours.ip("addr add 192.0.2.9/24 dev bw1").unwrap();
    wire.ours.ip("route add default via 192.0.2.1").unwrap();
    assert!(error("xdp:bw1").contains("bw1 carries this machine's default route"));
    drop(open_in(&wire.ours, &region, "xdp:bw1,mode=copy,addr=192.0.2.2").unwrap());
    drop(open_in(&wire.ours, &region, "xdp:bw1,mode=copy,all=on").unwrap());
    wire.ours.ip("route del default").unwrap();

    let held = open_in(&wire.ours, &region, "xdp:bw1,mode=copy,queues=1").unwrap();
    let told = error("xdp:bw1,mode=copy");
    assert!(told.contains("receive queue 0 of interface bw1 has an AF_XDP socket of another"), "{told}");
    drop(held);
}

#[test]
fn a_program_that_is_there_already_is_named() {
    let Some(wire) = Wire::new(&[], 1) else { return };
    let Memory { region, .. } = memory();
    // Bound to the other end's queue, one of our own programs stands for somebody else's.
    let mut held = open_in(&wire.ours, &region, "xdp:bw1,mode=copy").unwrap();
    let pairs = held.take_queue_pairs();
    drop(pairs); // the sockets go, the program stays
    let told = open_in(&wire.ours, &region, "xdp:bw1,mode=copy").err().unwrap().to_string();
    assert!(told.contains("bw1 has an XDP program already: \"bywash_xdp\", id "), "{told}");
    assert!(told.contains("sudo ip link set dev bw1 xdp off"), "{told}");
    // Native and generic exclude each other too.
    let told = open_in(&wire.ours, &region, "xdp:bw1,mode=copy,xdp_mode=generic").err().unwrap().to_string();
    assert!(told.contains("bw1 has an XDP program already"), "{told}");
}

#[test]
fn kernel_and_engine_talk_both_families_over_tcp_udp_and_icmp() {
    let Some(wire) = Wire::new(&["ping"], 1) else { return };
    let ours = wire.start("echo", "xdp:bw1,mode=copy", &both_addresses());
    for address in OURS {
        wire.ping(address);
    }
    let sent = bytes(1 << 20, 3);
    let echoed = wire.kernel.inside(|| {
        let mut stream = TcpStream::connect((OURS[0], 7)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let (mut writer, sent) = (stream.try_clone().unwrap(), sent.clone());
        let writer = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut echoed = vec![0; 1 << 20];
        stream.read_exact(&mut echoed).unwrap();
        writer.join().unwrap();
        echoed
    });
    assert!(echoed.unwrap() == sent, "other bytes");
    let socket = wire.kernel.inside(|| UdpSocket::bind("[2001:db8::1]:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.send_to(b"over UDP", (OURS[1], 7)).unwrap();
    let mut answer = [0; 64];
    let (len, _) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..len], b"over UDP");
    let report = stop(ours);
    assert_eq!(report.count("/counters/bad_udp_checksum").unwrap(), 0);
    assert!(!wire.shown().contains("prog/xdp"));
}

/// Our address beside the host's on one interface: each answers for its own, and the host's service never notices.
#[test]
fn a_filter_leaves_the_hosts_own_service_alone() {
    let Some(wire) = Wire::new(&["ping"], 1) else { return };
    const HOST: &str = "192.0.2.9";
    wire.ours.ip(&format!("addr add {HOST}/24 dev bw1")).unwrap();
    // As an ssh session: there before us, idle while we come, alive when we are gone.
    let listener = wire.ours.inside(|| TcpListener::bind((HOST, 2222)).unwrap()).unwrap();
    let mut client = wire.kernel.inside(|| TcpStream::connect((HOST, 2222)).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut works = |what: &str| {
        let mut buffer = [0; 5];
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
        server.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(&buffer, b"hello", "{what}");
    };
    works("before");
    let filter = format!("addr={},addr={}", OURS[0], OURS[1]);
    let ours = wire.start("echo", &format!("xdp:bw1,mode=copy,{filter}"), &both_addresses());
    works("while the port is open");
    wire.kernel.ip("neigh flush all").unwrap();
    for address in [OURS[0], OURS[1], HOST] {
        wire.ping(address);
    }
    works("after ARP was asked again");
    let report = stop(ours);
    assert_eq!(report.count("/counters/not_for_us").unwrap(), 0, "{}", report.value());
    works("after the port was closed");
}

/// Killed without a chance to clean up: nothing of it is on the interface, and the next one can take it.
#[test]
fn a_killed_process_leaves_nothing_behind() {
    let Some(wire) = Wire::new(&["ping"], 1) else { return };
    let mut ours = wire.start("echo", "xdp:bw1,mode=copy", &both_addresses());
    wire.ping(OURS[0]);
    ours.process().kill();
    wait_for("the interface is clean", || !wire.shown().contains("prog/xdp"));
    let ours = wire.start("echo", "xdp:bw1,mode=copy", &both_addresses());
    wire.ping(OURS[0]);
    stop(ours);
}

#[test]
fn two_cores_serve_two_queues() {
    let Some(wire) = Wire::new(&["ping"], 2) else { return };
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = if allowed > 1 { "--cores 0,1" } else { "--cores 0" };
    let flags = format!("{} {cores}", both_addresses());
    let ours = wire.start("echo", "xdp:bw1,mode=copy,queues=2", &flags);
    wire.ping(OURS[0]);
    let mut streams: Vec<TcpStream> =
        wire.kernel.inside(|| (0..32).map(|_| TcpStream::connect((OURS[0], 7)).unwrap()).collect()).unwrap();
    for stream in &mut streams {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"one of many").unwrap();
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"one of many");
    }
    drop(streams);
    let report = stop(ours);
    assert_eq!(report.count("/counters/accepted").unwrap(), 32);
}

/// What is deleted while it runs is told, and does no harm.
#[test]
fn a_command_whose_interface_is_deleted_ends_in_good_order() {
    let Some(wire) = Wire::new(&[], 1) else { return };
    let mut ours = wire.start("l2fwd", "xdp:bw1,mode=copy", "--forward-mode macswap");
    let socket = wire.kernel.inside(|| UdpSocket::bind("192.0.2.1:0").unwrap()).unwrap();
    wire.kernel.ip(&format!("neigh replace {} lladdr 02:00:00:00:00:02 dev bw0", OURS[0])).unwrap();
    socket.send_to(&[1; 100], (OURS[0], 9)).unwrap();
    wire.kernel.ip("link del bw0").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    ours.interrupt();
    let report = ours.report(SOON).unwrap();
    assert!(report.count("/packets").unwrap() > 0, "{}", report.value());
}
