//! Clients of this machine's kernel, to be run inside the namespace: every wait is bounded.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// How long one answer may take: everything at the other end is emulated, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// `len` bytes that do not repeat soon.
pub(super) fn bytes(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Asserts that two byte strings are the same, and says where they are not.
pub(super) fn assert_same(got: &[u8], wanted: &[u8], what: &str) {
    let differs = got.iter().zip(wanted).position(|(got, wanted)| got != wanted);
    assert_eq!((got.len(), differs), (wanted.len(), None), "{what}: length, first byte that differs");
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `request` on a connection of its own and returns all that comes until the server closes; closes its own half
/// after the request if `half_close`.
fn converse(to: SocketAddr, request: &[u8], half_close: bool) -> io::Result<Vec<u8>> {
    let mut stream = connect(to)?;
    let mut reader = stream.try_clone()?;
    // Both directions at once: what is sent may be more than both ends' buffers hold.
    thread::scope(|scope| {
        let answer = scope.spawn(move || {
            let mut answer = Vec::new();
            reader.read_to_end(&mut answer).map(|_| answer)
        });
        stream.write_all(request)?;
        if half_close {
            stream.shutdown(Shutdown::Write)?;
        }
        answer.join().expect("reading does not panic")
    })
}

/// Sends `len` bytes to an echo server while taking what comes back, to its end.
pub(super) fn stream_comes_back(to: SocketAddr, len: usize) {
    let sent = bytes(len, 1);
    let back = converse(to, &sent, true).unwrap_or_else(|error| panic!("{len} bytes to {to}: {error}"));
    assert_same(&back, &sent, &format!("echo of {to}"));
}

/// Sends a datagram of each length to an echo server, one after the other.
pub(super) fn datagrams_come_back(from: &str, to: SocketAddr, lengths: &[usize]) {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut back = vec![0; 65_536];
    for (seed, &len) in (1..).zip(lengths) {
        let sent = bytes(len, seed);
        socket.send(&sent).unwrap();
        let got = socket.recv(&mut back).unwrap_or_else(|error| panic!("{len} bytes to {to}: {error}"));
        assert_same(&back[..got], &sent, &format!("datagram of {to}"));
    }
}

/// Makes `count` connections, `at_once` at a time, one after the other in each of so many threads. Each sends
/// `request`, which depends on its number, and has what comes until the server closes looked at by `check`.
pub(super) fn connections(
    to: SocketAddr,
    count: u32,
    at_once: usize,
    half_close: bool,
    request: impl Fn(u32) -> Vec<u8> + Sync,
    check: impl Fn(u32, &[u8]) + Sync,
) {
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    // ORDERING: Relaxed. Hands out numbers, each once; publishes nothing.
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let got = converse(to, &request(number), half_close)
                        .unwrap_or_else(|error| panic!("connection {number} to {to}: {error}"));
                    check(number, &got);
                }
            });
        }
    });
}

/// Opens `count` connections to an echo server, then sends a message on each, then takes each's answer, twice, then
/// closes them all and waits for the server to do so. A thousand fit in the customary limit of 1,024 open files.
pub(super) fn connections_held_open(to: SocketAddr, count: usize) {
    let connected: io::Result<Vec<TcpStream>> = (0..count).map(|_| connect(to)).collect();
    let mut streams = connected.unwrap_or_else(|error| panic!("{count} connections to {to}: {error}"));
    for round in 0..2 {
        let message = |number: usize| format!("round {round}, message of connection {number}").into_bytes();
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&message(number)).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut back = vec![0; message(number).len()];
            stream
                .read_exact(&mut back)
                .unwrap_or_else(|error| panic!("round {round} of connection {number}: {error}"));
            assert_same(&back, &message(number), &format!("round {round} of connection {number}"));
        }
    }
    for stream in &streams {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (number, mut stream) in streams.into_iter().enumerate() {
        let rest =
            stream.read(&mut [0]).unwrap_or_else(|error| panic!("end of connection {number}: {error}"));
        assert_eq!(rest, 0, "connection {number} has more to say");
    }
}
