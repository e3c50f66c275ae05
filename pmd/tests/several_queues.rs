//! Two queue pairs and the control queue, our driver against our device, over `loop:` and `vhost-user:`.

use std::path::Path;

use pmd::mem::{PageSize, PoolConfig, RegionConfig};
use pmd::port::{
    Command, ControlError, HashConfig, Hub, Link, OpenConfig, OpenError, Port, QueuePair, ReceiveMode,
    RssConfig, open,
};
use pmd::virtio::rss::{Rss, SYMMETRIC_KEY, hash_type};
use pmd::virtio::spec::feature;
use pmd::{Burst, HomePool, MAX_BURST, Pool, Region};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

/// A UDP datagram of flow `flow`, from the driver to the device, or back.
fn datagram(flow: u8, to_driver: bool) -> Vec<u8> {
    let ([src, dst], [from, to]) = if to_driver {
        ([[10, 0, 0, 2], [10, 0, 0, 1]], [[0, 53], [7, flow]])
    } else {
        ([[10, 0, 0, 1], [10, 0, 0, 2]], [[7, flow], [0, 53]])
    };
    let mut frame = OWN.to_vec();
    frame.extend([2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    [src, dst].iter().for_each(|address| frame.extend(address));
    [from, to].iter().for_each(|port| frame.extend(port));
    frame.extend([0, 8, 0, 0]);
    frame
}

/// Both sides, all polled by this thread.
struct Bed {
    driver: Vec<Box<dyn QueuePair>>,
    device: Vec<Box<dyn QueuePair>>,
    driver_port: Box<dyn Port>,
    device_port: Box<dyn Port>,
    pool: HomePool,
}

/// Where the two sides meet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    LoopDriverFirst,
    LoopDeviceFirst,
    VhostUser,
}

const ALL: [Over; 3] = [Over::LoopDriverFirst, Over::LoopDeviceFirst, Over::VhostUser];

impl Bed {
    fn open(over: Over, pairs: [u16; 2], driver: &str, device: &str) -> Result<Self, OpenError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("x");
        let pool = PoolConfig { mbufs: 2048, ..PoolConfig::default() };
        let len_bytes = pool.region_bytes() + (1 << 20);
        let region =
            Region::new(RegionConfig { len_bytes, page: PageSize::Ordinary, numa_node: None }).unwrap();
        let pool = Pool::new(&region, pool).unwrap().adopt().unwrap();
        let hub = Hub::default();
        let at = |spec: &str, queue_pairs: u16| {
            let config = OpenConfig {
                region: &region,
                hub: &hub,
                rx_descriptors: 64,
                tx_descriptors: 64,
                queue_pairs,
                data_room_bytes: 2048,
                offloads: false,
                interrupts: false,
            };
            open(spec, &config)
        };
        let path = |kind: &str, socket: &Path| format!("{kind}:{}", socket.display());
        let mac = "mac=02:00:00:00:00:01";
        let (a, b) = match over {
            Over::VhostUser => (path("vhost-user", &socket), path("vhost-user-server", &socket)),
            _ => ("loop:a".to_owned(), "loop:b".to_owned()),
        };
        let (a, b) = (format!("{a},{mac}{driver}"), format!("{b}{device}"));
        let (driver_port, device_port) = if over == Over::LoopDriverFirst {
            let driver = at(&a, pairs[0])?;
            (driver, at(&b, pairs[1])?)
        } else {
            let device = at(&b, pairs[1])?;
            (at(&a, pairs[0])?, device)
        };
        let mut bed = Self { driver: vec![], device: vec![], driver_port, device_port, pool };
        bed.driver = bed.driver_port.take_queue_pairs();
        bed.device = bed.device_port.take_queue_pairs();
        // Posts the receive buffers.
        bed.poll();
        Ok(bed)
    }

    /// What each of the driver's queue pairs receives, and each of the device's.
    fn poll(&mut self) -> [Vec<Vec<Vec<u8>>>; 2] {
        let mut received = [vec![vec![]; self.driver.len()], vec![vec![]; self.device.len()]];
        for _ in 0..4 {
            for (side, pairs) in [&mut self.driver, &mut self.device].into_iter().enumerate() {
                for (pair, frames) in pairs.iter_mut().zip(&mut received[side]) {
                    let mut burst = Burst::new();
                    pair.rx_burst(&self.pool, &mut burst, MAX_BURST);
                    frames.extend(burst.iter().map(|frame| frame.data().to_vec()));
                }
            }
        }
        received
    }

    fn send(&mut self, from_driver: bool, queue: usize, frames: &[Vec<u8>]) {
        let pair = if from_driver { &mut self.driver[queue] } else { &mut self.device[queue] };
        let mut burst = Burst::new();
        for bytes in frames {
            let mut mbuf = self.pool.alloc().unwrap();
            mbuf.append(bytes.len()).unwrap().copy_from_slice(bytes);
            burst.push(mbuf);
        }
        pair.tx_burst(&mut burst);
        assert!(burst.is_empty(), "there is room");
    }

    /// Which of the driver's queue pairs gets each of `frames`, which the device sends on `queue`.
    fn reach(&mut self, queue: usize, frames: &[Vec<u8>]) -> Vec<Option<usize>> {
        self.send(false, queue, frames);
        let [driver, _] = self.poll();
        let place = |frame: &Vec<u8>| driver.iter().position(|frames: &Vec<Vec<u8>>| frames.contains(frame));
        frames.iter().map(place).collect()
    }

    fn counted(&self, name: &str) -> u64 {
        let mut sum = 0;
        for pair in &self.device {
            pair.extra_counters(&mut |have, count| sum += if have == name { count } else { 0 });
        }
        sum
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for pair in self.driver.iter().chain(&self.device) {
            if !std::thread::panicking() {
                assert_eq!(pair.fault(), None);
            }
        }
        // The device lets go first, or the driver's reset would wait for it.
        self.device.clear();
    }
}

