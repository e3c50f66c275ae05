//! A set for each flow against one big set: our stack and a plain smoltcp interface get the same segments and the same
//! calls of the application, and must show the peer and the application the same.
//!
//! Sequence numbers are compared relative to each side's own start. Both run on the same clock, unscaled.

mod ours;
#[path = "../support/outbox.rs"]
mod outbox;
mod peer;
mod reference;

use std::time::Duration;

use proptest::prelude::*;
use stack::Time;

use ours::Ours;
use peer::{Peer, Seen, Segment};
use reference::Reference;

/// Connections of one trace.
const CONNS: usize = 4;
/// Bytes of a socket's buffers each way: small, so that windows close.
const BUFFER_BYTES: usize = 2048;
const MTU_BYTES: usize = 1500;

/// How an end of a connection stands, as far as the application knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub accepted: bool,
    pub received: Vec<u8>,
    pub peer_finished: bool,
    pub over: bool,
}

/// What the application does to a connection.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Read(usize),
    Send(usize),
    Close,
    Abort,
}

/// A TCP with an application that accepts everything on port 7.
pub(crate) trait Tcp {
    /// Takes an IPv4 packet.
    fn receive(&mut self, now: Time, packet: &[u8]);
    /// Has the application do something; nothing if the connection is not open.
    fn call(&mut self, now: Time, conn: usize, call: &Call);
    /// Does what is due; returns the IPv4 packets that were sent.
    fn poll(&mut self, now: Time) -> Vec<Vec<u8>>;
    fn view(&self, conn: usize) -> View;
}

/// One step of a trace.
#[derive(Clone, Debug)]
enum Step {
    Segment(usize, Segment),
    Call(usize, Call),
    Wait(u64),
}

/// A TCP and what its peer has seen of it.
struct Side<T> {
    tcp: T,
    peers: [Peer; CONNS],
}

impl<T: Tcp> Side<T> {
    fn new(tcp: T) -> Self {
        Self { tcp, peers: std::array::from_fn(Peer::new) }
    }

    fn step(&mut self, now: Time, step: &Step) {
        match step {
            Step::Segment(conn, segment) => {
                if let Some(packet) = self.peers[*conn].emit(segment) {
                    self.tcp.receive(now, &packet);
                }
            }
            Step::Call(conn, call) => self.tcp.call(now, *conn, call),
            Step::Wait(_) => {}
        }
        self.poll(now);
    }

    fn poll(&mut self, now: Time) {
        for packet in self.tcp.poll(now) {
            let taken = self.peers.iter_mut().any(|peer| peer.receive(&packet));
            assert!(taken, "a packet for nobody");
        }
    }

    fn seen(&self, conn: usize) -> (View, Seen) {
        (self.tcp.view(conn), self.peers[conn].seen())
    }
}

fn run(steps: &[Step]) -> Result<[(View, Seen); CONNS], TestCaseError> {
    let mut now = Time::from_ns(1_000_000_000);
    let mut ours = Side::new(Ours::new(now));
    let mut reference = Side::new(Reference::new(now));
    // What the peer is told when both have finished differs on purpose: ours has a table instead of a socket in
    // TIME-WAIT, in which no reset ends anything (RFC 1337).
    let mut over = [false; CONNS];
    for (index, step) in steps.iter().enumerate() {
        let milliseconds = if let Step::Wait(milliseconds) = step { *milliseconds } else { 1 };
        ours.step(now, step);
        reference.step(now, step);
        // In small steps: a plain interface has no timer that would tell us when to look.
        for _ in 0..milliseconds {
            now += Duration::from_millis(1);
            ours.poll(now);
            reference.poll(now);
        }
        for (conn, over) in over.iter_mut().enumerate() {
            let (ours, mut plain) = (ours.seen(conn), reference.seen(conn));
            if reference.tcp.is_done(conn) {
                plain.1 = ours.1.clone();
            }
            if !*over {
                prop_assert_eq!(&ours, &plain, "connection {} after step {}, {:?}", conn, index, step);
                *over = ours.0.over;
            }
        }
    }
    Ok(std::array::from_fn(|conn| ours.seen(conn)))
}

fn segment() -> impl Strategy<Value = Segment> {
    let len = prop_oneof![Just(0_u32), 1_u32..600];
    prop_oneof![
        2 => Just(Segment::Syn),
        6 => Just(Segment::Ack),
        // In order, which is the usual thing; and anywhere near, which is not.
        12 => (len.clone(), prop::bool::weighted(0.1)).prop_map(|(len, fin)| Segment::Next { len, fin }),
        6 => (0_u32..4000, len).prop_map(|(offset, len)| Segment::At { offset, len }),
        1 => Just(Segment::Reset { in_window: true }),
        1 => Just(Segment::Reset { in_window: false }),
        1 => (0_u32..3).prop_map(|ahead| Segment::WildAck { ahead }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let conn = 0..CONNS;
    let call = prop_oneof![
        4 => (0_usize..3000).prop_map(Call::Read),
        4 => (0_usize..3000).prop_map(Call::Send),
        1 => Just(Call::Close),
        1 => prop::bool::weighted(0.3).prop_map(|abort| if abort { Call::Abort } else { Call::Read(1) }),
    ];
    prop_oneof![
        8 => (conn.clone(), segment()).prop_map(|(conn, segment)| Step::Segment(conn, segment)),
        3 => (conn, call).prop_map(|(conn, call)| Step::Call(conn, call)),
        1 => (1_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sets_of_one_behave_as_one_big_set(steps in prop::collection::vec(step(), 1..80)) {
        // Most of what is drawn would reach nothing without a handshake.
        let opening = (0..CONNS).flat_map(|conn| {
            [Step::Segment(conn, Segment::Syn), Step::Segment(conn, Segment::Ack)]
        });
        let steps: Vec<_> = opening.chain(steps).collect();
        run(&steps)?;
    }
}

/// The comparison sees something: a plain exchange has bytes both ways and an orderly end.
#[test]
fn plain_exchange_is_seen_whole() {
    let steps = [
        Step::Segment(0, Segment::Syn),
        Step::Segment(0, Segment::Ack),
        Step::Segment(0, Segment::Next { len: 500, fin: false }),
        Step::Call(0, Call::Read(500)),
        Step::Call(0, Call::Send(1800)),
        Step::Wait(20),
        Step::Segment(0, Segment::Next { len: 100, fin: true }),
        Step::Call(0, Call::Read(1000)),
        Step::Call(0, Call::Close),
        Step::Wait(20),
        Step::Segment(0, Segment::Ack),
    ];
    let [(view, seen), (idle, nothing), ..] = run(&steps).unwrap();
    assert_eq!((view.received.len(), view.peer_finished, view.over), (600, true, true));
    assert_eq!((seen.bytes.len(), seen.finished, seen.reset), (1800, true, false));
    assert_eq!((idle, nothing), (View::default(), Seen::default()));
}
