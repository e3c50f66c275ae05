//! A connection against a peer made of two ring buffers.

use std::collections::VecDeque;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::programs::http::site::{Entry, Site};

const IDLE_NS: u64 = 1_000_000_000;

/// Both buffers of a connection; the received bytes lie in a ring that wraps like that of a socket.
struct Pipe {
    ring: Vec<u8>,
    begin: usize,
    count: usize,
    sent: VecDeque<u8>,
    send_bytes: usize,
    has_finished: bool,
    is_closed: bool,
    is_aborted: bool,
}

impl Pipe {
    fn new(recv_bytes: usize, send_bytes: usize) -> Pipe {
        let sent = VecDeque::new();
        let ring = vec![0; recv_bytes];
        let (has_finished, is_closed, is_aborted) = (false, false, false);
        Pipe { ring, begin: 0, count: 0, sent, send_bytes, has_finished, is_closed, is_aborted }
    }

    /// As much of `bytes` as fits arrives; returns how many.
    fn arrive(&mut self, bytes: &[u8]) -> usize {
        let fits = bytes.len().min(self.ring.len() - self.count);
        for byte in &bytes[..fits] {
            let at = (self.begin + self.count) % self.ring.len();
            self.ring[at] = *byte;
            self.count += 1;
        }
        fits
    }

    /// The peer reads up to `most` bytes.
    fn read(&mut self, most: usize) -> Vec<u8> {
        let most = most.min(self.sent.len());
        self.sent.drain(..most).collect()
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.read(usize::MAX)).unwrap()
    }
}

impl Stream for Pipe {
    fn recv<R>(&mut self, f: impl FnOnce(&mut [u8]) -> (usize, R)) -> R {
        let end = (self.begin + self.count).min(self.ring.len());
        let (taken, result) = f(&mut self.ring[self.begin..end]);
        assert!(taken <= end - self.begin);
        self.begin = (self.begin + taken) % self.ring.len();
        self.count -= taken;
        result
    }

    fn recv_slice(&mut self, to: &mut [u8]) -> usize {
        self.recv(|bytes| {
            let count = bytes.len().min(to.len());
            to[..count].copy_from_slice(&bytes[..count]);
            (count, count)
        })
    }

    fn recv_queue(&self) -> usize {
        self.count
    }

    fn send_slice(&mut self, from: &[u8]) -> usize {
        assert!(!self.is_closed && !self.is_aborted, "sent after the end");
        let fits = from.len().min(self.send_room());
        self.sent.extend(&from[..fits]);
        fits
    }

    fn send_room(&self) -> usize {
        self.send_bytes - self.sent.len()
    }

    fn peer_finished(&self) -> bool {
        self.has_finished && self.count == 0
    }

    fn close(&mut self) {
        self.is_closed = true;
    }

    fn abort(&mut self) {
        self.is_aborted = true;
    }
}

fn shared() -> Shared {
    let mut site = Site::default();
    for (name, bytes) in [("small", 10_usize), ("large", 300_000)] {
        let body: Box<[u8]> = (0..bytes).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect();
        let file = Arc::new(File::new(name.as_bytes(), body, SystemTime::UNIX_EPOCH));
        site.add(name.as_bytes(), Entry::File(file));
    }
    Shared::new(Answers::new(Arc::new(site)), IDLE_NS)
}

fn get(target: &str, fields: &str) -> String {
    format!("GET /{target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

/// Cuts a stream of answers into status and body.
fn answers(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let length = head
            .split_once("Content-Length: ")
            .map_or(0, |(_, rest)| rest.split_once("\r\n").unwrap().0.parse().unwrap());
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        found.push((status, bytes[end..end + length].to_vec()));
        bytes = &bytes[end + length..];
    }
    found
}

#[test]
fn pipelined_requests_are_answered_in_order_on_a_connection_that_stays() {
    let (mut shared, mut pipe) = (shared(), Pipe::new(16_384, 65_536));
    let mut connection = Connection::new(0, &shared);
    let requests = get("small", "") + &get("none", "") + &get("small", "Range: bytes=0-1\r\n");
    assert_eq!(pipe.arrive(requests.as_bytes()), requests.len());
    connection.advance(&mut pipe, &mut shared, 1);
    let all = pipe.read(usize::MAX);
    let statuses: Vec<u16> = answers(&all).iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 404, 206]);
    assert!(!pipe.is_closed);
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let (mut shared, mut pipe) = (shared(), Pipe::new(16_384, 65_536));
    let mut connection = Connection::new(0, &shared);
    let request = get("small", "Connection: close\r\n");
    for byte in request.as_bytes() {
        assert!(pipe.sent.is_empty());
        pipe.arrive(&[*byte]);
        connection.advance(&mut pipe, &mut shared, 1);
    }
    assert!(pipe.text().ends_with("\r\n\r\nabcdefghij"));
    assert!(pipe.is_closed && !pipe.is_aborted);
}

