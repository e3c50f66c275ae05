//! Captures of real loops: contents, order, counts, several at a time, and their ends.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use pmd::pcap::{Direction, Reader};

use super::*;
use crate::news::board;
use crate::{Burst, Cx, Engine, Program};

/// Sends numbered frames of all lengths as fast as there is room.
struct Counting {
    next: u32,
    sent: Arc<AtomicU32>,
}

impl Program for Counting {
    fn receive(&mut self, _: usize, burst: &mut Burst, _: &mut Cx<'_>) {
        burst.clear();
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        for _ in 0..cx.room(0).min(8) {
            let Some(mut frame) = cx.pool.alloc() else { break };
            let len = 60 + self.next as usize % 1400;
            let bytes = frame.append(len).unwrap();
            bytes.fill(self.next as u8);
            bytes[..4].copy_from_slice(&self.next.to_be_bytes());
            cx.send(0, frame);
            self.next += 1;
            self.sent.store(self.next, Ordering::Relaxed);
        }
        true
    }
}

/// Receives and drops.
struct Sink;

impl Program for Sink {
    fn receive(&mut self, _: usize, burst: &mut Burst, _: &mut Cx<'_>) {
        burst.clear();
    }
}

/// Bytes that a test reads while they are written.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Number, length and direction of a frame.
type Seen = (u32, usize, Direction);

/// The frames of a capture, and its last word: passed and missed.
fn read(bytes: Vec<u8>) -> (Vec<Seen>, (u64, u64)) {
    let mut reader = Reader::new(io::Cursor::new(bytes)).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader
        .next(|frame| {
            let number = u32::from_be_bytes(frame.bytes[..4].try_into().unwrap());
            assert!(frame.bytes[4..].iter().all(|byte| *byte == number as u8), "frame {number}");
            (number, frame.original_len, frame.way.unwrap().0)
        })
        .unwrap()
    {
        frames.push(frame);
    }
    let last = reader.statistics()[0];
    (frames, (last.received, last.dropped))
}

fn engine(name: &str, folder: &std::path::Path, sent: &Arc<AtomicU32>) -> crate::Running {
    let mut engine = Engine::builder();
    engine.memory(pmd::mem::PageSize::Ordinary, None).descriptors(256, 256).control(
        crate::control::Control {
            name: name.to_owned(),
            program: "test".to_owned(),
            folder: Some(folder.to_owned()),
            telemetry: None,
            metrics: None,
            required: true,
        },
    );
    let (a, b) = (engine.port("loop:a"), engine.port("loop:b"));
    let core = engine.lcore(None);
    engine.program(core, Counting { next: 0, sent: Arc::clone(sent) }, [a]);
    engine.program(core, Sink, [b]);
    engine.start().unwrap()
}

