//! A plain smoltcp interface with all sockets in one set.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr};
use stack::Time;

use crate::peer::{SERVER, SERVER_PORT, byte_down, conn_of};
use crate::{BUFFER_BYTES, CONNS, Call, MTU_BYTES, Tcp, View};

/// Packets as they are: no Ethernet.
#[derive(Default)]
struct Packets {
    inbox: Vec<Vec<u8>>,
    outbox: Vec<Vec<u8>>,
}

struct Rx(Vec<u8>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Packets {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.inbox.pop()?), Tx(&mut self.outbox)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU_BYTES;
        capabilities
    }
}

pub struct Reference {
    device: Packets,
    interface: Interface,
    sockets: SocketSet<'static>,
    listening: Vec<SocketHandle>,
    conns: [Option<Conn>; CONNS],
}

struct Conn {
    socket: SocketHandle,
    sent: usize,
    view: View,
    /// As it was when last looked at.
    state: tcp::State,
    /// Both sides have finished, and know of it.
    done: bool,
}

impl Reference {
    pub fn new(now: Time) -> Self {
        let mut device = Packets::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut device, now.instant());
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(SERVER.into(), 24)).unwrap());
        let mut sockets = SocketSet::new(Vec::new());
        // Enough for a few connections to be refused or reset and to come again.
        let listening = (0..4 * CONNS)
            .map(|_| {
                let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
                let mut socket = tcp::Socket::new(buffer(), buffer());
                socket.set_nagle_enabled(false);
                socket.set_ack_delay(Some(Duration::from_millis(10)));
                socket.set_congestion_control(tcp::CongestionControl::Cubic);
                socket.listen(SERVER_PORT).unwrap();
                sockets.add(socket)
            })
            .collect();
        Self { device, interface, sockets, listening, conns: std::array::from_fn(|_| None) }
    }

    /// Whether both sides have finished, and know of it.
    pub fn is_done(&self, conn: usize) -> bool {
        self.conns[conn].as_ref().is_some_and(|conn| conn.done)
    }

    /// Finds out what has become of each connection; `reset` if one has just come
    /// or gone.
    fn look(&mut self, reset: bool) {
        let Self { sockets, listening, conns, .. } = self;
        listening.retain(|&handle| {
            let socket = sockets.get::<tcp::Socket>(handle);
            let open =
                !matches!(socket.state(), tcp::State::Listen | tcp::State::SynReceived | tcp::State::Closed);
            let Some(remote) = socket.remote_endpoint().filter(|_| open) else { return true };
            let place = &mut conns[conn_of(remote.port)];
            if place.is_none() {
                let view = View { accepted: true, ..View::default() };
                *place = Some(Conn { socket: handle, sent: 0, view, state: socket.state(), done: false });
            }
            false
        });
        for conn in conns.iter_mut().flatten() {
            let socket = sockets.get::<tcp::Socket>(conn.socket);
            // Ours says that a connection that both have finished is over when its last bytes were read, whatever comes
            // meanwhile; after a reset at once.
            let acknowledged =
                socket.state() == tcp::State::Closed && conn.state == tcp::State::LastAck && !reset;
            conn.done |= acknowledged || socket.state() == tcp::State::TimeWait;
            conn.view.over |=
                if conn.done { socket.recv_queue() == 0 } else { socket.state() == tcp::State::Closed };
            conn.view.peer_finished |= (conn.done || has_fin(socket.state())) && socket.recv_queue() == 0;
            conn.state = socket.state();
        }
    }
}

/// Whether the peer's FIN has come in this state.
fn has_fin(state: tcp::State) -> bool {
    matches!(state, tcp::State::CloseWait | tcp::State::LastAck | tcp::State::Closing | tcp::State::TimeWait)
}

impl Tcp for Reference {
    fn receive(&mut self, now: Time, packet: &[u8]) {
        self.device.inbox.push(packet.to_vec());
        self.interface.poll_ingress_single(now.instant(), &mut self.device, &mut self.sockets);
        // Flags of a TCP header behind an IPv4 header without options.
        self.look(packet[33] & 4 != 0);
    }

    fn call(&mut self, _now: Time, conn: usize, call: &Call) {
        let Some(state) = &mut self.conns[conn] else { return };
        if state.view.over {
            return;
        }
        let socket = self.sockets.get_mut::<tcp::Socket>(state.socket);
        match *call {
            Call::Read(most) => {
                let mut left = most;
                while left > 0 && socket.can_recv() {
                    let taken = socket
                        .recv(|bytes| {
                            let len = bytes.len().min(left);
                            state.view.received.extend(&bytes[..len]);
                            (len, len)
                        })
                        .unwrap();
                    left -= taken;
                }
            }
            Call::Send(most) => {
                let bytes: Vec<u8> = (state.sent..state.sent + most).map(|at| byte_down(conn, at)).collect();
                if socket.may_send() {
                    state.sent += socket.send_slice(&bytes).unwrap();
                }
            }
            Call::Close => socket.close(),
            // RFC 9293 §3.10.5: nothing is sent any more when both have finished. smoltcp sends a reset.
            Call::Abort if state.done => state.view.over = true,
            Call::Abort => socket.abort(),
        }
        self.look(matches!(call, Call::Abort));
    }

    fn poll(&mut self, now: Time) -> Vec<Vec<u8>> {
        self.interface.poll(now.instant(), &mut self.device, &mut self.sockets);
        self.look(false);
        std::mem::take(&mut self.device.outbox)
    }

    fn view(&self, conn: usize) -> View {
        self.conns[conn].as_ref().map_or_else(View::default, |conn| conn.view.clone())
    }
}
