//! A core for tests: joins sockets of one door with each other, on a thread of its own, with no stack between them.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::*;

/// What a connection holds between its two rings: the socket's buffer of a real core.
const BUFFER_BYTES: usize = 512;

struct Half {
    end: TcpEnd,
    peer: Option<Token>,
    inbox: VecDeque<u8>,
    finished: bool,
    peer_finished: bool,
    gone: bool,
}

#[derive(Default)]
struct State {
    conns: HashMap<Token, Half>,
    listeners: HashMap<Token, ListenerEnd>,
    sockets: HashMap<Token, UdpEnd>,
    /// Ends that failed, until their application lets go.
    dead: HashMap<Token, TcpEnd>,
    ports: u16,
}

/// The thread; dropping it stops the core as an engine's stop does.
pub struct Double {
    stop: Arc<AtomicBool>,
    /// Ends the core holds.
    pub held: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// An engine of one core with room for `sockets`.
pub fn double(sockets: u32) -> (Net, Double) {
    let (net, mut doors) = door(&[Arc::default()], sockets);
    let (stop, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let thread = std::thread::spawn({
        let (stop, held, mut door) = (stop.clone(), held.clone(), doors.remove(0));
        move || {
            let mut state = State { ports: 50_000, ..State::default() };
            while !stop.load(Ordering::Relaxed) {
                state.turn(&mut door);
                held.store(
                    state.conns.len() + state.listeners.len() + state.sockets.len() + state.dead.len(),
                    Ordering::Relaxed,
                );
                std::thread::yield_now();
            }
        }
    });
    (net, Double { stop, held, thread: Some(thread) })
}

impl Drop for Double {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl State {
    fn turn(&mut self, door: &mut CoreDoor) {
        while let Some(knock) = door.next_knock() {
            match knock {
                Knock::Rung(token) => self.rung(token, door),
                Knock::Opened(request) => self.open(request, door),
            }
        }
        let tokens: Vec<_> = self.conns.keys().copied().collect();
        tokens.into_iter().for_each(|token| self.pump(token, door));
        self.datagrams();
        full_fence();
        self.conns.values().for_each(|half| half.end.wake());
        self.dead.values().for_each(TcpEnd::wake);
        self.listeners.values().for_each(ListenerEnd::wake);
        self.sockets.values().for_each(UdpEnd::wake);
    }

    fn rung(&mut self, token: Token, door: &mut CoreDoor) {
        if let Some(half) = self.conns.get_mut(&token) {
            half.gone |= half.end.answer();
        } else if self.listeners.get(&token).is_some_and(ListenerEnd::answer) {
            self.listeners.remove(&token);
            door.free(token);
        } else if self.sockets.get(&token).is_some_and(UdpEnd::answer) {
            self.sockets.remove(&token);
            door.free(token);
        } else if self.dead.get(&token).is_some_and(TcpEnd::answer) {
            self.dead.remove(&token);
            door.free(token);
        }
    }

    fn open(&mut self, request: Request, door: &mut CoreDoor) {
        match request {
            Request::Listen(token, mut end) => {
                let used = self.listeners.values().any(|other| other.at().port() == end.at().port());
                if used {
                    end.fail(Failure::AddrInUse)
                } else {
                    end.opened()
                }
                self.listeners.insert(token, end);
            }
            Request::Bind(token, mut end) => {
                let used = self.sockets.values().any(|other| other.at().port() == end.at().port());
                if used {
                    end.fail(Failure::AddrInUse)
                } else {
                    end.opened()
                }
                self.sockets.insert(token, *end);
            }
            Request::Connect(token, connect) => self.connect(token, *connect, door),
            Request::Resolve(token, end) => {
                match (end.name(), end.family()) {
                    ("two.example", Family::V4) => end.answer(Ok(["192.0.2.1".parse().unwrap()].into_iter())),
                    ("two.example", Family::V6) => {
                        end.answer(Ok(["2001:db8::1".parse().unwrap()].into_iter()))
                    }
                    _ => end.answer(Err::<std::iter::Empty<_>, _>(Failure::NoSuchName)),
                }
                door.free(token);
            }
        }
    }

    fn connect(&mut self, token: Token, Connect { to, mut end, .. }: Connect, door: &mut CoreDoor) {
        if to.port() == 9 {
            // The port that never answers.
            self.conns.insert(token, Half::new(end, None));
            return;
        }
        self.ports += 1;
        let local = SocketAddr::new(to.ip(), self.ports);
        let listener = self.listeners.values().find(|listener| listener.at().port() == to.port());
        let accepted = listener.and_then(|listener| {
            let other = door.token()?;
            let admitted = door.admit(listener, other, to, local);
            if admitted.is_err() {
                door.free(other);
            }
            Some((other, admitted.ok()?))
        });
        let Some((other, accepted)) = accepted else {
            end.fail(Failure::Refused);
            self.dead.insert(token, end);
            return;
        };
        end.opened(local);
        self.conns.insert(token, Half::new(end, Some(other)));
        self.conns.insert(other, Half::new(accepted, Some(token)));
    }

    fn pump(&mut self, token: Token, door: &mut CoreDoor) {
        let Some(mut half) = self.conns.remove(&token) else { return };
        let wants = half.end.app_state();
        let mut over = wants.abort || (half.gone && !half.end.is_drained().unwrap_or(true));
        if let Some(peer) = half.peer.and_then(|peer| self.conns.get_mut(&peer)) {
            let mut bytes = [0; BUFFER_BYTES];
            let room = BUFFER_BYTES - peer.inbox.len();
            let taken = half.end.outgoing(&mut bytes[..room]).unwrap();
            peer.inbox.extend(&bytes[..taken]);
            half.finished |=
                !over && (wants.shut_write || half.gone) && half.end.outgoing_len().unwrap() == 0;
            peer.peer_finished |= half.finished;
            if over {
                peer.end.fail(Failure::Reset);
                peer.peer = None;
            }
        }
        let front = half.inbox.make_contiguous();
        let taken = if wants.shut_read || half.gone { front.len() } else { half.end.deliver(front).unwrap() };
        half.inbox.drain(..taken);
        if !half.inbox.is_empty() {
            half.end.wish_for_room().unwrap();
        }
        if half.peer_finished && half.inbox.is_empty() {
            half.end.finish();
        }
        if wants.abort {
            half.end.fail(Failure::Aborted);
        }
        over |= half.finished && half.peer_finished && half.inbox.is_empty();
        if over || half.peer.is_none() && half.gone {
            half.end.closed();
        }
        if half.gone && (over || half.peer.is_none() || half.finished && !wants.linger) {
            if let Some(peer) = half.peer.and_then(|peer| self.conns.get_mut(&peer)) {
                peer.peer = None;
            }
            door.free(token);
        } else if over && wants.abort {
            self.dead.insert(token, half.end);
        } else {
            self.conns.insert(token, half);
        }
    }

    /// Each datagram goes to the socket on the port it is for.
    fn datagrams(&mut self) {
        let mut data = vec![0; MAX_DATAGRAM];
        let mut mail = Vec::new();
        for end in self.sockets.values_mut() {
            while let Some((to, len)) = end.outgoing(&mut data).unwrap() {
                end.sent().unwrap();
                if to.port() == 9 {
                    end.fail(Failure::Refused);
                }
                mail.push((to, SocketAddr::new(to.ip(), end.at().port()), data[..len].to_vec()));
            }
        }
        for (to, from, data) in mail {
            if let Some(end) = self.sockets.values_mut().find(|end| end.at().port() == to.port()) {
                end.deliver(from, &data).unwrap();
            }
        }
    }
}

impl Half {
    fn new(end: TcpEnd, peer: Option<Token>) -> Self {
        Self { end, peer, inbox: VecDeque::new(), finished: false, peer_finished: false, gone: false }
    }
}
