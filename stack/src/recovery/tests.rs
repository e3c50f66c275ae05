use smoltcp::wire::TcpPacket;

use super::*;

/// What the peer's segments are judged against: 10 segments from 1000 on are out, and 5000 is the next byte wanted.
const SENT: Sent =
    Sent { any: true, seq_end: 15_600, ack: 5000, window: 64, resent: 0, window_closed: false };
const ROOM: usize = 65_536;

/// A segment of the peer's: sequence number, acknowledgement, window, bytes of data, a block that it reports to have.
fn segment(seq: u32, ack: u32, window: u16, data: usize, sack: Option<(u32, u32)>) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([if sack.is_some() { 0x80 } else { 0x50 }, 0x10]);
    bytes.extend(window.to_be_bytes());
    bytes.extend([0; 4]);
    if let Some((left, right)) = sack {
        bytes.extend([1, 1, 5, 10]);
        bytes.extend(left.to_be_bytes());
        bytes.extend(right.to_be_bytes());
    }
    bytes.extend(vec![7; data]);
    bytes
}

fn hear(recovery: &mut Recovery, segment: &[u8]) -> Heard {
    recovery.hear(&TcpPacket::new_checked(segment).unwrap(), SENT, ROOM, Time::from_ms(10))
}

/// After the handshake; everything of [`SENT`] is out.
fn open() -> Recovery {
    let mut recovery = Recovery::default();
    let handshake = Sent { seq_end: 1000, ..SENT };
    let first = segment(5000, 1000, 64, 0, None);
    let at = Time::from_ms(1);
    recovery.sent(at, 999, 1000, false, None);
    recovery.hear(
        &TcpPacket::new_checked(&first[..]).unwrap(),
        handshake,
        ROOM,
        at + Duration::from_millis(1),
    );
    recovery.sent(at, 1000, SENT.seq_end, false, None);
    recovery
}

/// How many of ten such segments in a row show a loss, and after how many the first did.
fn losses(segments: impl Fn(u32) -> Vec<u8>) -> (usize, Option<u32>) {
    let mut recovery = open();
    let shown: Vec<u32> = (1..=10).filter(|&n| hear(&mut recovery, &segments(n)) == Heard::Loss).collect();
    (shown.len(), shown.first().copied())
}

/// Another each time.
fn window(n: u32) -> u16 {
    64 + u16::try_from(n).unwrap()
}

#[test]
fn the_third_duplicate_shows_a_loss_once() {
    assert_eq!(losses(|_| segment(5000, 1000, 64, 0, None)), (1, Some(3)));
    // With what the peer has, also among data and changing windows (RFC 6675 §2).
    let sacked = |n: u32| Some((2460, 2460 + 1460 * n));
    assert_eq!(losses(|n| segment(5000, 1000, window(n), 100, sacked(n))), (1, Some(3)));
    // Data in between are no duplicates, and do not make the others less.
    let mixed = |n: u32| segment(5000, 1000, 64, if n.is_multiple_of(2) { 100 } else { 0 }, None);
    assert_eq!(losses(mixed), (1, Some(5)));
}

#[test]
fn what_is_no_duplicate_shows_nothing() {
    let nothing = (0, None);
    // RFC 5681 §2: data, and another window.
    assert_eq!(losses(|_| segment(5000, 1000, 64, 100, None)), nothing);
    assert_eq!(losses(|n| segment(5000, 1000, window(n), 0, None)), nothing);
    // RFC 2883 §4: something came twice.
    assert_eq!(losses(|_| segment(5000, 1000, 64, 0, Some((600, 1000)))), nothing);
    // Behind, ahead of what was ever sent, or not the peer's.
    assert_eq!(losses(|_| segment(5000, 999, 64, 0, None)), nothing);
    assert_eq!(losses(|_| segment(5000, 15_601, 64, 0, None)), nothing);
    assert_eq!(losses(|_| segment(5000 + 65_536, 1000, 64, 0, None)), nothing);
    assert_eq!(losses(|_| segment(4999, 1000, 64, 0, None)), nothing);
}

#[test]
fn an_acknowledgement_short_of_the_repair_shows_the_next_loss() {
    let mut recovery = open();
    for _ in 0..3 {
        hear(&mut recovery, &segment(5000, 1000, 64, 0, None));
    }
    assert_eq!(hear(&mut recovery, &segment(5000, 2460, 64, 0, None)), Heard::Loss);
    assert_eq!(hear(&mut recovery, &segment(5000, 8300, 64, 100, None)), Heard::Loss);
    assert_eq!(hear(&mut recovery, &segment(5000, 15_600, 64, 0, None)), Heard::Nothing);
    // Not before anything was lost.
    assert_eq!(hear(&mut open(), &segment(5000, 2460, 64, 0, None)), Heard::Nothing);
}

/// smoltcp's timer has everything sent again: the answers to that show nothing.
#[test]
fn after_a_timeout_duplicates_are_answers() {
    let mut recovery = open();
    recovery.sent(Time::from_ms(1), SENT.seq_end, SENT.seq_end, false, Some(Time::from_ms(201)));
    recovery.sent(Time::from_ms(201), SENT.seq_end, SENT.seq_end, true, None);
    for _ in 0..10 {
        assert_eq!(hear(&mut recovery, &segment(5000, 1000, 64, 0, None)), Heard::Nothing);
    }
    assert_eq!(hear(&mut recovery, &segment(5000, 2460, 64, 0, None)), Heard::Nothing);
}

#[test]
fn silence_is_probed_twice() {
    let mut recovery = open();
    let mut now = Time::from_ms(1);
    let mut probes = Vec::new();
    while let Some(at) = recovery.sent(now, SENT.seq_end, SENT.seq_end, false, None) {
        assert!(at > now && probes.len() < 10);
        assert_eq!(recovery.probe(Time::from_ns(at.ns() - 1), SENT.seq_end), None, "not early");
        now = at;
        probes.push((now.ns() / 1_000_000, recovery.probe(now, SENT.seq_end).unwrap()));
        recovery.nudged();
    }
    // After ten milliseconds, then twenty.
    assert_eq!(probes, [(11, (1000, 64)), (31, (1000, 64))]);
    // None of a single segment, whose acknowledgement may be delayed; none into a closed window.
    assert_eq!(recovery.sent(now, 1000, 2460, false, None), None);
    let mut closed = open();
    hear(&mut closed, &segment(5000, 1000, 0, 0, None));
    assert_eq!(closed.probe(Time::from_ms(1000), SENT.seq_end), None);
}
