//! Both ends of vhost-user against each other: the handshake, and what happens when an end goes.
//!
//! The rings are not run here; a stand-in for the polling core follows them as a core would.

#![allow(unsafe_code, missing_docs)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pmd::Region;
use pmd::mem::{PageSize, RegionConfig};
use pmd::virtio::attach::{Follower, Position};
use pmd::virtio::spec::feature;
use pmd::virtio::transport::vhost_user::{ANSWER_WITHIN, VhostUser, VhostUserConfig, VhostUserError};
use pmd::virtio::transport::vhost_user_server::{ServerConfig, ServerError, Status, VhostUserServer};
use pmd::virtio::transport::{Notifier, RingLayout, Transport, TransportError};

const MAC: [u8; 6] = [0x02, 1, 2, 3, 4, 5];
const FEATURES: u64 = feature::VERSION_1 | feature::MRG_RXBUF | feature::MAC | feature::STATUS;

fn region() -> Arc<Region> {
    Region::new(RegionConfig { len_bytes: 1 << 20, page: PageSize::Ordinary, numa_node: None }).unwrap()
}

fn layout(region: &Region, size: u16) -> RingLayout {
    let descriptors = region.carve(16 * usize::from(size), 64).unwrap().iova;
    let available = region.carve(6 + 2 * usize::from(size), 64).unwrap().iova;
    let used = region.carve(6 + 8 * usize::from(size), 64).unwrap().iova;
    RingLayout { size, packed: false, descriptors, available, used }
}

fn server(path: &Path, queues: u16) -> (VhostUserServer, Vec<Follower>) {
    let mut config = MAC.to_vec();
    config.extend([1, 0, 1, 0, 0xdc, 0x05]);
    VhostUserServer::start(ServerConfig { path: path.into(), features: FEATURES, queues, config }).unwrap()
}

fn frontend(path: &Path) -> VhostUserConfig {
    VhostUserConfig {
        path: path.into(),
        queue_pairs: 1,
        fewer: false,
        control_queue: false,
        answer_within: ANSWER_WITHIN,
    }
}

fn socket_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("vhost.sock")
}

fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the polling core has seen of one virtqueue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    size: u16,
    start: Position,
    features: u64,
    first_byte: u8,
}

/// Follows virtqueues as a core does; in each it "takes" 10 entries.
struct Core {
    seen: Arc<Mutex<Vec<Option<Seen>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Follower>>>,
}

impl Core {
    fn polling(mut followers: Vec<Follower>) -> Self {
        let seen = Arc::new(Mutex::new(vec![None; followers.len()]));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut positions = vec![Position::default(); followers.len()];
            while !until.load(Ordering::Relaxed) {
                for (queue, follower) in followers.iter_mut().enumerate() {
                    if follower.changed() {
                        shared.lock().unwrap()[queue] = None;
                        let ring = follower.switch(positions[queue]);
                        shared.lock().unwrap()[queue] = ring.map(|ring| {
                            positions[queue] = Position {
                                next_available: ring.start.next_available.wrapping_add(10),
                                next_used: ring.start.next_used.wrapping_add(10),
                            };
                            Seen {
                                size: ring.size,
                                start: ring.start,
                                features: ring.features,
                                // SAFETY: the first byte of the descriptor table, mapped while the ring is held.
                                first_byte: unsafe { ring.descriptors.read_volatile() },
                            }
                        });
                    }
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            followers
        });
        Self { seen, stop, thread: Some(thread) }
    }

    fn seen(&self) -> Vec<Option<Seen>> {
        self.seen.lock().unwrap().clone()
    }

    fn stop(&mut self) -> Vec<Follower> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or_else(Vec::new, |thread| thread.join().unwrap())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bring_up(device: &VhostUser, region: &Region, size: u16) -> Vec<Notifier> {
    device.reset().unwrap();
    device.set_driver_features(device.device_features().unwrap()).unwrap();
    (0..device.queue_count().unwrap())
        .map(|queue| {
            let layout = layout(region, size);
            // SAFETY: just carved, nobody else has it.
            unsafe { (layout.descriptors.0 as *mut u8).write_volatile(0x40 + u8::try_from(queue).unwrap()) };
            device.enable_queue(queue, &layout).unwrap()
        })
        .collect()
}

#[test]
fn virtqueues_appear_in_shared_memory_and_stop_on_reset() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (server, followers) = server(&path, 2);
    let core = Core::polling(followers);
    let region = region();
    let device = VhostUser::open(&frontend(&path), Arc::clone(&region)).unwrap();
    assert_eq!(device.device_features().unwrap(), FEATURES);
    let mut mac = [0; 6];
    device.read_config(0, &mut mac).unwrap();
    assert_eq!(mac, MAC);

