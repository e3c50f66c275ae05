//! The web server end to end: two stacks over a `loop:` link in this process, without root or hardware. Its clients are
//! `load` and one that says exactly what a test wants said.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bywash::programs::http::HttpConfig;
use bywash::programs::http::librarian::{Librarian, Shelf};
use bywash::programs::http::service::Http;
use bywash::programs::http::site::Site;
use bywash::programs::load::target::Host;
use bywash::programs::load::{Load, LoadConfig, Protocol};
use engine::stats::Snapshot;
use engine::{Engine, Running, StackSettings};
use pmd::mem::PageSize;
use stack::{
    Closed, Conn, ConnId, ConnectOptions, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, ListenOptions,
    Net, Service, Share, TcpOptions,
};

const PATIENCE: Duration = Duration::from_secs(60);
const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);

fn settings(host: u8) -> StackSettings {
    let addresses = vec![IpCidr::new(IpAddress::v4(10, 0, 0, host), 24)];
    StackSettings { addresses, ..StackSettings::default() }
}

fn server(site: Site, shelf: Option<Shelf>, idle: Duration) -> Http {
    Http::new(HttpConfig {
        at: IpListenEndpoint { addr: None, port: 80 },
        listen: ListenOptions::default(),
        site: Arc::new(site),
        shelf,
        idle,
        connections: 64,
    })
}

fn start(client: impl Service + 'static, server: Http) -> Running {
    let mut engine = Engine::builder();
    engine.memory(PageSize::Ordinary, None).descriptors(256, 256);
    let ports = [engine.port("loop:a"), engine.port("loop:b")];
    let lcore = engine.lcore(None);
    let (mut client, mut server) = (Some(client), Some(server));
    engine.stack(&[lcore], ports[0], &settings(1), |_| client.take().unwrap());
    engine.stack(&[lcore], ports[1], &settings(2), |_| server.take().unwrap());
    engine.start().unwrap()
}

