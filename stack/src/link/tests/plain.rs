//! The short way of plain TCP frames leads where the long one does.

use super::*;

fn tcp(v6: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0);
    let ip = match v6 {
        true => ethernet.ipv6(PEER6.octets(), OUR6.octets(), 64),
        false => ethernet.ipv4(PEER.octets(), OUR.octets(), 64),
    };
    let mut frame = Vec::new();
    ip.tcp(5, 7, 9, 1000).write(&mut frame, b"hello").unwrap();
    frame
}

/// Looks at the frame both ways. Returns whether the short one is enough, but for the addresses.
#[track_caller]
fn is_plain(bench: &mut Bench, frame: &[u8], addresses: bool) -> bool {
    let plain = bench.link.plain_tcp(frame).map(|(packet, len)| (packet.to_vec(), len));
    let Some((packet, header_len)) = plain else { return false };
    match bench.receive(frame) {
        Ingress::Tcp(closer) => {
            assert_eq!(closer.bytes(), packet);
            assert_eq!(closer.payload(), &packet[header_len..]);
        }
        other => assert!(addresses, "{other:?}"),
    }
    true
}

#[test]
fn what_is_plain_is_a_whole_tcp_packet_for_us() {
    let mut bench = Bench::acquainted(config6());
    for v6 in [false, true] {
        let frame = tcp(v6);
        assert!(is_plain(&mut bench, &frame, false));
        let mut padded = frame.clone();
        padded.resize(frame.len() + 7, 0xee);
        assert!(is_plain(&mut bench, &padded, false), "padding is cut off");
        for len in 0..frame.len() {
            assert!(!is_plain(&mut bench, &frame[..len], false), "{len} bytes of it");
        }
        let mut own = frame.clone();
        own[6..12].copy_from_slice(&OUR_MAC.0);
        assert!(!is_plain(&mut bench, &own, false), "from ourselves");
        let addresses = if v6 { 22..54 } else { 26..34 };
        let mut plain = 0;
        for bit in 0..8 * frame.len() {
            let flip = |f: &mut [u8]| f[bit / 8] ^= 1 << (bit % 8);
            let mut raw = frame.clone();
            flip(&mut raw);
            let raw = is_plain(&mut bench, &raw, addresses.contains(&(bit / 8)));
            assert!(v6 || !raw || !(14..34).contains(&(bit / 8)), "a wrong sum at bit {bit}");
            // Not the header's length: the helper that mends the sum would have to believe it.
            if !v6 && bit / 8 > 14 {
                plain +=
                    usize::from(is_plain(&mut bench, &patched(&frame, flip), addresses.contains(&(bit / 8))));
            }
        }
        assert!(v6 || plain > 300, "most bits do not matter here: {plain}");
    }
}

#[test]
fn tagged_frames_and_options_need_a_closer_look() {
    let mut bench = Bench::new(config());
    let options = patched(&tcp(false), |f| f[14] = 0x46);
    assert!(!is_plain(&mut bench, &options, false));
    let mut config = config();
    config.vlan = Some(5);
    let mut tagged = Bench::new(config);
    assert!(!is_plain(&mut tagged, &tcp(false), false), "without its tag it is not for us");
}