/// Asks for a dump, reads until `enough`, hangs up, and returns all of it.
fn dump(folder: &crate::control::Folder, fields: serde_json::Value, enough: usize) -> Vec<u8> {
    use std::io::Read;
    let (answer, mut stream) = crate::control::ask(folder, "dump", &fields).unwrap();
    assert_eq!(answer["port"], "loop:b");
    let mut bytes = vec![0; enough];
    stream.read_exact(&mut bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn two_clients_capture_a_running_engine_and_each_frame_is_seen_or_counted() {
    let parent = tempfile::tempdir().unwrap();
    let sent = Arc::<AtomicU32>::default();
    let running = engine("two", parent.path(), &sent);
    let folder = crate::control::Folder::new(parent.path(), "two").unwrap();
    let clients: Vec<_> = [("loop:b", 1 << 20, None), ("1", 300_000, Some(100))]
        .map(|(port, enough, snaplen)| {
            let folder = folder.clone();
            let fields = serde_json::json!({ "port": port, "direction": "in", "snaplen": snaplen });
            thread::spawn(move || dump(&folder, fields, enough))
        })
        .into();
    for client in clients {
        let (frames, (passed, missed)) = read(client.join().unwrap());
        assert!(frames.len() > 500, "{}", frames.len());
        assert_eq!(frames.len() as u64 + missed, passed);
        for pair in frames.windows(2) {
            assert!(pair[0].0 < pair[1].0, "order");
        }
        for (number, len, direction) in &frames {
            assert_eq!((*len, *direction), (60 + *number as usize % 1400, Direction::Rx));
        }
        let last = frames.last().unwrap().0 - frames[0].0 + 1;
        assert!(u64::from(last) - frames.len() as u64 <= missed, "gaps are those that were counted");
    }
    let before = sent.load(Ordering::Relaxed);
    thread::sleep(Duration::from_millis(50));
    assert!(sent.load(Ordering::Relaxed) > before, "the loop went on");
    running.stop().unwrap();
    assert!(!folder.socket().exists() && crate::control::Folder::all(parent.path()).is_empty());
}

#[test]
fn an_engine_that_stops_ends_its_captures_with_their_counts() {
    use std::io::Read;
    let parent = tempfile::tempdir().unwrap();
    let running = engine("stops", parent.path(), &Arc::default());
    let folder = crate::control::Folder::new(parent.path(), "stops").unwrap();
    let fields = serde_json::json!({ "port": "loop:a", "direction": "out" });
    let (_, mut stream) = crate::control::ask(&folder, "dump", &fields).unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    thread::sleep(Duration::from_millis(30));
    running.stop().unwrap();
    let (frames, (passed, missed)) = read(reader.join().unwrap());
    assert!(passed > 0 && frames.len() as u64 + missed == passed);
    assert!(frames.iter().all(|(_, _, direction)| *direction == Direction::Tx));
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let parent = tempfile::tempdir().unwrap();
    let sent = Arc::<AtomicU32>::default();
    let running = engine("slow", parent.path(), &sent);
    let folder = crate::control::Folder::new(parent.path(), "slow").unwrap();
    let fields = serde_json::json!({ "port": "loop:b" });
    let (_, stream) = crate::control::ask(&folder, "dump", &fields).unwrap();
    let begun = sent.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(30);
    while sent.load(Ordering::Relaxed) < begun + 40_000 {
        assert!(Instant::now() < deadline, "the loop waits");
        thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    running.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(stream);
}

#[test]
fn what_cannot_be_asked_is_refused_in_words() {
    use std::io::{BufRead, BufReader, Write};
    let parent = tempfile::tempdir().unwrap();
    let running = engine("asked", parent.path(), &Arc::default());
    let folder = crate::control::Folder::new(parent.path(), "asked").unwrap();
    let refused = |line: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(folder.socket()).unwrap();
        // At once: who is refused half way is hung up on.
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    };
    for (line, says) in [
        ("hello", "one line of JSON"),
        ("{}", "version 1"),
        (r#"{"bywash":2,"request":"engine"}"#, "version 1"),
        (r#"{"bywash":1,"request":"shutdown"}"#, "there are engine, show, stop, dump"),
        (r#"{"bywash":1,"request":"dump"}"#, "missing field `port`"),
        (r#"{"bywash":1,"request":"dump","port":"loop:x"}"#, "there are loop:a, loop:b"),
        (r#"{"bywash":1,"request":"dump","port":"2"}"#, "there are loop:a, loop:b"),
        (r#"{"bywash":1,"request":"dump","port":"0","snaplen":1}"#, "14 are the least"),
        (r#"{"bywash":1,"request":"dump","port":"0","direction":"up"}"#, "unknown variant"),
        (&"x".repeat(5000), "at most 4096 bytes"),
        ("\u{0}", "one line of JSON"),
    ] {
        let answer = refused(line);
        assert!(answer.contains(says) && answer.contains(r#""ok":false"#), "{line}: {answer}");
    }
    let (engine, _) = crate::control::ask(&folder, "engine", &serde_json::json!({})).unwrap();
    assert_eq!(engine["ports"][1]["name"], "loop:b", "{engine}");
    let mut held = Vec::new();
    for _ in 0..MAX_CAPTURES {
        held.push(crate::control::ask(&folder, "dump", &serde_json::json!({ "port": "0" })).unwrap());
    }
    let error = crate::control::ask(&folder, "dump", &serde_json::json!({ "port": "0" })).unwrap_err();
    assert!(error.to_string().contains("8 captures are running already"), "{error}");
    drop(held);
    running.stop().unwrap();
}

#[test]
fn a_core_that_never_turns_is_not_waited_for_long() {
    let (told, _news) = board(Arc::new(door::CoreBell::new()));
    let stopping = Arc::<AtomicBool>::default();
    let captures = Arc::new(Captures::new(vec![told], vec![vec![0]], Tsc::from_hz(1_000_000_000), stopping));
    let spec = CaptureSpec { port: 0, snaplen: 64, ways: Ways::Both };
    let began = Instant::now();
    let mut capture = captures.begin(spec).unwrap();
    let out = Shared::default();
    let totals = capture.stream(out.clone(), "loop:a", "test", &mut || true).unwrap();
    assert_eq!(totals, Totals::default());
    drop(capture);
    assert!(began.elapsed() < WITHIN * 10, "{:?}", began.elapsed());
    assert_eq!(read(out.0.lock().unwrap().clone()), (Vec::new(), (0, 0)));
}