    let notifiers = bring_up(&device, &region, 256);
    assert!(notifiers.iter().all(|notifier| matches!(notifier, Notifier::EventFd(_))));
    wait_for("both virtqueues are there", || core.seen().iter().all(Option::is_some));
    for (queue, seen) in core.seen().into_iter().flatten().enumerate() {
        let expected = Seen {
            size: 256,
            start: Position::default(),
            features: FEATURES,
            first_byte: 0x40 + u8::try_from(queue).unwrap(),
        };
        assert_eq!(seen, expected);
    }
    let status = Status { connected: true, rings: 2, features: FEATURES | feature::VHOST_USER_PROTOCOL };
    assert_eq!(server.status(), status);

    device.reset().unwrap();
    // Reset waits: by now the core has let go.
    assert_eq!(core.seen(), [None, None]);
    device.reset().unwrap();
    bring_up(&device, &region, 64);
    let back = || core.seen().iter().flatten().filter(|seen| seen.size == 64).count();
    wait_for("both virtqueues are back", || back() == 2);
}

#[test]
fn kick_and_call_eventfds_reach_the_core() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (_server, mut followers) = server(&path, 2);
    let region = region();
    let device = VhostUser::open(&frontend(&path), Arc::clone(&region)).unwrap();
    let notifiers = bring_up(&device, &region, 64);
    let ring = followers[0].switch(Position::default()).unwrap();
    assert!(ring.kick.as_ref().unwrap().read().is_err(), "nothing to read yet, and reading does not block");
    notifiers[0].notify();
    notifiers[0].notify();
    assert_eq!(ring.kick.as_ref().unwrap().read().unwrap(), 2);
    ring.call.as_ref().unwrap().write(1).unwrap();
    assert!(ring.err.is_none());
    followers[0].leave(Position::default());
}

#[test]
fn next_frontend_comes_when_the_first_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (server, followers) = server(&path, 2);
    let core = Core::polling(followers);
    for _ in 0..3 {
        let region = region();
        let device = VhostUser::open(&frontend(&path), Arc::clone(&region)).unwrap();
        bring_up(&device, &region, 128);
        wait_for("the virtqueues are there", || core.seen().iter().flatten().count() == 2);
        drop(device);
        wait_for("the virtqueues are gone", || core.seen().iter().flatten().count() == 0);
        wait_for("the frontend has left", || !server.status().connected);
    }
}

#[test]
fn device_is_absent_and_requests_fail_once_the_backend_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (mut server, followers) = server(&path, 2);
    let _core = Core::polling(followers);
    let region = region();
    let device = VhostUser::open(&frontend(&path), Arc::clone(&region)).unwrap();
    bring_up(&device, &region, 128);
    assert!(device.is_present());
    server.stop();
    assert!(!path.exists());
    assert!(!device.is_present());
    assert!(matches!(device.status(), Err(TransportError::Gone { .. })));
    let again = device.enable_queue(0, &layout(&region, 64));
    assert!(matches!(again, Err(TransportError::Gone { .. })), "{again:?}");
    device.reset().unwrap();
}

#[test]
fn core_that_does_not_answer_makes_reset_fail_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (server, mut followers) = server(&path, 2);
    let region = region();
    let device = VhostUser::open(&frontend(&path), Arc::clone(&region)).unwrap();
    bring_up(&device, &region, 128);
    for follower in &mut followers {
        assert!(follower.switch(Position::default()).is_some());
    }
    let begun = Instant::now();
    let reset = device.reset();
    assert!(begun.elapsed() < Duration::from_secs(3));
    // Nobody says that the buffers are free: not the answer, not a hang-up, not a second attempt.
    assert!(matches!(reset, Err(TransportError::Timeout { .. })), "{reset:?}");
    std::thread::sleep(Duration::from_millis(1200));
    assert!(server.status().connected);
    assert!(matches!(device.reset(), Err(TransportError::Timeout { .. })));
    // The memory is still there to be read.
    assert_eq!(followers[1].ring().unwrap().used_index(), 0);
    for follower in &mut followers {
        assert!(follower.switch(Position::default()).is_none());
    }
    wait_for("the frontend is let go", || !server.status().connected);
}