/// Runs until the client is done.
#[track_caller]
fn finish(running: Running) -> Snapshot {
    let start = Instant::now();
    while !running.is_done() {
        assert!(start.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    running.stop().unwrap()
}

/// Says its words on one connection and keeps what comes back, until the server ends the connection.
struct Browser {
    words: Vec<u8>,
    said: usize,
    came: Arc<Mutex<Vec<u8>>>,
    /// Ends its own side after its words.
    half_closes: bool,
    conn: Option<ConnId>,
    why: Option<Closed>,
}

impl Browser {
    fn new(words: impl Into<Vec<u8>>) -> (Browser, Arc<Mutex<Vec<u8>>>) {
        let came = Arc::new(Mutex::new(Vec::new()));
        let words = words.into();
        (Browser { words, said: 0, came: Arc::clone(&came), half_closes: false, conn: None, why: None }, came)
    }

    fn go_on(&mut self, conn: &mut Conn<'_>) {
        if self.said < self.words.len() {
            self.said += conn.send_slice(&self.words[self.said..]);
            if self.said == self.words.len() && self.half_closes {
                conn.close();
            }
        }
        let mut came = self.came.lock().unwrap();
        while conn.recv_queue() > 0 {
            conn.recv(|bytes| {
                came.extend_from_slice(bytes);
                (bytes.len(), ())
            });
        }
        if conn.peer_finished() {
            conn.close();
        }
    }
}

impl Service for Browser {
    fn configured(&mut self, net: &mut Net<'_>) {
        let to = IpEndpoint::new(SERVER, 80);
        let options = ConnectOptions { tcp: TcpOptions::default(), ..ConnectOptions::default() };
        self.conn.get_or_insert_with(|| net.connect(to, options).unwrap());
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.go_on(conn);
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        self.go_on(conn);
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, why: Closed, _net: &mut Net<'_>) {
        self.why = Some(why);
    }

    fn is_done(&self) -> bool {
        self.why.is_some()
    }
}

/// What the server says to `words`, until it ends the connection.
#[track_caller]
fn say(words: impl Into<Vec<u8>>, server: Http) -> Vec<u8> {
    let (browser, came) = Browser::new(words);
    let snapshot = finish(start(browser, server));
    assert_eq!(snapshot.counters().get("errors"), 0);
    let came = came.lock().unwrap();
    came.clone()
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn requests_of_many_connections_are_answered_and_counted_at_both_ends() {
    for (connections, pipeline, reconnect, requests) in
        [(1, 1, false, 1_000), (32, 4, false, 20_000), (8, 1, true, 1_000)]
    {
        let config = LoadConfig {
            host: Host::Address(SERVER),
            port: 80,
            protocol: Protocol::Http,
            connections,
            pipeline,
            reconnect,
            requests: Some(requests),
            ..LoadConfig::default()
        };
        let client = Load::new(&config, Share::default());
        let snapshot = finish(start(client, server(Site::fixed("hello"), None, LONG)));
        let counters = snapshot.counters();
        for wrong in ["errors", "lost", "timeouts", "status_4xx", "status_5xx"] {
            assert_eq!(counters.get(wrong), 0, "{wrong}: {counters:?}");
        }
        assert_eq!(
            (counters.get("status_200"), counters.get("status_2xx")),
            (requests, requests),
            "{counters:?}"
        );
    }
}

#[test]
fn files_come_whole_in_parts_and_pipelined_whatever_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..8_000_000_u32).map(|at| (at ^ (at >> 8)).to_le_bytes()[0]).collect();
    fs::write(folder.path().join("large.bin"), &large).unwrap();
    fs::write(folder.path().join("index.html"), "<p>").unwrap();
    let (_librarian, shelves) = Librarian::start(folder.path(), 1 << 30, None, 1).unwrap();
    let words = "GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n\
                 HEAD /large.bin HTTP/1.1\r\nHost: x\r\n\r\n\
                 GET /large.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=-1000\r\n\r\n\
                 GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let came = say(words, server(Site::default(), Some(Arc::clone(&shelves[0])), LONG));
    let mut rest = &came[..];
    let mut next = |status: &str, body_bytes: usize| -> Vec<u8> {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(rest[..end].to_vec()).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let body = rest[end..end + body_bytes].to_vec();
        rest = &rest[end + body_bytes..];
        body
    };
    assert!(next("200", large.len()) == large, "the file is not what was served");
    next("200", 0);
    assert!(next("206", 1000) == large[large.len() - 1000..]);
    assert_eq!(next("200", 3), b"<p>");
    assert!(rest.is_empty());
}

#[test]
fn nonsense_is_answered_and_ends_the_connection() {
    for (words, status) in [
        (&b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"[..], "400"),
        (b"GET / HTTP/1.1\r\n\r\n", "400"),
        (b"DELETE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"),
        (b"GET /../../etc/passwd HTTP/1.0\r\n\r\n", "400"),
        (&[b'x'; 9_000], "431"),
    ] {
        let came = say(words, server(Site::fixed("hello"), None, LONG));
        let text = String::from_utf8_lossy(&came);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{words:?}: {text}");
    }
}

#[test]
fn silent_and_slow_clients_are_ended() {
    let idle = Duration::from_millis(200);
    let begin = Instant::now();
    assert!(say(&b""[..], server(Site::fixed("hello"), None, idle)).is_empty());
    assert!(begin.elapsed() > idle);
    let came = say(&b"GET / HTTP/1.1\r\nHost"[..], server(Site::fixed("hello"), None, idle));
    assert!(came.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&came));
}

#[test]
fn a_client_that_has_finished_gets_its_answers() {
    let (mut browser, came) =
        Browser::new(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]);
    browser.half_closes = true;
    finish(start(browser, server(Site::fixed("hello"), None, LONG)));
    let came = came.lock().unwrap();
    assert_eq!(String::from_utf8_lossy(&came).matches("\r\n\r\nhello").count(), 2);
}
