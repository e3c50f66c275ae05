//! A frontend that lies: random and malformed messages with random file descriptors.
//!
//! Alone in its process, because it counts the process's file descriptors and mappings.

#![allow(missing_docs)]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pmd::Region;
use pmd::mem::{PageSize, RegionConfig};
use pmd::virtio::attach::{Follower, Position};
use pmd::virtio::spec::feature;
use pmd::virtio::transport::vhost_user::{ANSWER_WITHIN, VhostUser, VhostUserConfig};
use pmd::virtio::transport::vhost_user_server::{ServerConfig, VhostUserServer};
use pmd::virtio::transport::{RingLayout, Transport};
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const SET_MEM_TABLE: u32 = 5;

/// What may come along with a message.
#[derive(Clone, Copy, Debug)]
enum Attached {
    Memory,
    Event,
    Folder,
    Pipe,
    Device,
}

/// One message, not necessarily one that means anything.
#[derive(Clone, Debug)]
struct Message {
    request: u32,
    flags: u32,
    /// Off by so much from the length of the body.
    size_error: i32,
    body: Vec<u8>,
    attached: Vec<Attached>,
}

/// Numbers that lie on the edges of what is allowed.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0_u64),
        Just(1),
        Just(2),
        Just(3),
        Just(64),
        Just(256),
        Just(0x1000),
        Just(0x10_0000),
        Just(0x10_1000),
        Just(0x10_2000),
        Just(0xf_ffff),
        Just(0xffff),
        Just(0x8000),
        Just(0x101),
        Just(u64::from(u32::MAX)),
        Just(1 << 63),
        Just(u64::MAX),
        Just(u64::MAX - 0xfff),
        Just(feature::VERSION_1 | feature::VHOST_USER_PROTOCOL),
        any::<u64>(),
    ]
}

fn words(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(number(), count)
        .prop_map(|words| words.into_iter().flat_map(u64::to_le_bytes).collect())
}

/// A request with a queue, mostly one that exists, and a value, mostly one that means something.
fn vring_state() -> impl Strategy<Value = (u32, Vec<u8>)> {
    let request = prop_oneof![
        (Just(8_u32), prop_oneof![Just(64_u32), Just(128), Just(32), Just(100)]),
        (
            Just(10_u32),
            prop_oneof![
                0_u32..0x1_0000,
                (0_u32..128, 0_u32..128)
                    .prop_map(|(available, used)| { 0x8000_8000 | used << 16 | available })
            ]
        ),
        (Just(11_u32), Just(0_u32)),
        (Just(18_u32), 0_u32..2),
    ];
    let value = prop_oneof![15 => Just(None), 1 => any::<u32>().prop_map(Some)];
    let queue = prop_oneof![30 => 0_u32..2, 1 => any::<u32>()];
    (request, value, queue).prop_map(|((request, usual), other, queue)| {
        (request, [queue.to_le_bytes(), other.unwrap_or(usual).to_le_bytes()].concat())
    })
}

/// Addresses in the memory table that `memory_table` makes, or nowhere.
fn vring_addresses() -> impl Strategy<Value = Vec<u8>> {
    let address = || prop_oneof![40 => (0_u64..0x68).prop_map(|at| 0x10_0000 + at * 0x80), 1 => number()];
    (prop_oneof![20 => 0_u32..2, 1 => 2_u32..9], address(), address(), address()).prop_map(
        |(queue, descriptors, used, available)| {
            let mut body = [queue.to_le_bytes(), 0_u32.to_le_bytes()].concat();
            for address in [descriptors, used, available, 0] {
                body.extend(address.to_le_bytes());
            }
            body
        },
    )
}

fn memory_table() -> impl Strategy<Value = Vec<u8>> {
    let good = Just(vec![0x10_0000_u64, 0x4000, 0x10_0000, 0]);
    let region = prop_oneof![3 => good, 1 => prop::collection::vec(number(), 4)];
    (prop::collection::vec(region, 1..10), prop::option::weighted(0.1, any::<u32>())).prop_map(
        |(regions, count)| {
            let count = count.unwrap_or(u32::try_from(regions.len()).unwrap());
            let mut body = [count.to_le_bytes(), 0_u32.to_le_bytes()].concat();
            body.extend(regions.concat().into_iter().flat_map(u64::to_le_bytes));
            body
        },
    )
}

fn attached(most: usize) -> impl Strategy<Value = Vec<Attached>> {
    let one = prop_oneof![
        4 => Just(Attached::Memory),
        4 => Just(Attached::Event),
        1 => Just(Attached::Folder),
        1 => Just(Attached::Pipe),
        1 => Just(Attached::Device),
    ];
    prop::collection::vec(one, 0..most)
}