#[test]
fn a_flow_comes_back_to_the_queue_pair_that_sends_it() {
    for over in ALL {
        for rings in ["", ",ring_packed=on", ",in_order=on", ",ring_packed=on,in_order=on"] {
            // Without RSS, so that nothing but the device's own memory of flows decides.
            let mut bed = Bed::open(over, [2, 2], &format!(",rss=off{rings}"), "").unwrap();
            assert_eq!((bed.driver.len(), bed.device.len()), (2, 2), "{over:?}");
            assert_eq!((bed.driver_port.link(), bed.device_port.link()), (Link::Up, Link::Up));
            let back: Vec<_> = (0..20).map(|flow| datagram(flow, true)).collect();
            assert_eq!(bed.reach(0, &back), [Some(0); 20], "not known: where they come from");
            assert_eq!(bed.counted("tx_dealt"), 0);
            for flow in 0..20 {
                bed.send(true, usize::from(flow % 2), &[datagram(flow, false)]);
            }
            let [_, device] = bed.poll();
            assert_eq!(device.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10]);
            assert_eq!(bed.counted("flows_learnt"), 20);
            let learnt: Vec<_> = (0..20).map(|flow| Some(flow % 2)).collect();
            for queue in [0, 1] {
                assert_eq!(bed.reach(queue, &back), learnt, "{over:?}{rings}, sent by {queue}");
            }
            assert_eq!(bed.counted("tx_dealt"), 20, "half of them twice");
            // The driver changes its mind.
            bed.send(true, 1, &[datagram(0, false)]);
            bed.poll();
            assert_eq!(bed.reach(0, &back[..1]), [Some(1)]);
        }
    }
}