#[test]
fn bodies_of_requests_are_thrown_away_and_the_next_request_is_found() {
    let (mut shared, mut pipe) = (shared(), Pipe::new(16_384, 65_536));
    let mut connection = Connection::new(0, &shared);
    let body = "x".repeat(5000);
    let post = format!("POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{body}");
    for part in (post + &get("small", "")).as_bytes().chunks(700) {
        pipe.arrive(part);
        connection.advance(&mut pipe, &mut shared, 1);
    }
    let all = pipe.read(usize::MAX);
    let found = answers(&all);
    assert_eq!(found.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [405, 200]);
}

#[test]
fn what_cannot_be_parsed_is_answered_once_and_the_rest_ignored() {
    let (mut shared, mut pipe) = (shared(), Pipe::new(16_384, 65_536));
    let mut connection = Connection::new(0, &shared);
    pipe.arrive(b"NONSENSE\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    connection.advance(&mut pipe, &mut shared, 1);
    pipe.arrive(&[b'x'; 1000]);
    connection.advance(&mut pipe, &mut shared, 2);
    let all = pipe.read(usize::MAX);
    assert_eq!(answers(&all).len(), 1);
    assert!(all.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
    assert!(pipe.is_closed && !pipe.is_aborted && pipe.count == 0);
    // A peer that never stops talking is cut off.
    for _ in 0..=LINGER_BYTES / 10_000 {
        pipe.arrive(&[b'x'; 10_000]);
        connection.advance(&mut pipe, &mut shared, 3);
    }
    assert!(pipe.is_aborted);
}

#[test]
fn a_head_across_the_end_of_the_buffer_is_carried_and_gives_its_carrier_back() {
    let (mut shared, mut pipe) = (shared(), Pipe::new(9000, 65_536));
    let mut connection = Connection::new(0, &shared);
    pipe.begin = 8990;
    let request = get("small", &format!("Padding: {}\r\n", "p".repeat(300)));
    let (one, two) = request.split_at(150);
    pipe.arrive(one.as_bytes());
    connection.advance(&mut pipe, &mut shared, 1);
    assert_eq!((shared.carriers.len(), pipe.recv_queue()), (MAX_CARRIED - 1, 0));
    let rest = two.to_string() + &get("small", "") + "GET /sm";
    pipe.arrive(rest.as_bytes());
    connection.advance(&mut pipe, &mut shared, 1);
    pipe.arrive(b"all HTTP/1.1\r\nHost: x\r\n\r\n");
    connection.advance(&mut pipe, &mut shared, 1);
    let all = pipe.read(usize::MAX);
    assert_eq!(answers(&all).len(), 3);
    assert_eq!(shared.carriers.len(), MAX_CARRIED);
}

#[test]
fn carriers_are_bounded_and_a_dead_connection_gives_its_own_back() {
    let mut shared = shared();
    let mut held = Vec::new();
    for number in 0..=MAX_CARRIED {
        let (mut pipe, mut connection) = (Pipe::new(9000, 65_536), Connection::new(0, &shared));
        pipe.begin = 8990;
        pipe.arrive(b"GET /small HTTP/1.1\r\nHo");
        connection.advance(&mut pipe, &mut shared, 1);
        assert_eq!(pipe.is_closed, number == MAX_CARRIED);
        assert_eq!(pipe.text().starts_with("HTTP/1.1 503 "), number == MAX_CARRIED);
        held.push(connection);
    }
    held.iter_mut().for_each(|connection| connection.end(&mut shared));
    assert_eq!(shared.carriers.len(), MAX_CARRIED);
}

#[test]
fn a_slow_reader_gets_everything_and_holds_back_its_own_requests() {
    let (mut shared, mut pipe) = (shared(), Pipe::new(16_384, 4096));
    let mut connection = Connection::new(0, &shared);
    let requests = get("large", "") + &get("small", "Connection: close\r\n");
    pipe.arrive(requests.as_bytes());
    let mut all = Vec::new();
    for now in 1..10_000 {
        connection.advance(&mut pipe, &mut shared, now);
        assert!(pipe.sent.len() <= 4096);
        all.extend(pipe.read(1000));
        if pipe.is_closed && pipe.sent.is_empty() {
            break;
        }
    }
    let found = answers(&all);
    assert_eq!(
        found.iter().map(|(status, body)| (*status, body.len())).collect::<Vec<_>>(),
        [(200, 300_000), (200, 10)]
    );
    assert!(found[0].1.iter().enumerate().all(|(at, byte)| usize::from(byte - b'a') == at % 23));
}

#[test]
fn half_closed_peers_get_their_answers_and_half_a_request_gets_none() {
    let (mut shared, mut pipe) = (shared(), Pipe::new(16_384, 65_536));
    let mut connection = Connection::new(0, &shared);
    pipe.arrive(get("small", "").as_bytes());
    pipe.has_finished = true;
    connection.advance(&mut pipe, &mut shared, 1);
    assert!(pipe.text().starts_with("HTTP/1.1 200 OK\r\n") && pipe.is_closed);
}

#[test]
fn slow_heads_are_told_and_idle_connections_just_closed() {
    let mut shared = shared();
    let (mut idle, mut slow, mut stuck) =
        (Pipe::new(16_384, 65_536), Pipe::new(16_384, 65_536), Pipe::new(16_384, 65_536));
    let mut connection = Connection::new(0, &shared);
    connection.advance(&mut idle, &mut shared, 1);
    assert_eq!(connection.deadline_ns(), IDLE_NS);
    connection.time_out(&mut idle, &mut shared, IDLE_NS);
    assert!(idle.is_closed && idle.sent.is_empty());
    assert_eq!((shared.timeouts, connection.deadline_ns()), (0, IDLE_NS + LINGER_NS));
    connection.time_out(&mut idle, &mut shared, IDLE_NS + LINGER_NS);
    assert!(idle.is_aborted, "its peer never ended its side");

    let mut connection = Connection::new(0, &shared);
    for (now, byte) in (500..).zip(b"GET /") {
        slow.arrive(&[*byte]);
        connection.advance(&mut slow, &mut shared, now);
    }
    assert_eq!(connection.deadline_ns(), 500 + IDLE_NS, "further bytes do not put the clock back");
    connection.time_out(&mut slow, &mut shared, 500 + IDLE_NS);
    assert!(slow.text().starts_with("HTTP/1.1 408 ") && slow.is_closed);

    let mut connection = Connection::new(0, &shared);
    stuck.arrive(get("large", "").as_bytes());
    connection.advance(&mut stuck, &mut shared, 7);
    assert_eq!(connection.deadline_ns(), 7 + IDLE_NS);
    connection.advance(&mut stuck, &mut shared, 8);
    assert_eq!(connection.deadline_ns(), 7 + IDLE_NS, "nothing could be sent");
    connection.time_out(&mut stuck, &mut shared, 7 + IDLE_NS);
    assert!(stuck.is_aborted);
    assert_eq!(shared.timeouts, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the bytes of requests are cut, wherever the ring wraps, and however slowly the answers are read: every
    /// request has its answer, in order.
    #[test]
    fn cuts_make_no_difference(
        cuts in proptest::collection::vec(1_usize..600, 1..40),
        begin in 0_usize..9000,
        reads in proptest::collection::vec(1_usize..5000, 1..10),
        send_bytes in 1024_usize..9000,
    ) {
        let (mut shared, mut pipe) = (shared(), Pipe::new(9000, send_bytes));
        pipe.begin = begin;
        let mut connection = Connection::new(0, &shared);
        let plan: Vec<usize> = (0..60).map(|at| at * 7 % 10).collect();
        let mut stream: Vec<u8> = Vec::new();
        for at in &plan {
            stream.extend(get("small", &format!("Range: bytes={at}-\r\nPad: {}\r\n", "p".repeat(at * 90))).bytes());
        }
        let (mut rest, mut all) = (&stream[..], Vec::new());
        let (mut cuts, mut reads) = (cuts.iter().cycle(), reads.iter().cycle());
        for now in 0..100_000 {
            let cut = rest.len().min(*cuts.next().unwrap());
            let fits = pipe.arrive(&rest[..cut]);
            rest = &rest[fits..];
            connection.advance(&mut pipe, &mut shared, now);
            all.extend(pipe.read(*reads.next().unwrap()));
            if rest.is_empty() && pipe.sent.is_empty() {
                connection.advance(&mut pipe, &mut shared, now);
                if pipe.sent.is_empty() { break; }
            }
        }
        let found = answers(&all);
        prop_assert_eq!(found.len(), plan.len());
        for ((status, body), at) in found.iter().zip(&plan) {
            prop_assert_eq!((*status, &body[..]), (206, &b"abcdefghij"[*at..]));
        }
        prop_assert_eq!(shared.carriers.len(), MAX_CARRIED);
    }
}
