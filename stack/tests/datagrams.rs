//! Datagrams and pings between two stacks, through the public interface only: sizes, fragments, IPv4 and IPv6,
//! hosts and ports that are not there.

#[path = "support/outbox.rs"]
mod outbox;

use std::time::Duration;

use outbox::Outbox;
use stack::{
    Closed, Conn, ConnId, EthernetAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, Net, Service,
    Stack, StackConfig, Time, UdpId, Unreachable,
};

const PORT: u16 = 7;
const SECOND: Duration = Duration::from_secs(1);

/// What to send in the next turn.
enum Order {
    Datagram(IpEndpoint, Vec<u8>),
    Ping(IpAddress, u16, Vec<u8>),
}

/// Sends to order; keeps what comes, or sends it back.
#[derive(Default)]
struct Host {
    echo: bool,
    socket: Option<UdpId>,
    orders: Vec<Order>,
    datagrams: Vec<(IpEndpoint, Vec<u8>)>,
    pongs: Vec<(IpAddress, u16, Vec<u8>)>,
    unreachable: Vec<(IpEndpoint, Unreachable)>,
    ping_failed: Vec<(IpAddress, u16, Unreachable)>,
}

impl Service for Host {
    fn start(&mut self, net: &mut Net<'_>) {
        self.socket = net.bind_udp(IpListenEndpoint { addr: None, port: PORT }).ok();
    }

    fn accept(&mut self, _: &mut Conn<'_>) {}
    fn ready(&mut self, _: &mut Conn<'_>) {}
    fn closed(&mut self, _: ConnId, _: u64, _: Closed, _: &mut Net<'_>) {}

    fn datagram(&mut self, socket: UdpId, from: IpEndpoint, to: IpAddress, data: &[u8], net: &mut Net<'_>) {
        if self.echo {
            net.send_from(socket, to, from, data).unwrap();
        } else {
            self.datagrams.push((from, data.to_vec()));
        }
    }

    fn unreachable(&mut self, _: UdpId, to: IpEndpoint, why: Unreachable, _: &mut Net<'_>) {
        self.unreachable.push((to, why));
    }

    fn pong(&mut self, from: IpAddress, _: u16, seq: u16, data: &[u8], _: &mut Net<'_>) {
        self.pongs.push((from, seq, data.to_vec()));
    }

    fn ping_failed(&mut self, to: IpAddress, _: u16, seq: u16, why: Unreachable, _: &mut Net<'_>) {
        self.ping_failed.push((to, seq, why));
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        for order in self.orders.drain(..) {
            match order {
                Order::Datagram(to, data) => net.send_to(self.socket.unwrap(), to, &data).unwrap(),
                Order::Ping(to, seq, data) => net.ping(to, 99, seq, &data).unwrap(),
            }
        }
        false
    }
}

/// Two hosts on a cable: 0 asks, 1 answers.
struct Pair {
    stacks: [Stack<Host>; 2],
    wires: [Outbox; 2],
    now: Time,
}

fn v4(host: u8) -> IpAddress {
    IpAddress::v4(10, 0, 0, host)
}

fn v6(host: u16) -> IpAddress {
    IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, host)
}

impl Pair {
    fn new() -> Self {
        let stack = |host: u8| {
            let mut config = StackConfig::new(EthernetAddress([2, 0, 0, 0, 0, host]), 1500);
            config.addresses = vec![IpCidr::new(v4(host), 24), IpCidr::new(v6(u16::from(host)), 64)];
            // Each host has further addresses, which no route gives as a source.
            config
                .addresses
                .extend([IpCidr::new(v4(100 + host), 24), IpCidr::new(v6(100 + u16::from(host)), 64)]);
            config.seed = [host; 32];
            Stack::new(config, Host { echo: host == 2, ..Host::default() }, Time::from_ns(0)).unwrap()
        };
        let mut pair = Self {
            stacks: [stack(1), stack(2)],
            wires: [(); 2].map(|()| Outbox::new(4096, 1500)),
            now: Time::from_ns(1_000_000),
        };
        pair.run(5 * SECOND);
        pair
    }

    /// Lets time pass in steps of a millisecond; frames take one step.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for host in 0..2 {
                let frames = self.wires[1 - host].take();
                let (stack, wire) = (&mut self.stacks[host], &mut self.wires[host]);
                for burst in frames.chunks(32) {
                    stack.receive(self.now, burst.iter().map(Vec::as_slice), wire);
                }
                while stack.turn(self.now, wire) {}
            }
            self.now += Duration::from_millis(1);
        }
    }

    fn order(&mut self, order: Order) {
        self.stacks[0].service_mut().orders.push(order);
    }

    fn host(&self) -> &Host {
        self.stacks[0].service()
    }
}

