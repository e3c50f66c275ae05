//! Frontends of a device with two queue pairs, in the orders in which they say what they want: each receive queue that is
//! started and enabled gets frames, and no other does.

#![allow(missing_docs)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pmd::mem::{PageSize, PoolConfig, RegionConfig};
use pmd::port::{Hub, OpenConfig, QueuePair, open};
use pmd::virtio::spec::feature;
use pmd::{Burst, HomePool, MAX_BURST, Pool, Region};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const PLAIN: u64 = feature::VERSION_1;
const SEVERAL: u64 = PLAIN | feature::MQ | feature::VHOST_USER_PROTOCOL;

/// Descriptors of a virtqueue, each with a buffer of 2 KiB in a receive queue.
const SIZE: u16 = 4;
const MEMORY_BYTES: u64 = 0xc000;

#[derive(Clone, Copy, Debug)]
enum Say {
    Features(u64),
    Memory,
    /// Size, base, addresses, kick.
    Start(u64),
    Stop(u64),
    Enable(u64, bool),
}
use Say::{Enable, Features, Memory, Start, Stop};

/// Where the rings are in the memory: descriptors, available, used.
fn rings(queue: u64) -> [u64; 3] {
    [0, 0x800, 0x1000].map(|part| queue * 0x2000 + part)
}

/// The memory, with all buffers posted in both receive queues.
fn memory() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY_BYTES).unwrap();
    for pair in 0..2 {
        let [descriptors, available, _] = rings(2 * pair);
        let mut entries = vec![0, SIZE];
        for index in 0..SIZE {
            let buffer = 0x8000 + pair * 0x2000 + u64::from(index) * 0x800;
            let descriptor = [&buffer.to_le_bytes()[..], &2048_u32.to_le_bytes(), &[2, 0, 0, 0]].concat();
            file.write_all_at(&descriptor, descriptors + u64::from(index) * 16).unwrap();
            entries.push(index);
        }
        let entries: Vec<u8> = entries.into_iter().flat_map(u16::to_le_bytes).collect();
        file.write_all_at(&entries, available).unwrap();
    }
    file
}

/// The device, polled by this thread, and its frontend.
struct Bed {
    pairs: Vec<Box<dyn QueuePair>>,
    pool: HomePool,
    socket: UnixStream,
    memory: File,
    event: EventFd,
}

impl Bed {
    fn send(&self, request: u32, words: &[u64], fd: Option<i32>) {
        let size = u32::try_from(words.len() * 8).unwrap();
        let mut bytes: Vec<u8> = [request, 1, size].into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        match fd {
            Some(fd) => drop(self.socket.send_with_fd(&bytes[..], fd).unwrap()),
            None => (&self.socket).write_all(&bytes).unwrap(),
        }
    }

    fn poll(&mut self) {
        for pair in &mut self.pairs {
            pair.rx_burst(&self.pool, &mut Burst::new(), MAX_BURST);
        }
    }