#[test]
fn stopping_the_server_does_not_wait_for_a_stuck_core_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (mut server, mut followers) = server(&path, 2);
    let region = region();
    let device = VhostUser::open(&frontend(&path), Arc::clone(&region)).unwrap();
    bring_up(&device, &region, 128);
    assert!(followers[0].switch(Position::default()).is_some());
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(followers[0].changed());
    assert_eq!(followers[0].ring().unwrap().used_index(), 0);
}

#[test]
fn queue_goes_on_where_it_was_when_it_is_changed_while_it_runs() {
    use vhost::VhostBackend;
    use vhost::vhost_user::{Frontend, VhostUserFrontend};
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (_server, followers) = server(&path, 2);
    let core = Core::polling(followers);
    let region = region();
    let mut plain = Frontend::connect(&path, 2).unwrap();
    plain.set_owner().unwrap();
    let features = plain.get_features().unwrap();
    plain.get_protocol_features().unwrap();
    plain.set_protocol_features(vhost::vhost_user::VhostUserProtocolFeatures::MQ).unwrap();
    assert_eq!(plain.get_queue_num().unwrap(), 1);
    plain.set_features(features).unwrap();
    let table = [vhost::VhostUserMemoryRegionInfo {
        guest_phys_addr: 0x4000_0000,
        memory_size: region.len_bytes() as u64,
        userspace_addr: region.base() as u64,
        mmap_offset: 0,
        mmap_handle: std::os::fd::AsRawFd::as_raw_fd(&region.fd()),
    }];
    plain.set_mem_table(&table).unwrap();
    let layout = layout(&region, 64);
    // SAFETY: used.idx of a ring that nobody else has yet.
    unsafe { ((layout.used.0 + 2) as *mut u16).write_volatile(7) };
    let addresses = vhost::VringConfigData {
        queue_max_size: 64,
        queue_size: 64,
        flags: 0,
        desc_table_addr: layout.descriptors.0,
        used_ring_addr: layout.used.0,
        avail_ring_addr: layout.available.0,
        log_addr: None,
    };
    // `Frontend` takes queue numbers below what GET_QUEUE_NUM said: that leaves 0.
    plain.set_vring_num(0, 64).unwrap();
    plain.set_vring_base(0, 9).unwrap();
    plain.set_vring_addr(0, &addresses).unwrap();
    let event = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    plain.set_vring_kick(0, &event).unwrap();
    plain.set_vring_enable(0, true).unwrap();
    let started_at = |next_available, next_used| {
        let position = Position { next_available, next_used };
        wait_for("the virtqueue is there", || core.seen()[0].is_some_and(|seen| seen.start == position));
    };
    started_at(9, 7);
    plain.set_vring_call(0, &event).unwrap();
    started_at(19, 17);
    plain.set_mem_table(&table).unwrap();
    started_at(29, 27);
    plain.set_vring_enable(0, false).unwrap();
    wait_for("a disabled virtqueue stops", || core.seen()[0].is_none());
    plain.set_vring_enable(0, true).unwrap();
    started_at(39, 37);
    assert_eq!(plain.get_vring_base(0).unwrap(), 49);
    assert_eq!(core.seen()[0], None);
    plain.set_vring_kick(0, &event).unwrap();
    started_at(49, 47);
    // Gone without a word, as when it is killed.
    drop(plain);
    wait_for("the virtqueue stops", || core.seen()[0].is_none());
}

/// Starts virtqueue 0 of `size` at `base`, packed if `features` say so. The connection as well, for what the crate's
/// frontend does not say: a base of 32 bits.
fn start_one(
    path: &Path,
    region: &Region,
    features: u64,
    size: u16,
    base: u32,
) -> (vhost::vhost_user::Frontend, Result<(), Box<dyn std::error::Error>>) {
    use std::io::Write as _;
    use vhost::VhostBackend;
    use vhost::vhost_user::{Frontend, VhostUserFrontend};
    let stream = UnixStream::connect(path).unwrap();
    let mut raw = stream.try_clone().unwrap();
    let mut plain = Frontend::from_stream(stream, 2);
    let layout = layout(region, 128);
    let started = (|| {
        plain.set_owner()?;
        plain.get_features()?;
        plain.get_protocol_features()?;
        plain.set_protocol_features(vhost::vhost_user::VhostUserProtocolFeatures::MQ)?;
        plain.get_queue_num()?;
        plain.set_features(features | feature::VHOST_USER_PROTOCOL)?;
        plain.set_mem_table(&[vhost::VhostUserMemoryRegionInfo {
            guest_phys_addr: 0x4000_0000,
            memory_size: region.len_bytes() as u64,
            userspace_addr: region.base() as u64,
            mmap_offset: 0,
            mmap_handle: std::os::fd::AsRawFd::as_raw_fd(&region.fd()),
        }])?;
        plain.set_vring_num(0, size)?;
        // SET_VRING_BASE, version 1, 8 bytes: virtqueue 0, its base.
        let words = [10_u32, 1, 8, 0, base].map(u32::to_le_bytes).concat();
        raw.write_all(&words)?;
        let addresses = vhost::VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: layout.descriptors.0,
            used_ring_addr: layout.used.0,
            avail_ring_addr: layout.available.0,
            log_addr: None,
        };
        plain.set_vring_addr(0, &addresses)?;
        plain.set_vring_kick(0, &vmm_sys_util::eventfd::EventFd::new(0).unwrap())?;
        plain.set_vring_enable(0, true)?;
        // It answers, or has hung up.
        plain.get_features()?;
        Ok(())
    })();
    (plain, started)
}