/// Bytes that tell their place.
fn patterned(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

#[test]
fn datagrams_of_all_sizes_come_back_byte_exact() {
    let mut pair = Pair::new();
    for (peer, largest) in [(v4(2), 65_507), (v6(2), 65_527)] {
        let peer = IpEndpoint::new(peer, PORT);
        for len in [0, 1, 7, 8, 1472, 1473, 9000, 60_000, largest] {
            pair.order(Order::Datagram(peer, patterned(len)));
            pair.run(Duration::from_millis(10));
            let came = pair.stacks[0].service_mut().datagrams.pop();
            assert_eq!(came, Some((peer, patterned(len))), "{len} bytes");
        }
    }
    assert!(pair.stacks.iter().all(Stack::is_idle));
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let mut pair = Pair::new();
    for peer in [v4(2), v4(102), v6(2), v6(102)] {
        let peer = IpEndpoint::new(peer, PORT);
        for len in [100, 5000] {
            pair.order(Order::Datagram(peer, patterned(len)));
            pair.run(Duration::from_millis(10));
            assert_eq!(pair.stacks[0].service_mut().datagrams.pop(), Some((peer, patterned(len))));
        }
    }
}

#[test]
fn pings_are_all_answered_at_a_thousand_a_second() {
    let mut pair = Pair::new();
    for seq in 0..1000 {
        let to = if seq % 2 == 0 { v4(2) } else { v6(2) };
        let len = if seq % 100 == 0 { 20_000 } else { 56 };
        pair.order(Order::Ping(to, seq, patterned(len)));
        pair.run(Duration::from_millis(1));
    }
    pair.run(Duration::from_millis(10));
    assert_eq!(pair.host().pongs.len(), 1000);
    for (seq, (from, got, data)) in (0..1000).zip(&pair.host().pongs) {
        assert_eq!((*from, *got), (if seq % 2 == 0 { v4(2) } else { v6(2) }, seq));
        assert_eq!(*data, patterned(if seq % 100 == 0 { 20_000 } else { 56 }));
    }
}

#[test]
fn closed_ports_and_missing_hosts_are_reported() {
    let mut pair = Pair::new();
    let (closed, missing) = (PORT + 1, 77);
    for (peer, nobody) in [(v4(2), v4(missing)), (v6(2), v6(u16::from(missing)))] {
        pair.order(Order::Datagram(IpEndpoint::new(peer, closed), patterned(100)));
        pair.order(Order::Datagram(IpEndpoint::new(nobody, PORT), patterned(100)));
        pair.order(Order::Ping(nobody, 5, Vec::new()));
        pair.run(5 * SECOND);
        let host = pair.stacks[0].service_mut();
        let told: Vec<_> = host.unreachable.drain(..).collect();
        let port = (IpEndpoint::new(peer, closed), Unreachable::Port);
        let nowhere = (IpEndpoint::new(nobody, PORT), Unreachable::Host);
        assert_eq!(told, [port, nowhere]);
        assert_eq!(host.ping_failed.drain(..).collect::<Vec<_>>(), [(nobody, 5, Unreachable::Host)]);
    }
    assert!(pair.host().datagrams.is_empty() && pair.host().pongs.is_empty());
    assert!(pair.stacks.iter().all(Stack::is_idle));
}
