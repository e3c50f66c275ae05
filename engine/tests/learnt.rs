//! What one core learns of the network, all cores of the host know: addresses formed from a router's advertisement.

use std::time::{Duration, Instant};

use engine::{Burst, Cx, Engine, Program, StackSettings};
use stack::{Closed, Conn, ConnId, IpCidr, Net, Service};

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// A router that advertises 2001:db8::/64 every 100 ms or so, and nothing else.
#[derive(Default)]
struct Router {
    next_ticks: u64,
}

impl Program for Router {
    fn receive(&mut self, _port: usize, _burst: &mut Burst, _cx: &mut Cx<'_>) {}

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        if cx.now.0 < self.next_ticks {
            return false;
        }
        self.next_ticks = cx.now.0 + cx.tsc.ticks(100_000_000);
        let bytes = advertisement();
        if let Some(mut frame) = cx.pool.alloc() {
            frame.append(bytes.len()).unwrap().copy_from_slice(&bytes);
            cx.send(0, frame);
        }
        true
    }
}

/// RFC 4861 §4.2 with a prefix option (§4.6.2), from fe80::1 to all nodes.
fn advertisement() -> Vec<u8> {
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    icmp.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut source = [0; 16];
    source[..2].copy_from_slice(&[0xfe, 0x80]);
    source[15] = 1;
    let mut all_nodes = [0; 16];
    all_nodes[..2].copy_from_slice(&[0xff, 0x02]);
    all_nodes[15] = 1;
    let len = u8::try_from(icmp.len()).unwrap();
    let pseudo = [&source[..], &all_nodes, &[0, 0, 0, len, 0, 0, 0, 58], &icmp].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(ROUTER);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, len, 58, 255]);
    frame.extend(source);
    frame.extend(all_nodes);
    frame.extend(icmp);
    frame
}

/// Counts the addresses it has.
#[derive(Default)]
struct Knows {
    global: u64,
}

impl Service for Knows {
    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn ready(&mut self, _conn: &mut Conn<'_>) {}

    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let prefix: IpCidr = "2001:db8::/64".parse().unwrap();
        let ours = net.addresses().iter().filter(|cidr| prefix.contains_addr(&cidr.address()));
        self.global = ours.count() as u64;
        false
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("global", self.global);
    }
}

#[test]
fn an_address_from_a_router_is_known_on_every_core() {
    let mut engine = Engine::builder();
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let cores = [engine.lcore(None), engine.lcore(None), engine.lcore(None)];
    engine.program(cores[0], Router::default(), [a]);
    let settings = StackSettings { slaac: true, ..StackSettings::default() };
    engine.stack(&cores, b, &settings, |_| Knows::default());
    let mut running = engine.start().unwrap();
    let begun = Instant::now();
    loop {
        let snapshot = running.snapshot();
        let global: Vec<u64> = snapshot.cores.iter().map(|core| core.total.counters.get("global")).collect();
        if global == [1, 1, 1] {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{global:?}, {:?}", snapshot.counters());
        std::thread::sleep(Duration::from_millis(50));
    }
    running.stop().unwrap();
}