#[test]
fn packed_virtqueue_of_any_size_is_taken_up_where_its_base_says() {
    use vhost::VhostBackend;
    use vhost::vhost_user::VhostUserFrontend;
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let features = feature::VERSION_1 | feature::RING_PACKED;
    let config = ServerConfig { path: path.clone(), features, queues: 2, config: Vec::new() };
    let (server, followers) = VhostUserServer::start(config).unwrap();
    let core = Core::polling(followers);
    let region = region();
    let idle = || wait_for("idle", || !server.status().connected);
    // Available in one lap, used in the one before; and the upper half that DPDK's driver leaves out.
    for (base, next_available, next_used) in
        [(0x0063_8009, 0x8009, 99), (0x8000_8000, 0x8000, 0x8000), (0x8009, 0x8009, 0x8009), (0, 0, 0)]
    {
        let (mut plain, started) = start_one(&path, &region, features, 100, base);
        started.unwrap();
        let start = Position { next_available, next_used };
        wait_for("the virtqueue is there", || {
            core.seen()[0].is_some_and(|seen| (seen.size, seen.start) == (100, start))
        });
        plain.set_vring_enable(0, false).unwrap();
        plain.set_vring_enable(0, true).unwrap();
        let went_on = Position { next_available: next_available + 10, next_used: next_used + 10 };
        wait_for("it goes on", || core.seen()[0].is_some_and(|seen| seen.start == went_on));
        // Our core adds ten places, whether or not the ring ends before.
        let expected = u32::from(next_used + 20) << 16 | u32::from(next_available + 20);
        assert_eq!(plain.get_vring_base(0).unwrap(), expected);
        drop(plain);
        idle();
    }
    // Beyond the ring; and sizes that a split one cannot have, nor any.
    for (features, size, base) in [
        (features, 100, 0x0063_8064),
        (features, 100, 0x0064_8009),
        (feature::VERSION_1, 100, 0),
        (feature::VERSION_1, 64, 0x1_0000),
        (features, 32_769, 0),
    ] {
        let (plain, started) = start_one(&path, &region, features, size, base);
        assert!(started.is_err(), "{features:#x} {size} {base:#x}");
        assert_eq!(core.seen()[0], None);
        drop(plain);
        idle();
    }
}

#[test]
fn each_way_for_a_backend_to_be_missing_has_its_own_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let mut config = frontend(&path);
    config.answer_within = Duration::from_millis(200);
    let open = |config: &VhostUserConfig| VhostUser::open(config, region()).map(drop).unwrap_err();

    let error = open(&config);
    assert!(matches!(error, VhostUserError::NoSocket { .. }));
    assert!(error.to_string().contains("net_vhost0,iface="), "{error}");

    std::fs::write(&path, "").unwrap();
    assert!(matches!(open(&config), VhostUserError::NotASocket { .. }));
    std::fs::remove_file(&path).unwrap();

    let listener = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    let silent = open(&config);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(
        matches!(
            silent,
            VhostUserError::Handshake { source: TransportError::Timeout { limit_ms: 200, .. }, .. }
        ),
        "{silent:?}"
    );
    let closing = std::thread::spawn(move || {
        // The connection of the silent case is still in the backlog.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 24]).unwrap();
    });
    let error = open(&config);
    assert!(
        matches!(error, VhostUserError::Handshake { source: TransportError::Gone { .. }, .. }),
        "{error:?}"
    );
    closing.join().unwrap();
    assert!(matches!(open(&config), VhostUserError::NobodyListens { .. }));
}

