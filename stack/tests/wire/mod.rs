//! Two stacks on one thread, joined by a wire whose frames are reused: nothing here allocates once it is warm.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use stack::{
    Closed, Conn, ConnId, ConnectOptions, EthernetAddress, IpAddress, IpCidr, ListenOptions, Net, Service,
    Stack, StackConfig, TcpOptions, Time,
};

const FRAME: usize = 1514;

/// Frames in flight in one direction.
pub struct Wire {
    frames: Vec<[u8; FRAME]>,
    lens: Vec<usize>,
    len: usize,
}

impl Wire {
    pub fn new(room: usize) -> Self {
        Wire { frames: vec![[0; FRAME]; room], lens: vec![0; room], len: 0 }
    }

    pub fn frames(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.frames.iter().zip(&self.lens).take(self.len).map(|(frame, len)| &frame[..*len])
    }
}

pub struct Tx<'a>(&'a mut Wire);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let wire = self.0;
        wire.lens[wire.len] = len;
        wire.len += 1;
        f(&mut wire.frames[wire.len - 1][..len])
    }
}

pub enum Never {}

impl RxToken for Never {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _f: F) -> R {
        match self {}
    }
}

impl Device for Wire {
    type RxToken<'a> = Never;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Never, Tx<'_>)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        (self.len < self.frames.len()).then_some(Tx(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// Sends back what comes.
#[derive(Default)]
pub struct Echo {
    pub open: usize,
}

impl Service for Echo {
    fn start(&mut self, net: &mut Net<'_>) {
        let options = ListenOptions { backlog: 1 << 20, tcp: small() };
        for port in PORTS {
            net.listen(port.into(), options).expect("nobody else listens");
        }
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {
        self.open += 1;
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        let mut bytes = [0; MESSAGE];
        while conn.recv_queue() >= MESSAGE && conn.send_room() >= MESSAGE {
            conn.recv_slice(&mut bytes);
            conn.send_slice(&bytes);
        }
        if conn.peer_finished() {
            conn.close();
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, why: Closed, _net: &mut Net<'_>) {
        assert_eq!(why, Closed::Done);
        self.open -= 1;
    }
}

pub const MESSAGE: usize = 64;
const PORTS: std::ops::Range<u16> = 7000..7004;

/// Keeps one request under way on each of its connections.
#[derive(Default)]
pub struct Load {
    /// Connections to open, and how many may be in the handshake at once.
    pub wanted: usize,
    pub handshakes: usize,
    pub conns: Vec<ConnId>,
    pub answers: u64,
    pub closed: usize,
    /// Whether an answer is followed by the next request at once.
    pub active: bool,
    /// Whether an answer is followed by a close.
    pub once: bool,
}

impl Load {
    pub fn request(conn: &mut Conn<'_>) {
        conn.send(|room| {
            room[..MESSAGE].fill(7);
            (MESSAGE, ())
        });
    }
}

impl Service for Load {
    fn accept(&mut self, _conn: &mut Conn<'_>) {
        unreachable!("nobody is listened for");
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.handshakes -= 1;
        self.conns.push(conn.id());
        if self.once {
            Self::request(conn);
        }
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        let whole = conn.recv(|bytes| match bytes.len() {
            MESSAGE => (MESSAGE, true),
            _ => (0, false),
        });
        if whole {
            self.answers += 1;
            if self.active {
                Self::request(conn);
            } else if self.once {
                conn.close();
            }
        }
    }

    fn closed(&mut self, id: ConnId, _tag: u64, why: Closed, _net: &mut Net<'_>) {
        assert_eq!(why, Closed::Done);
        self.closed += 1;
        if let Some(at) = self.conns.iter().position(|conn| *conn == id) {
            self.conns.swap_remove(at);
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let mut any = false;
        while self.wanted > 0 && self.handshakes < 64 {
            let port = PORTS.start + u16::try_from(self.wanted % PORTS.len()).expect("few ports");
            let options = ConnectOptions { tcp: small(), ..ConnectOptions::default() };
            net.connect((address(1), port).into(), options).expect("ports are left");
            self.wanted -= 1;
            self.handshakes += 1;
            any = true;
        }
        any
    }
}

fn small() -> TcpOptions {
    TcpOptions { rx_bytes: 4096, tx_bytes: 4096, ..TcpOptions::default() }
}

fn address(host: u8) -> IpAddress {
    IpAddress::v4(10, 0, 0, host)
}

pub fn config(host: u8, flows: usize) -> StackConfig {
    let mut config = StackConfig::new(EthernetAddress([2, 0, 0, 0, 0, host]), 1500);
    config.addresses = vec![IpCidr::new(address(host), 24)];
    config.seed = [host; 32];
    config.limits.flows = flows;
    // Few, so that those in TIME-WAIT have to make room.
    config.limits.time_wait = 1024;
    config
}

/// Both ends.
pub struct Pair {
    pub now: Time,
    pub load: Stack<Load>,
    pub echo: Stack<Echo>,
    there: Wire,
    back: Wire,
}

impl Pair {
    pub fn new(flows: usize) -> Self {
        let now = Time::from_ms(1);
        let load = Stack::new(config(2, flows), Load::default(), now).expect("in range");
        let echo = Stack::new(config(1, flows), Echo::default(), now).expect("in range");
        Pair { now, load, echo, there: Wire::new(64), back: Wire::new(64) }
    }

    /// One turn of each; the clock moves by `step_ns`.
    pub fn turn(&mut self, step_ns: u64) {
        self.now = Time::from_ns(self.now.ns() + step_ns);
        self.load.receive(self.now, self.back.frames(), &mut self.there);
        self.back.len = 0;
        self.load.turn(self.now, &mut self.there);
        self.echo.receive(self.now, self.there.frames(), &mut self.back);
        self.there.len = 0;
        self.echo.turn(self.now, &mut self.back);
    }

    /// Opens `count` connections.
    pub fn open(&mut self, count: usize) {
        self.load.service_mut().wanted = count;
        let mut turns = 0;
        while self.load.service().conns.len() < count || self.echo.service().open < count {
            self.turn(10_000);
            turns += 1;
            assert!(turns < 1000 + count * 10, "{} of {count} open", self.load.service().conns.len());
        }
    }

    /// Has the first `count` connections begin to send.
    pub fn start(&mut self, count: usize) {
        self.load.service_mut().active = true;
        for at in 0..count {
            let id = self.load.service().conns[at];
            self.load.with_net(self.now, &mut self.there, |net| {
                Load::request(&mut net.conn(id).expect("open"));
            });
            if at % 32 == 31 {
                self.turn(10_000);
            }
        }
    }

    /// Runs until `count` more answers have come.
    pub fn answers(&mut self, count: u64, step_ns: u64) {
        let end = self.load.service().answers + count;
        let mut idle = 0;
        while self.load.service().answers < end {
            let before = self.load.service().answers;
            self.turn(step_ns);
            idle = if self.load.service().answers == before { idle + 1 } else { 0 };
            assert!(idle < 100_000, "stalled");
        }
    }
}