/// The same without the control queue, and with it also over vhost-user.
fn with_control() -> [(Over, &'static str); 3] {
    [(Over::LoopDriverFirst, ""), (Over::LoopDeviceFirst, ""), (Over::VhostUser, ",ctrl_vq=on")]
}

#[test]
fn rss_deals_flows_as_key_and_table_say() {
    for (over, control) in with_control() {
        for rings in ["", ",ring_packed=on"] {
            let mut bed = Bed::open(over, [2, 2], &format!("{control},rss=on{rings}"), control).unwrap();
            assert_ne!(bed.driver_port.info().features & feature::RSS, 0);
            let mut config = RssConfig {
                hash_types: hash_type::TRANSPORT,
                table: (0..128).map(|entry| entry % 2).collect(),
                unclassified_queue: 0,
                transmit_queues: 2,
                key: SYMMETRIC_KEY.to_vec(),
            };
            let frames: Vec<_> = (0..50).map(|flow| datagram(flow, true)).collect();
            for change in 0..3 {
                let rss = Rss::new(&config, 2).unwrap();
                let expected: Vec<_> =
                    frames.iter().map(|frame| Some(usize::from(rss.place(frame).0))).collect();
                for queue in [0, 1] {
                    assert_eq!(bed.reach(queue, &frames), expected, "{over:?}{rings}, change {change}");
                }
                config.table.reverse();
                config.key[change] ^= 0xff;
                config.unclassified_queue = 1;
                bed.driver_port.configure(&Command::Rss(config.clone())).unwrap();
            }
            let mut arp = datagram(0, true);
            arp[13] = 6;
            assert_eq!(bed.reach(0, &[arp]), [Some(1)], "what has no hash");
            config.table[3] = 2;
            let refused = bed.driver_port.configure(&Command::Rss(config.clone()));
            assert!(matches!(refused, Err(ControlError::Refused(_))), "{refused:?}");
        }
    }
}

#[test]
fn queue_pairs_are_used_as_far_as_the_driver_says() {
    for (over, control) in with_control() {
        let mut bed = Bed::open(over, [2, 2], &format!("{control},rss=off"), control).unwrap();
        bed.send(true, 1, &[datagram(1, false)]);
        bed.poll();
        let frame = [datagram(1, true)];
        assert_eq!(bed.reach(1, &frame), [Some(1)]);
        bed.driver_port.configure(&Command::QueuePairs(1)).unwrap();
        assert_eq!((bed.reach(0, &frame), bed.reach(1, &frame)), (vec![Some(0)], vec![Some(0)]));
        bed.driver_port.configure(&Command::QueuePairs(2)).unwrap();
        assert_eq!(bed.reach(0, &frame), [Some(1)]);
        for pairs in [0, 3] {
            let error = bed.driver_port.configure(&Command::QueuePairs(pairs)).unwrap_err();
            assert!(matches!(error, ControlError::QueuePairs { have: 2, .. }), "{error}");
        }
    }
}

#[test]
fn the_device_filters_what_the_driver_does_not_want() {
    for (over, control) in with_control() {
        for pairs in [1, 2] {
            let options = format!("{control},ctrl_vlan=on,promisc=off");
            let mut bed = Bed::open(over, [pairs, pairs], &options, control).unwrap();
            let to = |mac: [u8; 6], vlan: Option<u8>| {
                let mut frame = datagram(1, true);
                frame[..6].copy_from_slice(&mac);
                vlan.into_iter().for_each(|vlan| drop(frame.splice(12..12, [0x81, 0, 0, vlan])));
                frame
            };
            let (other, group) = ([2, 0, 0, 0, 0, 9], [1, 0, 0x5e, 0, 0, 1]);
            let frames = [to(OWN, None), to(other, None), to(group, None), to(BROADCAST, None)];
            let passed = |bed: &mut Bed, frames: &[Vec<u8>]| -> Vec<bool> {
                bed.reach(0, frames).iter().map(Option::is_some).collect()
            };
            // The port has told the device its address.
            assert_eq!(passed(&mut bed, &frames), [true, false, false, true], "{over:?}, {pairs} pairs");
            assert_eq!(bed.counted("tx_filtered"), 2);
            let multicast = Command::Receive(ReceiveMode::AllMulticast, true);
            bed.driver_port.configure(&multicast).unwrap();
            assert_eq!(passed(&mut bed, &frames), [true, false, true, true]);
            let table = Command::MacTable { unicast: vec![other], multicast: vec![] };
            bed.driver_port.configure(&table).unwrap();
            assert_eq!(passed(&mut bed, &frames), [true; 4]);
            let tagged = [to(OWN, Some(5)), to(OWN, Some(6))];
            assert_eq!(passed(&mut bed, &tagged), [false, false]);
            bed.driver_port.configure(&Command::VlanAdd(6)).unwrap();
            assert_eq!(passed(&mut bed, &tagged), [false, true]);
            bed.driver_port.configure(&Command::VlanRemove(6)).unwrap();
            assert_eq!(passed(&mut bed, &tagged), [false, false]);
            bed.driver_port.configure(&Command::MacAddress(other)).unwrap();
            bed.driver_port.configure(&Command::MacTable { unicast: vec![], multicast: vec![] }).unwrap();
            assert_eq!(passed(&mut bed, &frames), [false, true, true, true]);
            bed.driver_port.configure(&Command::Receive(ReceiveMode::Promiscuous, true)).unwrap();
            assert_eq!(
                (passed(&mut bed, &frames), passed(&mut bed, &tagged)),
                (vec![true; 4], vec![true; 2])
            );
        }
    }
}

#[test]
fn what_is_not_offered_is_not_asked_for_and_says_so() {
    let mut bed = Bed::open(Over::VhostUser, [2, 2], "", "").unwrap();
    let promiscuous = Command::Receive(ReceiveMode::Promiscuous, true);
    let error = bed.driver_port.configure(&promiscuous).unwrap_err();
    assert!(error.to_string().contains("ctrl_vq=on"), "{error}");
    drop(bed);
    let mut bed = Bed::open(Over::LoopDeviceFirst, [1, 1], "", "").unwrap();
    let hash = Command::Hash(HashConfig { hash_types: 1, key: vec![1] });
    let error = bed.driver_port.configure(&hash).unwrap_err();
    assert!(error.to_string().contains("it does not offer"), "{error}");
    let error = bed.device_port.configure(&promiscuous).unwrap_err();
    assert!(matches!(error, ControlError::NoControlQueue(_)), "{error}");
}

#[test]
fn a_port_has_as_many_queue_pairs_as_there_are_unless_more_are_insisted_on() {
    for over in [Over::LoopDeviceFirst, Over::VhostUser] {
        for (asked, offered, has) in [(1, 3, 1_usize), (2, 3, 2), (4, 3, 3), (4, 1, 1)] {
            let bed = Bed::open(over, [asked, offered], "", "").unwrap();
            assert_eq!(usize::from(bed.driver_port.info().queue_pairs), bed.driver.len());
            assert_eq!(bed.driver.len(), has, "{over:?}: {asked} of {offered}");
            assert_eq!(bed.device.len(), usize::from(offered));
        }
        let error = Bed::open(over, [1, 2], ",queues=3", "").err().unwrap();
        let text = format!("{error:?}");
        assert!(text.contains("TooFewQueues") || text.contains("QueuePairs"), "{text}");
        let bed = Bed::open(over, [1, 1], ",queues=2", ",queues=2").unwrap();
        assert_eq!((bed.driver.len(), bed.device.len()), (2, 2));
    }
    // Whoever comes first to a loop decides; the device takes on what its driver has.
    let bed = Bed::open(Over::LoopDriverFirst, [3, 2], "", "").unwrap();
    assert_eq!((bed.driver.len(), bed.device.len()), (3, 3));
}
