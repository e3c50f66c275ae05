//! Offloads with the kernel as the other side: frames without checksums and of 64 KiB, both ways, and their absence. What
//! arrives is compared byte by byte: a checksum completed wrongly, or a segment cut in the wrong place, would never get
//! through the kernel's TCP.

use std::time::Duration;

use super::SOON;
use super::echo::{assert_same, both, connect, there_and_back};
use super::host::{Host, OURS, bytes};

const STREAM_BYTES: usize = 5_000_000;

/// Streams there and back over both families; returns the mean frame, received and sent.
fn stream(port: &str) -> Option<[u64; 2]> {
    let host = Host::start(&[], "echo", port, "--rx-buffer 1M --tx-buffer 1M")?;
    for (seed, to) in both(7).into_iter().enumerate() {
        let sent = bytes(STREAM_BYTES, seed as u64);
        assert_same(&there_and_back(connect(&host, to), &sent), &sent);
    }
    let report = host.stop();
    let count = |name: &str| report.count(&format!("/ports/0/{name}")).unwrap();
    for none in ["rx_errors", "tx_errors", "tx_dropped"] {
        assert_eq!(count(none), 0, "{none}: {}", report.value());
    }
    Some(["rx", "tx"].map(|way| count(&format!("{way}_bytes")) / count(&format!("{way}_packets"))))
}

#[test]
fn streams_pass_in_frames_of_many_segments_both_ways() {
    let Some([received, sent]) = stream("tap:bw0") else { return };
    // Acknowledgements count, too.
    assert!(received > 3000 && sent > 3000, "frames of {received} and {sent} bytes on average");
}

#[test]
fn without_offloads_they_pass_in_segments() {
    let Some([received, sent]) = stream("tap:bw0,offload=off") else { return };
    assert!(received <= 1514 && sent <= 1514, "frames of {received} and {sent} bytes on average");
}

/// Names answered, pings and datagrams come without a checksum, or with one that is left to the port, as segments do.
#[test]
fn what_is_not_tcp_passes_as_well() {
    let Some(host) = Host::start(&["ping"], "echo", "tap:bw0", "") else { return };
    for ours in OURS {
        host.run("ping", &format!("-c2 -W5 -n -s 4000 {ours}"), Duration::from_secs(20));
    }
    for (to, from) in both(7).into_iter().zip(["192.0.2.1:0", "[2001:db8::1]:0"]) {
        let socket = host.netns.inside(|| std::net::UdpSocket::bind(from)).unwrap().unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(to).unwrap();
        let (sent, mut back) = (bytes(1200, 9), [0; 2000]);
        socket.send(&sent).unwrap();
        let got = socket.recv(&mut back).unwrap();
        assert_same(&back[..got], &sent);
    }
    host.stop();
}
