//! A vhost-user frontend that sends any messages with any files.
#![no_main]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pmd::Region;
use pmd::mem::{PageSize, RegionConfig};
use pmd::virtio::attach::{Follower, Position};
use pmd::virtio::spec::feature;
use pmd::virtio::transport::vhost_user_server::{ServerConfig, VhostUserServer};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Our side, for all runs: a frontend that misbehaves must not spoil it for the next one.
struct Backend {
    server: VhostUserServer,
    followers: Vec<Follower>,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
    memory: Arc<Region>,
    event: EventFd,
    folder: File,
    device: File,
}

impl Backend {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let offered = feature::VERSION_1
            | feature::MRG_RXBUF
            | feature::RING_PACKED
            | feature::IN_ORDER
            | feature::EVENT_IDX
            | feature::INDIRECT_DESC;
        let config = ServerConfig { path: path.clone(), features: offered, queues: 2, config: vec![2; 12] };
        let (server, followers) = VhostUserServer::start(config).expect("a socket");
        let region = RegionConfig { len_bytes: 0x4000, page: PageSize::Ordinary, numa_node: None };
        Self {
            server,
            followers,
            path,
            memory: Region::new(region).expect("ordinary memory"),
            event: EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).expect("an eventfd"),
            folder: File::open("/").expect("a folder"),
            device: File::open("/dev/zero").expect("a device"),
            _folder: folder,
        }
    }

    fn fd(&self, kind: u8) -> i32 {
        match kind & 7 {
            0..=2 => self.memory.fd().as_raw_fd(),
            3..=5 => self.event.as_raw_fd(),
            6 => self.folder.as_raw_fd(),
            _ => self.device.as_raw_fd(),
        }
    }

    /// One message: request, flags, how many files and which, how long it claims to be beyond what it is, its body.
    /// Returns what is left of the input, `None` when the server has hung up.
    fn send<'a>(&mut self, socket: &UnixStream, input: &'a [u8]) -> Option<&'a [u8]> {
        let [request, flags, files, excess, len, rest @ ..] = input else { return None };
        let (body, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        let size = u32::try_from(body.len()).ok()?.wrapping_add_signed(i32::from(excess.cast_signed()));
        let mut bytes = Vec::new();
        for word in [u32::from(*request), 1 | u32::from(flags & 8), size] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        let fds: Vec<i32> = (0..files & 7).map(|at| self.fd(files >> 3 ^ at)).collect();
        let sent = if fds.is_empty() {
            std::io::Write::write_all(&mut &*socket, &bytes).is_ok()
        } else {
            socket.send_with_fds(&[&bytes[..]], &fds).is_ok()
        };
        // The core comes by now and then; and whatever was answered must not fill the socket.
        for follower in &mut self.followers {
            if follower.changed() {
                follower.switch(Position::default());
            }
        }
        let mut answer = [0; 4096];
        let open = !matches!((&*socket).read(&mut answer), Ok(0));
        (sent && open).then_some(rest)
    }
}

static BACKEND: Mutex<Option<Backend>> = Mutex::new(None);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut backend = BACKEND.lock().expect("no panic so far");
    let backend = backend.get_or_insert_with(Backend::start);
    let socket = UnixStream::connect(&backend.path).expect("the server listens");
    socket.set_nonblocking(true).expect("a socket");
    let mut left = Some(data);
    while let Some(input) = left {
        left = backend.send(&socket, input);
    }
    drop(socket);
    let deadline = Instant::now() + Duration::from_secs(10);
    while backend.server.status().connected {
        for follower in &mut backend.followers {
            if follower.changed() {
                follower.switch(Position::default());
            }
        }
        assert!(Instant::now() < deadline, "the server does not see that the frontend left");
        std::thread::yield_now();
    }
});
