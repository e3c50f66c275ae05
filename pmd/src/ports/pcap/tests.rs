//! Files in, files out: contents, order, ends, damage, and programs that already know the formats.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::mem::{HomePool, Pool, PoolConfig, Region, RegionConfig};
use crate::pcap::{Reader, Writer};
use crate::port::{Burst, Hub, OpenError, QueueCounters, QueueFault, open};

/// A core with its pool.
struct Bed {
    region: Arc<Region>,
    hub: Hub,
    home: HomePool,
}

impl Bed {
    fn new(mbufs: usize) -> Self {
        let region = Region::new(RegionConfig { len_bytes: 16 << 20, ..Default::default() }).unwrap();
        let pool = Pool::new(&region, PoolConfig { mbufs, ..PoolConfig::default() }).unwrap();
        Self { region, hub: Hub::default(), home: pool.adopt().unwrap() }
    }

    fn open(&self, text: &str) -> Result<Box<dyn Port>, OpenError> {
        let config = OpenConfig {
            region: &self.region,
            hub: &self.hub,
            rx_descriptors: 256,
            tx_descriptors: 256,
            queue_pairs: 1,
            offloads: true,
            interrupts: false,
            data_room_bytes: 2048,
        };
        open(text, &config)
    }

    /// Sends back whatever is received until the input has ended, and stops the port.
    fn reflect(&self, text: &str) -> (QueueCounters, Option<QueueFault>) {
        let mut port = self.open(text).unwrap();
        let mut pair = port.take_queue_pairs().pop().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut burst = Burst::new();
        while port.input() != Input::Ended {
            assert!(Instant::now() < deadline, "{text}: no end after {:?}", pair.counters());
            let budget = pair.tx_room().min(64);
            pair.rx_burst(&self.home, &mut burst, budget);
            pair.tx_burst(&mut burst);
            assert!(burst.is_empty());
        }
        pair.quiesce();
        port.stop().unwrap();
        (pair.counters(), pair.fault())
    }
}

/// Frames of all kinds of lengths, each with its time in nanoseconds.
fn frames(count: u64) -> Vec<(u64, Vec<u8>)> {
    let lengths = [14, 15, 60, 61, 64, 127, 128, 1000, 1514, 1518, 2048, 2049, 9000, 65_553];
    let frame = |index: u64| {
        let len = lengths[index as usize % lengths.len()];
        let bytes = (0..len).map(|at| (index * 31 + at as u64 * 7) as u8).collect();
        (1_700_000_000_123_456_789 + index * 1_001, bytes)
    };
    (0..count).map(frame).collect()
}

fn write_pcapng(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let mut writer = Writer::new(fs::File::create(path).unwrap()).unwrap();
    writer.interface("test", "", 0).unwrap();
    for (time_ns, bytes) in frames {
        writer.frame(0, *time_ns, bytes.len() as u32, &[bytes], None).unwrap();
    }
}

