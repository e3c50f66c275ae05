//! Frames from this process through the guest and back.

use std::time::{Duration, Instant};

use peers::guest::Guest;

/// EtherType for local experiments, IEEE 802.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

/// Frames on the way at most: less than the smallest queue, so that none may be lost.
const WINDOW: u32 = 64;

/// How long a frame may take. A loaded machine emulates slowly.
const PATIENCE: Duration = Duration::from_secs(10);

/// Frame `number` of a run, `len` bytes of which no two frames share many.
pub(super) fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0xaa, 0x02, 0, 0, 0, 0, 0xbb];
    frame.extend(ETHER_TYPE);
    frame.extend(number.to_be_bytes());
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    frame.resize_with(len, || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    });
    frame
}

/// Every length from a TCP acknowledgement's to a full Ethernet frame's comes up, the extremes often.
pub(super) fn len_of(number: u32) -> usize {
    match number % 4 {
        0 => 60,
        1 => 1514,
        _ => 60 + number as usize * 7919 % 1455,
    }
}

/// Sends single frames into NIC `from` until one comes out of NIC `to`, then until the wire is quiet: what the
/// forwarder was not yet there to take may come later, or never.
pub(super) fn wait_until_forwarding(guest: &Guest, from: usize, to: usize) {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        assert!(
            Instant::now() < deadline,
            "nothing is forwarded from NIC {from} to NIC {to}\n{}",
            guest.console()
        );
        // A NIC without a driver takes nothing, and QEMU then waits: not an error here.
        let _ = guest.link(from).send(&frame(u32::MAX, 60));
        if guest.link(to).receive(Duration::from_millis(200)).unwrap().is_some() {
            break;
        }
    }
    for nic in [to, from] {
        while guest.link(nic).receive(Duration::from_millis(300)).unwrap().is_some() {}
    }
}

/// Sends `count` frames into NIC `from`; asserts that exactly those come out of NIC `to`, in order, every byte as
/// `expected` makes it of what was sent.
pub(super) fn assert_forwards(
    guest: &Guest,
    (from, to): (usize, usize),
    count: u32,
    expected: impl Fn(Vec<u8>) -> Vec<u8>,
) {
    let mut sent = 0;
    for received in 0..count {
        while sent < count && (sent - received) < WINDOW {
            guest.link(from).send(&frame(sent, len_of(sent))).unwrap();
            sent += 1;
        }
        let got = guest.link(to).receive(PATIENCE).unwrap();
        let got = got.unwrap_or_else(|| panic!("frame {received} of {count} is lost, {sent} were sent"));
        let wanted = expected(frame(received, len_of(received)));
        assert!(got == wanted, "frame {received}:\ngot    {got:02x?}\nwanted {wanted:02x?}");
    }
    let more = guest.link(to).receive(Duration::from_millis(200)).unwrap();
    assert_eq!(more, None, "a frame that was not sent");
}

/// Asks the kernel behind NIC `nic` for the Ethernet address of `ip` and asserts that it is `mac`.
pub(super) fn assert_kernel_answers_arp(guest: &Guest, nic: usize, ip: [u8; 4], mac: [u8; 6]) {
    let ours = [0x02, 0, 0, 0, 0, 0x01];
    let mut request = [[0xff; 6], ours].concat();
    // Ethernet, IPv4, lengths 6 and 4, request. RFC 826.
    request.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    request.extend(ours);
    request.extend([ip[0], ip[1], ip[2], ip[3] + 1]);
    request.extend([0; 6]);
    request.extend(ip);
    request.resize(60, 0);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        guest.link(nic).send(&request).unwrap();
        while let Some(answer) = guest.link(nic).receive(Duration::from_millis(300)).unwrap() {
            if answer.get(12..14) == Some(&[0x08, 0x06]) && answer.get(20..22) == Some(&[0, 2]) {
                assert_eq!(&answer[22..28], mac, "sender of the answer");
                assert_eq!(&answer[28..32], ip, "its address");
                return;
            }
        }
    }
    panic!("the kernel does not answer on NIC {nic}\n{}", guest.console());
}
