use super::*;
use std::io::Write;

/// A classic pcap file: microseconds (or nanoseconds), either byte order.
fn pcap(big_endian: bool, nanoseconds: bool, link_type: u32, frames: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = Vec::new();
    file.extend(word(if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }));
    file.extend(half(2));
    file.extend(half(4));
    for value in [0, 0, 65535, link_type] {
        file.extend(word(value));
    }
    for (seconds, fraction, bytes, original) in frames {
        for value in [*seconds, *fraction, u32::try_from(bytes.len()).unwrap(), *original] {
            file.extend(word(value));
        }
        file.extend(*bytes);
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let total = u32::try_from(padded + 12).unwrap();
    let mut block = [kind.to_le_bytes(), total.to_le_bytes()].concat();
    block.extend(body);
    block.resize(8 + padded, 0);
    block.extend(total.to_le_bytes());
    block
}

/// A pcapng file with one interface of the given `if_tsresol` (none: the default, microseconds).
fn pcapng(resolution: Option<u8>, frames: &[(u64, &[u8])]) -> Vec<u8> {
    let mut file =
        block(0x0a0d_0d0a, &[&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    let mut interface = vec![1, 0, 0, 0, 0, 0, 0, 0];
    if let Some(resolution) = resolution {
        interface.extend([9, 0, 1, 0, resolution, 0, 0, 0, 0, 0, 0, 0]);
    }
    file.extend(block(1, &interface));
    for (units, bytes) in frames {
        let len = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let high = u32::try_from(units >> 32).unwrap().to_le_bytes();
        let low = u32::try_from(units & 0xffff_ffff).unwrap().to_le_bytes();
        file.extend(block(6, &[&[0; 4][..], &high, &low, &len, &len, bytes].concat()));
    }
    file
}

fn read(file: &[u8]) -> Result<Capture, CaptureError> {
    let mut temporary = tempfile::NamedTempFile::new().unwrap();
    temporary.write_all(file).unwrap();
    Capture::read(temporary.path(), 1514)
}

#[test]
fn classic_captures_are_read_in_either_byte_order_and_resolution() {
    let (a, b) = ([1; 60], [2; 1514]);
    for (big_endian, nanoseconds, ns) in
        [(false, false, 1_000_007_000), (true, false, 1_000_007_000), (false, true, 1_000_000_007)]
    {
        let capture = read(&pcap(big_endian, nanoseconds, 1, &[(5, 0, &a, 60), (6, 7, &b, 1514)])).unwrap();
        assert_eq!(capture.frames(), 2);
        assert_eq!(capture.frame(0), (&a[..], 0));
        assert_eq!(capture.frame(1), (&b[..], ns));
        assert_eq!((capture.duration_ns(), capture.cut_frames), (ns, 0));
    }
}

#[test]
fn pcapng_times_follow_the_interfaces_resolution() {
    let frame = [3; 61];
    for (resolution, ns) in
        [(None, 5_000), (Some(6), 5_000), (Some(9), 5), (Some(3), 5_000_000), (Some(0x80 | 10), 4_882_812)]
    {
        let units = 1 << 40;
        let capture = read(&pcapng(resolution, &[(units, &frame), (units + 5, &frame)])).unwrap();
        assert_eq!(capture.frames(), 2);
        let (bytes, offset_ns) = capture.frame(1);
        assert_eq!(bytes, &frame[..]);
        assert!(offset_ns.abs_diff(ns) <= 1, "{resolution:?}: {offset_ns}");
    }
}

#[test]
fn frames_cut_by_the_snapshot_length_are_counted() {
    let capture = read(&pcap(false, false, 1, &[(0, 0, &[0; 60], 1514), (0, 0, &[0; 60], 60)])).unwrap();
    assert_eq!(capture.cut_frames, 1);
}

#[test]
fn a_capture_cut_short_anywhere_is_an_error_that_says_so() {
    let whole = pcap(false, false, 1, &[(0, 0, &[0; 60], 60), (0, 1, &[0; 60], 60)]);
    for (len, frames) in
        [(whole.len() - 1, 1), (whole.len() - 60, 1), (whole.len() - 75, 1), (24 + 76 - 10, 0)]
    {
        match read(&whole[..len]).unwrap_err() {
            CaptureError::Content { source: ReadError::Truncated { frames: seen, .. }, .. } => {
                assert_eq!(seen, frames, "cut at {len}");
            }
            other => panic!("cut at {len}: {other}"),
        }
    }
    let whole = pcapng(None, &[(0, &[0; 60]), (1, &[0; 60])]);
    let cut = read(&whole[..whole.len() - 5]);
    let Err(CaptureError::Content { source: ReadError::Truncated { frames: 1, .. }, .. }) = cut else {
        panic!("{cut:?}");
    };
}

#[test]
fn what_is_no_capture_of_ethernet_frames_is_refused_by_name() {
    assert!(matches!(read(b"hello, this is text and no capture file"), Err(CaptureError::Format { .. })));
    assert!(matches!(read(b""), Err(CaptureError::Format { .. })));
    assert!(matches!(read(&pcap(false, false, 1, &[])), Err(CaptureError::Empty { .. })));
    let error = read(&pcap(false, false, 113, &[(0, 0, &[0; 60], 60)])).unwrap_err();
    assert!(matches!(error, CaptureError::NotEthernet { frame: 1, link_type: 113, .. }), "{error}");
    let error = Capture::read(Path::new("/nonexistent/a.pcap"), 1514).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/a.pcap") && matches!(error, CaptureError::Read { .. }));
}

#[test]
fn frames_that_do_not_fit_the_port_are_refused_by_number() {
    for (len, wanted) in [(1515, "raise the MTU"), (13, "takes frames out")] {
        let error =
            read(&pcap(false, false, 1, &[(0, 0, &[0; 60], 60), (0, 0, &vec![0; len], 0)])).unwrap_err();
        assert!(matches!(error, CaptureError::FrameLength { frame: 2, most: 1514, .. }), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_file_panics(mut file in proptest::collection::vec(proptest::num::u8::ANY, 0..300), kind in 0..3) {
        let whole = match kind {
            0 => pcap(false, false, 1, &[(0, 0, &[0; 60], 60)]),
            1 => pcapng(Some(9), &[(0, &[0; 60])]),
            _ => Vec::new(),
        };
        // A right beginning, so that the bytes reach the parser of records.
        let mut with_header = whole;
        with_header.append(&mut file);
        let _ = read(&with_header);
    }

    #[test]
    fn no_damage_panics(places in proptest::collection::vec((0..400usize, proptest::num::u8::ANY), 1..6), kind in 0..2) {
        let mut file = if kind == 0 {
            pcap(false, false, 1, &[(0, 0, &[0; 60], 60), (9, 0, &[0; 60], 60)])
        } else {
            pcapng(Some(9), &[(0, &[0; 60]), (u64::MAX >> 1, &[0; 60])])
        };
        for (at, byte) in places {
            let len = file.len();
            file[at % len] = byte;
        }
        let _ = read(&file);
    }
}