/// A classic capture: microseconds or nanoseconds, either byte order.
fn write_pcap(path: &Path, frames: &[(u64, Vec<u8>)], ns: bool, big_endian: bool) {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = word(if ns { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }).to_vec();
    file.extend(if big_endian { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    file.extend([0, 0, 262_144, 1].map(word).as_flattened());
    for (time_ns, bytes) in frames {
        let fraction = (time_ns % 1_000_000_000) / if ns { 1 } else { 1000 };
        let len = bytes.len() as u32;
        let header = [(time_ns / 1_000_000_000) as u32, fraction as u32, len, len];
        file.extend(header.map(word).as_flattened());
        file.extend(bytes);
    }
    fs::write(path, file).unwrap();
}

fn read(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let mut reader = Reader::new(fs::File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next(|frame| (frame.time_ns, frame.bytes.to_vec())).unwrap() {
        frames.push(frame);
    }
    frames
}

fn contents(frames: &[(u64, Vec<u8>)]) -> Vec<&[u8]> {
    frames.iter().map(|(_, bytes)| &bytes[..]).collect()
}

#[test]
fn every_format_goes_through_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out.pcapng"));
    let sent = frames(1000);
    let bed = Bed::new(512);
    for format in 0..5 {
        match format {
            0 => write_pcapng(&input, &sent),
            1 => write_pcap(&input, &sent, false, false),
            2 => write_pcap(&input, &sent, true, false),
            3 => write_pcap(&input, &sent, false, true),
            _ => write_pcap(&input, &sent, true, true),
        }
        let (counters, fault) = bed.reflect(&format!("pcap:in={},out={}", input.display(), output.display()));
        assert_eq!(fault, None);
        let bytes: usize = sent.iter().map(|(_, bytes)| bytes.len()).sum();
        let expected = QueueCounters {
            rx_packets: 1000,
            rx_bytes: bytes as u64,
            tx_packets: 1000,
            tx_bytes: bytes as u64,
            ..QueueCounters::default()
        };
        assert_eq!(counters, expected);
        let received = read(&output);
        assert!(contents(&received) == contents(&sent), "format {format}");
        assert!(received.is_sorted_by_key(|(time_ns, _)| *time_ns));
    }
    let levels = bed.home.levels();
    assert_eq!(levels.free, levels.mbufs);
}

#[test]
fn times_are_written_to_the_nanosecond() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let sent = frames(20);
    write_pcapng(&path, &sent);
    assert!(read(&path) == sent);
}

#[test]
fn passes_follow_each_other_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let sent = frames(7);
    write_pcapng(&input, &sent);
    let bed = Bed::new(512);
    bed.reflect(&format!("pcap:in={},out={},loop=3", input.display(), output.display()));
    let three: Vec<_> = [&sent[..], &sent, &sent].concat();
    assert!(contents(&read(&output)) == contents(&three));
}

#[test]
fn a_capture_without_end_is_left_when_the_port_stops() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write_pcapng(&input, &frames(7));
    let bed = Bed::new(512);
    let mut port = bed.open(&format!("pcap:in={},loop=forever", input.display())).unwrap();
    let mut pair = port.take_queue_pairs().pop().unwrap();
    assert!(port.take_queue_pairs().is_empty());
    let mut burst = Burst::new();
    while pair.counters().rx_packets < 700 {
        pair.rx_burst(&bed.home, &mut burst, 64);
        burst.clear();
    }
    assert_eq!((port.input(), port.link()), (Input::Left, Link::Up));
    port.stop().unwrap();
    port.stop().unwrap();
    assert_eq!(port.link(), Link::Down);
    assert_eq!((pair.rx_burst(&bed.home, &mut burst, 64), pair.tx_room()), (0, 0));
}

#[test]
fn original_speed_keeps_the_times_between_frames() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    let sent: Vec<_> = (0..5).map(|index| (index * 40_000_000, vec![index as u8; 60])).collect();
    write_pcapng(&input, &sent);
    let bed = Bed::new(512);
    for (speed, shortest) in [("original", 160), ("2x", 80), ("max", 0)] {
        let began = Instant::now();
        let (counters, _) = bed.reflect(&format!("pcap:in={},speed={speed}", input.display()));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(shortest), "{speed}: {took:?}");
        assert!(took < Duration::from_millis(shortest + 2000), "{speed}: {took:?}");
        assert_eq!((counters.rx_packets, counters.tx_errors), (5, 5), "no out= to send to");
    }
}

#[test]
fn a_cut_last_record_loses_nothing_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let sent = frames(4);
    let bed = Bed::new(512);
    for classic in [false, true] {
        if classic {
            write_pcap(&input, &sent, true, false)
        } else {
            write_pcapng(&input, &sent)
        }
        let whole = fs::read(&input).unwrap();
        for cut in [1, 5, 30, 59] {
            fs::write(&input, &whole[..whole.len() - cut]).unwrap();
            let (_, fault) = bed.reflect(&format!("pcap:in={},out={}", input.display(), output.display()));
            assert_eq!(fault, None);
            assert!(contents(&read(&output)) == contents(&sent[..3]), "{cut} bytes cut off");
        }
    }
}

