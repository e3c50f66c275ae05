//! `bywash echo` and `bywash load`, TCP and UDP, with the kernel's sockets at the other end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::SOON;
use super::host::{Host, OURS, both_addresses, bytes, namespace_with_tap, start};

/// How long 100 MB may take, there and back, on a machine that is busy with other things; on two busy cores it is 20 to
/// 60 s. With a retransmission timeout of 200 ms for each of the 700 losses of ours it would be 140 s.
const BULK_LIMIT: Duration = Duration::from_secs(120);
const BULK_BYTES: usize = 100_000_000;

pub fn both(port: u16) -> [SocketAddr; 2] {
    [format!("{}:{port}", OURS[0]), format!("[{}]:{port}", OURS[1])].map(|text| text.parse().unwrap())
}

pub fn connect(host: &Host, to: SocketAddr) -> TcpStream {
    let stream = host.netns.inside(|| TcpStream::connect_timeout(&to, SOON)).unwrap().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// Sends everything and closes its half, while another thread takes what comes back, to its end.
pub fn there_and_back(mut stream: TcpStream, sent: &[u8]) -> Vec<u8> {
    let mut reader = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        let back = scope.spawn(move || {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).map(|_| back)
        });
        stream.write_all(sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        back.join().unwrap().unwrap()
    })
}

/// Byte-exact, and says where if not.
pub fn assert_same(got: &[u8], sent: &[u8]) {
    let differs = got.iter().zip(sent).position(|(got, sent)| got != sent);
    assert_eq!((got.len(), differs), (sent.len(), None), "bytes that came back, first that differs");
}

#[test]
fn streams_come_back_whole_over_both_families() {
    let Some(host) = Host::start(&[], "echo", "tap:bw0", "") else { return };
    for to in both(7) {
        for len in [0, 1, 1459, 1460, 1461, 65_535, 65_536, 3_000_000] {
            let sent = bytes(len, len as u64);
            assert_same(&there_and_back(connect(&host, to), &sent), &sent);
        }
    }
    host.stop();
}

/// With `nc`, whose `-N` closes the sending half when its input ends: what is on its way back must still arrive.
#[test]
fn nc_closes_its_half_and_gets_the_rest() {
    let Some(host) = Host::start(&["nc"], "echo", "tap:bw0", "") else { return };
    let folder = tempfile::tempdir().unwrap();
    let sent = bytes(1_000_000, 1);
    let (from, to) = (folder.path().join("sent"), folder.path().join("back"));
    std::fs::write(&from, &sent).unwrap();
    for ours in OURS {
        host.shell(&format!("nc -N {ours} 7 < {} > {}", from.display(), to.display()), SOON);
        assert_same(&std::fs::read(&to).unwrap(), &sent);
    }
    host.stop();
}

#[test]
fn a_hundred_megabytes_survive_a_bad_link() {
    let port = "netem:loss=1%,reorder=5%,seed=7/tap:bw0";
    let Some(host) = Host::start(&[], "echo", port, "--rx-buffer 1M --tx-buffer 1M") else { return };
    let stream = connect(&host, both(7)[0]);
    let started = Instant::now();
    let sent = bytes(BULK_BYTES, 3);
    assert_same(&there_and_back(stream, &sent), &sent);
    let took = started.elapsed();
    assert!(took < BULK_LIMIT, "{took:?}");
    println!("100 MB each way through 1 % loss and 5 % reorder in {took:.1?}");
    let report = host.stop();
    let did = |name: &str| report.count(&format!("/ports/0/netem_{name}")).unwrap();
    assert!(did("lost") > 1000 && did("reordered") > 5000, "{}", report.value());
}

#[test]
fn streams_survive_duplication_corruption_and_delay() {
    let port = "netem:loss=0.5%,duplicate=2%,corrupt=1%,delay=2ms,seed=11/tap:bw0";
    let Some(host) = Host::start(&[], "echo", port, "") else { return };
    let sent = bytes(5_000_000, 5);
    assert_same(&there_and_back(connect(&host, both(7)[1]), &sent), &sent);
}

/// From a byte to forty fragments, each way.
#[test]
fn datagrams_of_all_lengths_come_back() {
    let Some(host) = Host::start(&[], "echo", "tap:bw0", "") else { return };
    let sockets = ["192.0.2.1:0", "[2001:db8::1]:0"];
    for (to, from) in both(7).into_iter().zip(sockets) {
        let socket = host.netns.inside(|| UdpSocket::bind(from)).unwrap().unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let lengths = [1, 2, 17, 100, 1452, 1453, 1472, 1473, 2000, 2952, 4000, 8192, 20_000, 32_768, 59_999];
        let mut back = vec![0; 65_536];
        for len in lengths.into_iter().chain((1..60_000).step_by(997)).chain([60_000]) {
            let sent = bytes(len, len as u64);
            socket.send(&sent).unwrap();
            let got = match socket.recv(&mut back) {
                Ok(got) => got,
                Err(error) => panic!("{len} bytes to {to}: {error}"),
            };
            assert!(back[..got] == sent, "{len} bytes to {to}: {got} came back, or others");
        }
    }
    host.stop();
}

/// An echo server of the kernel's: each connection on a thread of its own, until the namespace goes.
fn kernel_echo(netns: &peers::netns::Netns) -> SocketAddr {
    let listener = netns.inside(|| TcpListener::bind("192.0.2.1:0").unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = [0; 16_384];
                loop {
                    match stream.read(&mut bytes) {
                        Ok(0) => return,
                        Ok(got) if stream.write_all(&bytes[..got]).is_ok() => {}
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Ok(_) | Err(_) => return,
                    }
                }
            });
        }
    });
    at
}

#[test]
fn load_meets_the_kernels_server() {
    let Some(netns) = namespace_with_tap(&[]) else { return };
    let server = kernel_echo(&netns);
    for flags in ["--connections 16 --requests 20000", "--connections 4 --requests 2000 --reconnect"] {
        let flags = format!("{} --to {server} {flags}", both_addresses());
        let report = start(&netns, "load", "tap:bw0", &flags).report(SOON).unwrap();
        let wanted = if flags.contains("reconnect") { 2000 } else { 20_000 };
        assert_eq!(report.count("/requests").unwrap(), wanted, "{}", report.value());
        for none in ["errors", "lost"] {
            assert_eq!(report.count(&format!("/{none}")).unwrap(), 0, "{}", report.value());
        }
    }
}