    /// Asks for 8 bytes and polls until they come.
    fn ask(&mut self, request: u32, words: &[u64]) {
        self.send(request, words, None);
        let deadline = Instant::now() + Duration::from_secs(10);
        self.socket.set_nonblocking(true).unwrap();
        let mut answer = [0; 20];
        loop {
            self.poll();
            match (&self.socket).read(&mut answer) {
                Ok(read) => {
                    assert_eq!(read, answer.len(), "the device has hung up");
                    break self.socket.set_nonblocking(false).unwrap();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "no answer");
        }
    }

    fn say(&mut self, say: Say) {
        let state = |queue: u64, value: u64| [value << 32 | queue];
        match say {
            Features(features) => self.send(2, &[features], None),
            Memory => self.send(5, &[1, 0, MEMORY_BYTES, 0, 0], Some(self.memory.as_raw_fd())),
            Start(queue) => {
                let [descriptors, available, used] = rings(queue);
                self.send(8, &state(queue, SIZE.into()), None);
                self.send(10, &state(queue, 0), None);
                self.send(9, &[queue, descriptors, used, available, 0], None);
                self.send(12, &[queue], Some(self.event.as_raw_fd()));
            }
            Stop(queue) => self.ask(11, &state(queue, 0)),
            Enable(queue, on) => self.send(18, &state(queue, on.into()), None),
        }
        self.ask(1, &[]);
    }

    /// Frames in the two receive queues.
    fn received(&self) -> [u16; 2] {
        [0, 2].map(|queue| {
            let mut index = [0; 2];
            self.memory.read_exact_at(&mut index, rings(queue)[2] + 2).unwrap();
            u16::from_le_bytes(index)
        })
    }
}

/// The frames that arrive in each receive queue after all this, when each queue pair of the device has sent one.
fn arriving(script: &[Say]) -> [u16; 2] {
    let pool = PoolConfig { mbufs: 256, ..PoolConfig::default() };
    let len_bytes = pool.region_bytes() + (1 << 20);
    let region = Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
    let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
    let config = OpenConfig {
        region: &region,
        hub: &Hub::default(),
        rx_descriptors: 64,
        tx_descriptors: 64,
        queue_pairs: 2,
        data_room_bytes: 2048,
        offloads: false,
        interrupts: false,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vhost.sock");
    let mut port = open(&format!("vhost-user-server:{},queues=2", path.display()), &config).unwrap();
    let (socket, event) = (UnixStream::connect(&path).unwrap(), EventFd::new(0).unwrap());
    let mut bed = Bed { pairs: port.take_queue_pairs(), pool, socket, memory: memory(), event };
    // Protocol features are negotiated, MQ among them.
    bed.ask(1, &[]);
    bed.ask(15, &[]);
    bed.send(16, &[1], None);
    script.iter().for_each(|say| bed.say(*say));
    for pair in &mut bed.pairs {
        let (mut burst, mut frame) = (Burst::new(), bed.pool.alloc().unwrap());
        frame.append(60).unwrap().fill(2);
        burst.push(frame);
        pair.tx_burst(&mut burst);
    }
    bed.poll();
    let received = bed.received();
    bed.pairs.clear();
    received
}

fn started_then_enabled(features: u64, order: [u64; 4]) -> Vec<Say> {
    let mut script = vec![Features(features), Memory];
    script.extend(order.map(Start));
    script
}

#[test]
fn as_virtio_user_of_dpdk_says_it() {
    let mut script = started_then_enabled(SEVERAL, [0, 2, 1, 3]);
    assert_eq!(arriving(&script), [0, 0], "nothing is enabled yet");
    script.extend([0, 1].map(|queue| Enable(queue, true)));
    assert_eq!(arriving(&script), [2, 0], "one pair of two");
    script.extend([2, 3].map(|queue| Enable(queue, true)));
    assert_eq!(arriving(&script), [1, 1]);
    script.extend([2, 3].map(|queue| Enable(queue, false)));
    assert_eq!(arriving(&script), [2, 0], "one pair again");
}

#[test]
fn as_qemu_says_it() {
    let enable = |pair: u64, on| [Enable(2 * pair, on), Enable(2 * pair + 1, on)];
    let start = |pair: u64| [Features(SEVERAL), Memory, Start(2 * pair), Start(2 * pair + 1)];
    let one = [&enable(0, true)[..], &enable(1, false), &start(0)].concat();
    assert_eq!(arriving(&one), [2, 0], "a guest that uses one pair");
    let more = [&one[..], &start(1), &enable(1, true)].concat();
    assert_eq!(arriving(&more), [1, 1], "and then both");
    let both = [&enable(0, true)[..], &enable(1, true), &start(0), &start(1)].concat();
    assert_eq!(arriving(&both), [1, 1], "enabled before anything else");
    let stopped = [&both[..], &[Stop(0), Stop(1)]].concat();
    assert_eq!(arriving(&stopped), [0, 2], "the second goes on without the first");
}

#[test]
fn what_is_enabled_stays_so_when_features_change() {
    let mut script = started_then_enabled(PLAIN | feature::VHOST_USER_PROTOCOL, [0, 1, 2, 3]);
    script.extend((0..4).map(|queue| Enable(queue, true)));
    script.extend([Features(SEVERAL), Memory]);
    assert_eq!(arriving(&script), [1, 1]);
}

#[test]
fn what_is_started_is_enabled_where_nobody_says_so() {
    assert_eq!(arriving(&started_then_enabled(PLAIN, [3, 2, 1, 0])), [1, 1]);
    assert_eq!(arriving(&[Features(PLAIN), Memory, Start(0), Start(1)]), [2, 0]);
}