#[test]
fn damage_stops_the_queue_behind_the_frames_before_it_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    let sent = frames(4);
    write_pcapng(&input, &sent);
    let mut file = fs::read(&input).unwrap();
    // The last block's first length: no multiple of four, and shorter than a header.
    let last = file.len() - (32 + 61_usize.next_multiple_of(4));
    file[last + 4..last + 8].copy_from_slice(&[9, 0, 0, 0]);
    fs::write(&input, &file).unwrap();
    let bed = Bed::new(512);
    let (counters, fault) = bed.reflect(&format!("pcap:in={}", input.display()));
    assert_eq!((counters.rx_packets, counters.faults), (3, 1));
    assert_eq!(fault, Some(QueueFault::FileDamaged { offset: last as u64 }));
}

#[test]
fn what_cannot_be_opened_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let bed = Bed::new(512);
    let problem = |text: String| {
        let error = bed.open(&text).err().unwrap_or_else(|| panic!("{text} opened"));
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    };
    fs::write(at("text"), "hello, this is text and no capture file").unwrap();
    write_pcapng(Path::new(&at("good")), &frames(1));
    let other = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 113, 0, 0, 0];
    fs::write(at("cooked"), [&other[..], &[0; 8], &[20, 0, 0, 0, 20, 0, 0, 0], &[0; 20]].concat()).unwrap();
    for (text, says) in [
        (format!("pcap:in={}", at("none")), "cannot read capture"),
        (format!("pcap:in={}", at("none")), "No such file"),
        (format!("pcap:in={}", at("")), "Is a directory"),
        (format!("pcap:in={}", at("text")), "no pcap or pcapng file"),
        (format!("pcap:in={}", at("cooked")), "link type 113, not Ethernet"),
        (format!("pcap:in={},out={}", at("good"), at("no/folder")), "cannot write capture"),
        (format!("pcap:in={},out={}", at("good"), at("good")), "read and written at once"),
    ] {
        let told = problem(text.clone());
        assert!(told.contains(says), "{text}: {told}");
    }
    assert_eq!(read(Path::new(&at("good"))).len(), 1, "refusals empty no file");
    let first = bed.open(&format!("pcap:out={}", at("busy"))).unwrap();
    assert!(problem(format!("pcap:out={}", at("busy"))).contains("another port or process writes"));
    drop(first);
    bed.open(&format!("pcap:out={}", at("busy"))).unwrap();
}

#[test]
fn a_device_that_is_full_stops_sending_and_is_an_error_at_the_end() {
    let bed = Bed::new(512);
    let mut port = bed.open("pcap:out=/dev/full").err().map(|error| error.to_string());
    // The header is written at once, so this is known at the start.
    assert!(port.take().unwrap().contains("not full"));
}

#[test]
fn an_empty_pool_loses_no_frame() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write_pcapng(&input, &frames(40));
    let bed = Bed::new(64);
    let mut port = bed.open(&format!("pcap:in={}", input.display())).unwrap();
    let mut pair = port.take_queue_pairs().pop().unwrap();
    let held: Vec<_> = bed.home.alloc_bulk(64).collect();
    let mut burst = Burst::new();
    while pair.counters().rx_nombuf < 3 {
        assert_eq!(pair.rx_burst(&bed.home, &mut burst, 64), 0);
    }
    drop(held);
    let mut received = 0;
    while port.input() != Input::Ended {
        received += pair.rx_burst(&bed.home, &mut burst, 64);
        burst.clear();
    }
    assert_eq!(received, 40);
    let mut events = Vec::new();
    port.events(&mut |event| events.push(event));
    port.events(&mut |event| events.push(event));
    assert_eq!(events, [PortEvent::Gone { why: "its capture is at its end".to_owned() }]);
    assert_eq!(port.link(), Link::Down);
}