fn message() -> impl Strategy<Value = Message> {
    let anything = (0_u32..50, words(0..8), attached(12));
    let table = (Just(SET_MEM_TABLE), memory_table(), attached(4));
    let one_region = (
        Just(SET_MEM_TABLE),
        Just([1_u64, 0x10_0000, 0x4000, 0x10_0000, 0].map(u64::to_le_bytes).concat()),
        Just(vec![Attached::Memory]),
    );
    let features = (Just(2_u32), words(1..2), Just(Vec::new()));
    let accepted = Just((feature::VERSION_1 | feature::VHOST_USER_PROTOCOL).to_le_bytes().to_vec());
    let packed = Just(
        (feature::VERSION_1 | feature::VHOST_USER_PROTOCOL | feature::RING_PACKED).to_le_bytes().to_vec(),
    );
    let good_features = (Just(2_u32), prop_oneof![accepted, packed], Just(Vec::new()));
    let rarely = || prop_oneof![30 => Just(Vec::new()), 1 => attached(3)];
    let state = (vring_state(), rarely()).prop_map(|((request, body), attached)| (request, body, attached));
    let addresses = (Just(9_u32), vring_addresses(), rarely());
    let event = (12_u32..15, (0_u64..3).prop_map(|queue| queue.to_le_bytes().to_vec()), attached(3));
    let good_event =
        (12_u32..15, (0_u64..2).prop_map(|queue| queue.to_le_bytes().to_vec()), Just(vec![Attached::Event]));
    let parts = prop_oneof![
        2 => anything,
        2 => table,
        15 => one_region,
        1 => features,
        15 => good_features,
        40 => state,
        30 => addresses,
        2 => event,
        30 => good_event,
    ];
    let flags = prop_oneof![200 => Just(1_u32), 100 => Just(9), 1 => any::<u32>()];
    let size_error = prop_oneof![400 => Just(0_i32), 1 => -8..8, 1 => Just(0x2000), 1 => Just(i32::MIN)];
    (parts, flags, size_error).prop_map(|((request, body, attached), flags, size_error)| Message {
        request,
        flags,
        size_error,
        body,
        attached,
    })
}

/// A handshake as it should be, for one virtqueue after the other: lies are told after some of it.
fn handshake() -> Vec<Message> {
    let message = |request, words: &[u64], attached: &[Attached]| Message {
        request,
        flags: 1,
        size_error: 0,
        body: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        attached: attached.to_vec(),
    };
    let mut messages = vec![
        message(3, &[], &[]),
        message(2, &[feature::VERSION_1 | feature::VHOST_USER_PROTOCOL], &[]),
        message(SET_MEM_TABLE, &[1, 0x10_0000, 0x4000, 0x10_0000, 0], &[Attached::Memory]),
    ];
    for queue in 0..2 {
        let state = |value: u64| value << 32 | queue;
        let base = 0x10_0000 + queue * 0x2000;
        messages.extend([
            message(8, &[state(64)], &[]),
            message(10, &[state(0)], &[]),
            message(9, &[state(0), base, base + 0x1000, base + 0x800, 0], &[]),
            message(13, &[queue], &[Attached::Event]),
            message(12, &[queue], &[Attached::Event]),
            message(18, &[state(1)], &[]),
        ]);
    }
    messages
}

/// One of each kind of file, to be sent as often as wanted.
struct Files {
    memory: Arc<Region>,
    event: EventFd,
    folder: File,
    pipe: std::io::PipeReader,
    device: File,
}

impl Files {
    fn fd(&self, kind: Attached) -> i32 {
        match kind {
            Attached::Memory => self.memory.fd().as_raw_fd(),
            Attached::Event => self.event.as_raw_fd(),
            Attached::Folder => self.folder.as_raw_fd(),
            Attached::Pipe => self.pipe.as_raw_fd(),
            Attached::Device => self.device.as_raw_fd(),
        }
    }
}

/// Sends the message; `false` once the server has hung up.
fn send(socket: &UnixStream, message: &Message, files: &Files) -> bool {
    let size = i32::try_from(message.body.len()).unwrap().wrapping_add(message.size_error);
    let mut bytes = Vec::new();
    for word in [message.request, message.flags, size.cast_unsigned()] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(&message.body);
    let fds: Vec<i32> = message.attached.iter().map(|kind| files.fd(*kind)).collect();
    let sent = if fds.is_empty() {
        std::io::Write::write(&mut &*socket, &bytes).is_ok()
    } else {
        socket.send_with_fds(&[&bytes[..]], &fds).is_ok()
    };
    // Whatever was answered is not looked at, but must not fill the socket either.
    socket.set_nonblocking(true).unwrap();
    let answered = (&*socket).read(&mut [0; 4096]);
    socket.set_nonblocking(false).unwrap();
    sent && !matches!(answered, Ok(0))
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Mappings of memory that came from elsewhere.
fn memfd_mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().matches("/memfd:").count()
}

fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The polling core, in a thread of its own: follows every change.
struct Core {
    /// Virtqueues held now, and ever.
    held: AtomicUsize,
    ever: AtomicUsize,
    stop: AtomicBool,
}