#[test]
fn backend_that_is_too_old_or_too_small_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let old = ServerConfig { path: path.clone(), features: feature::MAC, queues: 2, config: MAC.to_vec() };
    let (old, _followers) = VhostUserServer::start(old).unwrap();
    let error = VhostUser::open(&frontend(&path), region()).map(drop).unwrap_err();
    assert!(matches!(error, VhostUserError::Legacy { .. }), "{error}");
    drop(old);

    let (_server, _followers) = server(&path, 4);
    let mut config = frontend(&path);
    config.queue_pairs = 2;
    assert_eq!(VhostUser::open(&config, region()).unwrap().queue_count().unwrap(), 4);
    config.queue_pairs = 3;
    let error = VhostUser::open(&config, region()).map(drop).unwrap_err();
    assert!(matches!(error, VhostUserError::QueuePairs { wanted: 3, offered: 2, .. }), "{error}");
}

#[test]
fn every_virtqueue_of_several_pairs_comes_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (_server, followers) = server(&path, 4);
    let core = Core::polling(followers);
    let region = region();
    let mut config = frontend(&path);
    config.queue_pairs = 2;
    let device = VhostUser::open(&config, Arc::clone(&region)).unwrap();
    bring_up(&device, &region, 64);
    wait_for("all four are there", || core.seen().iter().flatten().count() == 4);
    let beyond = device.enable_queue(4, &layout(&region, 64));
    assert!(matches!(beyond, Err(TransportError::Queue { queue: 4, max: 0, .. })), "{beyond:?}");
}

#[test]
fn configuration_is_offered_only_where_it_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (_server, _followers) = server(&path, 2);
    let device = VhostUser::open(&frontend(&path), region()).unwrap();
    assert_eq!(device.device_features().unwrap(), FEATURES);
    let mut config = [0; 12];
    device.read_config(0, &mut config).unwrap();
    assert_eq!(config[..6], MAC);
    let mut mtu = [0; 2];
    device.read_config(10, &mut mtu).unwrap();
    assert_eq!(u16::from_le_bytes(mtu), 1500);
    device.read_config(11, &mut mtu).unwrap_err();
}

#[test]
fn stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let start = || {
        VhostUserServer::start(ServerConfig {
            path: path.clone(),
            features: FEATURES,
            queues: 2,
            config: vec![],
        })
    };
    // Bound and dropped without unlinking, as by a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let (first, _followers) = start().unwrap();
    assert!(matches!(start().map(drop), Err(ServerError::InUse { .. })));

    // Whoever takes the name over keeps it.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(start().map(drop), Err(ServerError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    let (second, _followers) = start().unwrap();
    drop(second);
    assert!(!path.exists());
}

/// As QEMU does with a network device.
#[test]
fn virtqueues_may_be_enabled_before_features_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket_in(&folder);
    let (_server, _followers) = server(&path, 2);
    let say = |mut socket: &UnixStream, request: u32, flags: u32, body: &[u8]| {
        let len = u32::try_from(body.len()).unwrap();
        let header = [request, 1 | flags, len].map(u32::to_le_bytes).concat();
        socket.write_all(&[&header, body].concat()).unwrap();
    };
    let answer = |mut socket: &UnixStream| {
        let mut answer = [0; 20];
        socket.read_exact(&mut answer).map(|()| u64::from_le_bytes(answer[12..].try_into().unwrap()))
    };
    let enable = |queue: u32| [queue, 1].map(u32::to_le_bytes).concat();
    let negotiated = || {
        let socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        say(&socket, 1, 0, &[]);
        assert_ne!(answer(&socket).unwrap() & feature::VHOST_USER_PROTOCOL, 0);
        say(&socket, 15, 0, &[]);
        assert_ne!(answer(&socket).unwrap() & 1 << 3, 0, "REPLY_ACK");
        say(&socket, 16, 0, &(1_u64 << 3).to_le_bytes());
        socket
    };

    let socket = negotiated();
    for queue in 0..2 {
        say(&socket, 18, 1 << 3, &enable(queue));
        assert_eq!(answer(&socket).unwrap(), 0);
        say(&socket, 18, 0, &enable(queue));
    }
    say(&socket, 1, 0, &[]);
    assert!(answer(&socket).is_ok(), "it goes on after those that want no answer");
    say(&socket, 18, 1 << 3, &enable(9));
    assert_eq!(answer(&socket).unwrap(), 1, "there is no such virtqueue");
    assert!(answer(&socket).is_err(), "and that is the end");

    let socket = UnixStream::connect(&path).unwrap();
    say(&socket, 18, 0, &enable(0));
    assert!(answer(&socket).is_err(), "not before protocol features are negotiated");
}