/// What tcpdump, which knows nothing of us, makes of our file.
#[test]
fn tcpdump_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.resize(77, 0xee);
    write_pcapng(&path, &[(1_700_000_000_123_456_789, frame)]);
    let run =
        std::process::Command::new("tcpdump").args(["-tt", "-e", "-nn", "--nano", "-r"]).arg(&path).output();
    let output = match run {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: no tcpdump: {error}; `apt install tcpdump`");
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("1700000000.123456789 02:00:00:00:00:02 > 02:00:00:00:00:01"),
        "{text}{output:?}"
    );
    assert!(text.contains("length 77"), "{text}");
}

/// A pipe with a name.
fn pipe(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_pipe_gives_frames_as_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = pipe(folder.path());
    let bed = Bed::new(64);
    // Nobody writes yet.
    let mut port = bed.open(&format!("pcap:in={}", path.display())).unwrap();
    let mut pair = port.take_queue_pairs().pop().unwrap();
    let mut writer = Writer::new(fs::OpenOptions::new().write(true).open(&path).unwrap()).unwrap();
    writer.interface("test", "", 0).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    for (number, (time_ns, bytes)) in frames(3).iter().enumerate() {
        writer.frame(0, *time_ns, bytes.len() as u32, &[bytes], None).unwrap();
        writer.flush().unwrap();
        let mut burst = Burst::new();
        while pair.rx_burst(&bed.home, &mut burst, 64) == 0 {
            assert!(Instant::now() < deadline, "frame {number} does not come");
        }
        assert_eq!(burst[0].data(), bytes);
        assert_eq!(port.input(), Input::Left);
    }
    drop(writer);
    while port.input() != Input::Ended {
        assert!(Instant::now() < deadline, "the writer's end is not seen");
        pair.rx_burst(&bed.home, &mut Burst::new(), 64);
    }
    assert_eq!(pair.fault(), None);
}

#[test]
fn a_pipe_that_nobody_writes_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("pcap:in={}", pipe(folder.path()).display());
    let began = Instant::now();
    let mut port = Bed::new(64).open(&text).unwrap();
    port.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_pipe_with_something_else_in_it_is_damaged_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = pipe(folder.path());
    let bed = Bed::new(64);
    let mut port = bed.open(&format!("pcap:in={}", path.display())).unwrap();
    let mut pair = port.take_queue_pairs().pop().unwrap();
    fs::write(&path, [b'x'; 100]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while port.input() != Input::Ended {
        assert!(Instant::now() < deadline);
        pair.rx_burst(&bed.home, &mut Burst::new(), 64);
    }
    assert_eq!(pair.fault(), Some(QueueFault::FileDamaged { offset: 0 }));
}

#[test]
fn a_pipe_that_is_read_later_gets_all_that_was_sent_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = pipe(folder.path());
    let bed = Bed::new(64);
    let mut port = bed.open(&format!("pcap:out={}", path.display())).unwrap();
    let mut pair = port.take_queue_pairs().pop().unwrap();
    let mut burst = Burst::new();
    let sent = frames(5);
    for (_, bytes) in &sent {
        let mut frame = bed.home.alloc().unwrap();
        frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
        burst.push(frame);
    }
    assert_eq!(pair.tx_burst(&mut burst), 5);
    let mut reader = Reader::new(fs::File::open(&path).unwrap()).unwrap();
    for (_, bytes) in &sent {
        assert_eq!(reader.next(|frame| frame.bytes.to_vec()).unwrap().as_ref(), Some(bytes));
    }
    port.stop().unwrap();
    assert!(reader.next(|_| ()).unwrap().is_none());
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = pipe(folder.path());
    let text = format!("pcap:out={}", path.display());
    let began = Instant::now();
    let mut port = Bed::new(64).open(&text).unwrap();
    port.stop().unwrap();
    // Nor one whose reader takes nothing.
    let bed = Bed::new(64);
    let mut port = bed.open(&text).unwrap();
    let _reader = fs::File::open(&path).unwrap();
    let mut pair = port.take_queue_pairs().pop().unwrap();
    let mut burst = Burst::new();
    for _ in 0..200 {
        let mut frame = bed.home.alloc().unwrap();
        frame.append(1500).unwrap().fill(0xee);
        burst.push(frame);
        assert_eq!(pair.tx_burst(&mut burst), 1);
    }
    port.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
