//! Our stack, with an application that does as it is told.

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, EthernetRepr, IpCidr, IpListenEndpoint,
};
use stack::{
    Closed, Conn, ConnId, EthernetAddress, ListenOptions, Net, Service, Stack, StackConfig, TcpOptions, Time,
};

use crate::outbox::Outbox;
use crate::peer::{CLIENT, SERVER, SERVER_PORT, byte_down, conn_of};
use crate::{BUFFER_BYTES, CONNS, Call, MTU_BYTES, Tcp, View};

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const CLIENT_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const HEADER_BYTES: usize = 14;

/// The application.
#[derive(Default)]
struct Puppet {
    conns: [Option<State>; CONNS],
    calls: Vec<(usize, Call)>,
}

struct State {
    id: ConnId,
    sent: usize,
    view: View,
}

impl Puppet {
    fn state(&mut self, id: ConnId) -> Option<&mut State> {
        self.conns.iter_mut().flatten().find(|state| state.id == id)
    }
}

impl Service for Puppet {
    fn start(&mut self, net: &mut Net<'_>) {
        let tcp = TcpOptions {
            rx_bytes: BUFFER_BYTES,
            tx_bytes: BUFFER_BYTES,
            timeout: None,
            ..TcpOptions::default()
        };
        let options = ListenOptions { backlog: 64, tcp };
        net.listen(IpListenEndpoint::from(SERVER_PORT), options).unwrap();
    }

    fn accept(&mut self, conn: &mut Conn<'_>) {
        let place = &mut self.conns[conn_of(conn.remote().port)];
        if place.is_none() {
            let view = View { accepted: true, ..View::default() };
            *place = Some(State { id: conn.id(), sent: 0, view });
        }
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        if let Some(state) = self.state(conn.id()) {
            state.view.peer_finished |= conn.peer_finished();
        }
    }

    fn closed(&mut self, id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {
        if let Some(state) = self.state(id) {
            state.view.over = true;
        }
    }

    fn turn(&mut self, net: &mut Net<'_>) -> bool {
        let calls = std::mem::take(&mut self.calls);
        for (conn, call) in &calls {
            let Some(state) = &mut self.conns[*conn] else { continue };
            let Some(mut open) = net.conn(state.id) else { continue };
            match *call {
                Call::Read(most) => {
                    let mut left = most;
                    while left > 0 && open.recv_queue() > 0 {
                        left -= open.recv(|bytes| {
                            let len = bytes.len().min(left);
                            state.view.received.extend(&bytes[..len]);
                            (len, len)
                        });
                    }
                }
                Call::Send(most) => {
                    let bytes: Vec<u8> =
                        (state.sent..state.sent + most).map(|at| byte_down(*conn, at)).collect();
                    state.sent += open.send_slice(&bytes);
                }
                Call::Close => open.close(),
                Call::Abort => open.abort(),
            }
            state.view.peer_finished |= open.peer_finished();
        }
        !calls.is_empty()
    }
}

pub struct Ours {
    stack: Stack<Puppet>,
    device: Outbox,
}

impl Ours {
    pub fn new(now: Time) -> Self {
        let mut config = StackConfig::new(MAC, MTU_BYTES);
        config.addresses = vec![IpCidr::new(SERVER.into(), 24)];
        // As the plain interface is.
        (config.clock_scale, config.loss_recovery) = (1, false);
        let mut stack = Stack::new(config, Puppet::default(), now).unwrap();
        let mut device = Outbox::new(1024, MTU_BYTES);
        stack.turn(now, &mut device);
        device.take();
        let hello = arp(ArpOperation::Request);
        stack.receive(now, std::iter::once(hello.as_slice()), &mut device);
        Self { stack, device }
    }
}

/// An ARP packet of the client's, so that its address is known.
fn arp(operation: ArpOperation) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: CLIENT_MAC,
        source_protocol_addr: CLIENT,
        target_hardware_addr: MAC,
        target_protocol_addr: SERVER,
    };
    let ethernet = EthernetRepr { src_addr: CLIENT_MAC, dst_addr: MAC, ethertype: EthernetProtocol::Arp };
    let mut frame = vec![0; HEADER_BYTES + arp.buffer_len()];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    arp.emit(&mut ArpPacket::new_unchecked(&mut frame[HEADER_BYTES..]));
    frame
}

impl Tcp for Ours {
    fn receive(&mut self, now: Time, packet: &[u8]) {
        let ethernet =
            EthernetRepr { src_addr: CLIENT_MAC, dst_addr: MAC, ethertype: EthernetProtocol::Ipv4 };
        let mut frame = vec![0; HEADER_BYTES + packet.len()];
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame));
        frame[HEADER_BYTES..].copy_from_slice(packet);
        self.stack.receive(now, std::iter::once(frame.as_slice()), &mut self.device);
    }

    fn call(&mut self, now: Time, conn: usize, call: &Call) {
        self.stack.service_mut().calls.push((conn, call.clone()));
        self.stack.turn(now, &mut self.device);
    }

    fn poll(&mut self, now: Time) -> Vec<Vec<u8>> {
        while self.stack.turn(now, &mut self.device) {}
        let mut packets = Vec::new();
        for frame in self.device.take() {
            let ethernet = EthernetFrame::new_checked(frame.as_slice()).unwrap();
            match ethernet.ethertype() {
                EthernetProtocol::Arp => {
                    let reply = arp(ArpOperation::Reply);
                    self.stack.receive(now, std::iter::once(reply.as_slice()), &mut self.device);
                }
                _ => packets.push(ethernet.payload().to_vec()),
            }
        }
        packets
    }

    fn view(&self, conn: usize) -> View {
        self.stack.service().conns[conn].as_ref().map_or_else(View::default, |state| state.view.clone())
    }
}