impl Core {
    fn run(&self, mut followers: Vec<Follower>) {
        while !self.stop.load(Ordering::Relaxed) {
            for follower in &mut followers {
                if follower.changed() {
                    let start = follower.ring().map_or(Position::default(), |ring| ring.start);
                    if let Some(ring) = follower.switch(start) {
                        // All of it is mapped, or this would end the process.
                        let _ = ring.used_index();
                        assert!(ring.packed || ring.size.is_power_of_two());
                        self.ever.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            let held = followers.iter().filter(|follower| follower.ring().is_some()).count();
            self.held.store(held, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// A frontend as it should be is served.
fn good_frontend_is_served(path: &Path, core: &Core, region: &Arc<Region>) {
    let config = VhostUserConfig {
        path: path.into(),
        queue_pairs: 1,
        fewer: false,
        control_queue: false,
        answer_within: ANSWER_WITHIN,
    };
    let device = VhostUser::open(&config, Arc::clone(region)).unwrap();
    device.set_driver_features(device.device_features().unwrap()).unwrap();
    for queue in 0..2 {
        let at = |offset| pmd::Iova(region.iova().0 + u64::from(queue) * 0x2000 + offset);
        let layout = RingLayout {
            size: 64,
            packed: false,
            descriptors: at(0),
            available: at(0x800),
            used: at(0x1000),
        };
        device.enable_queue(queue, &layout).unwrap();
    }
    wait_for("both virtqueues are there", || core.held() == 2);
    device.reset().unwrap();
    wait_for("both virtqueues are gone", || core.held() == 0);
}

/// CVE-2019-14818, CVE-2022-0669: eventfds and memory tables sent again and again replace each other.
fn repeated_descriptors_are_closed(path: &Path, core: &Core, files: &Files) {
    let socket = UnixStream::connect(path).unwrap();
    for message in &handshake() {
        assert!(send(&socket, message, files));
    }
    wait_for("both virtqueues are there", || core.held() == 2);
    let (fds, mappings) = (open_fds(), memfd_mappings());
    for message in [2, 6, 7].map(|at| handshake()[at].clone()).iter().cycle().take(300) {
        assert!(send(&socket, message, files));
    }
    // GET_VRING_BASE, whose answer comes after all of that has been done.
    let last = Message { request: 11, body: vec![0; 8], attached: Vec::new(), ..handshake()[0].clone() };
    assert!(send(&socket, &last, files));
    wait_for("the virtqueue stops", || core.held() == 1);
    // Its kick is closed as well.
    wait_for("no descriptor is left over", || open_fds() == fds - 1 && memfd_mappings() == mappings);
}

fn lie_and_look(path: &Path, server: &VhostUserServer, core: &Core, files: &Files) {
    good_frontend_is_served(path, core, &files.memory);
    wait_for("idle", || !server.status().connected);
    let (fds, mappings) = (open_fds(), memfd_mappings());
    let cases = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let again = std::cell::Cell::new(0);
    proptest!(cases, |(truths in 0_usize..=15, lies in prop::collection::vec(message(), 1..100))| {
        let socket = UnixStream::connect(path).unwrap();
        wait_for("it is taken for a frontend", || server.status().connected);
        for message in handshake().iter().take(truths) {
            prop_assert!(send(&socket, message, files));
        }
        wait_for("what is complete is served", || core.held() == [0, 1, 2][truths.saturating_sub(3) / 6]);
        let before = core.ever.load(Ordering::Relaxed);
        for message in &lies {
            if !send(&socket, message, files) {
                break;
            }
        }
        // No more is coming; the server hangs up after the last message or the first that it cannot bear.
        drop(socket.shutdown(std::net::Shutdown::Write));
        while matches!((&socket).read(&mut [0; 4096]), Ok(1..)) {}
        drop(socket);
        wait_for("the virtqueues are gone and the server is idle", || {
            core.held() == 0 && !server.status().connected && open_fds() == fds
        });
        again.set(again.get() + core.ever.load(Ordering::Relaxed) - before);
        prop_assert_eq!(memfd_mappings(), mappings);
    });
    // That virtqueues come up among them shows that they are good lies.
    let again = again.get();
    assert!(again > 0, "no virtqueue was served between lies");
    repeated_descriptors_are_closed(path, core, files);
    wait_for("idle", || !server.status().connected && open_fds() == fds);
    good_frontend_is_served(path, core, &files.memory);
}

#[test]
fn lies_neither_crash_nor_leak_and_the_next_frontend_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let (server, followers) = VhostUserServer::start(ServerConfig {
        path: path.clone(),
        features: feature::VERSION_1 | feature::MRG_RXBUF | feature::RING_PACKED,
        queues: 2,
        config: vec![0; 12],
    })
    .unwrap();
    let memory = RegionConfig { len_bytes: 1 << 16, page: PageSize::Ordinary, numa_node: None };
    let (pipe, _writer) = std::io::pipe().unwrap();
    let files = Files {
        memory: Region::new(memory).unwrap(),
        event: EventFd::new(0).unwrap(),
        folder: File::open(folder.path()).unwrap(),
        pipe,
        device: File::open("/dev/zero").unwrap(),
    };
    let core = Core { held: AtomicUsize::new(0), ever: AtomicUsize::new(0), stop: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        scope.spawn(|| core.run(followers));
        let lied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            lie_and_look(&path, &server, &core, &files);
        }));
        core.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = lied {
            std::panic::resume_unwind(panic);
        }
    });
}
