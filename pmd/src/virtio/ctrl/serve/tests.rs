//! Driver and device of a control queue against each other, and each against one that lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::mem::{PageSize, Region, RegionConfig};
use crate::virtio::attach::GuestMemory;
use crate::virtio::ctrl::queue::{self, ControlQueue};
use crate::virtio::ctrl::{Command, ControlError, ReceiveMode};
use crate::virtio::ring::played::Played;

fn region() -> Arc<Region> {
    Region::new(RegionConfig { len_bytes: 1 << 16, page: PageSize::Ordinary, numa_node: None }).unwrap()
}

fn server(region: &Arc<Region>, driver: &ControlQueue) -> ControlServer {
    let memory = Arc::new(GuestMemory::of_region(region));
    ControlServer::new(&Ring::new(2, &driver.layout(), memory).unwrap())
}

/// Runs `device` until the driver's call is over.
fn against<T: Send>(mut device: impl FnMut() + Send, driver: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                device();
                std::thread::yield_now();
            }
        });
        let result = driver();
        over.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn every_command_arrives_as_it_was_sent_and_its_answer_comes_back() {
    let commands = [
        Command::Receive(ReceiveMode::Promiscuous, true),
        Command::MacTable { unicast: vec![[2; 6]; 100], multicast: vec![[1; 6]; 256] },
        Command::VlanAdd(5),
        Command::QueuePairs(2),
        Command::Announced,
    ];
    for is_packed in [false, true] {
        for size in if is_packed { [2, 3, 4] } else { [2, 4, 8] } {
            let region = region();
            let mut driver = ControlQueue::new(&region, size, is_packed).unwrap();
            let mut device = server(&region, &driver);
            let mut seen = Vec::new();
            let mut refuse = false;
            against(
                || {
                    device.serve(|bytes| {
                        seen.push(Command::decode(bytes).unwrap());
                        refuse = !refuse;
                        refuse
                    });
                },
                || {
                    for _ in 0..20 {
                        for pair in commands.chunks(2) {
                            driver.send(&pair[0]).unwrap();
                            let second = driver.send(pair.get(1).unwrap_or(&Command::Announced));
                            assert!(matches!(second, Err(ControlError::Refused(_))), "{second:?}");
                        }
                    }
                },
            );
            assert_eq!(seen.len(), 120, "size {size}, packed {is_packed}");
            assert_eq!(seen[..5], commands);
            assert_eq!(device.fault(), None);
        }
    }
}

#[test]
fn a_device_that_lies_or_is_silent_stops_the_queue_for_good() {
    type Lie = fn(&mut Played, u16);
    let lies: [(Lie, &str); 4] = [
        (|played, _| played.use_id(1, 1, 1, 2), "which it does not hold"),
        (|played, _| played.use_id(900, 1, 1, 2), "of a virtqueue of 4"),
        (|played, id| played.use_id(id.into(), 2, 1, 2), "into a buffer of 1"),
        (|_, _| {}, "within 20 ms"),
    ];
    for is_packed in [false, true] {
        for (lie, expected) in lies {
            let region = region();
            let mut driver = ControlQueue::new(&region, queue::SIZE, is_packed).unwrap();
            driver.answer_within = std::time::Duration::from_millis(20);
            let mut played = Played::new(&driver.layout(), 0, false);
            let command = Command::QueuePairs(1);
            let error = against(
                || {
                    if let Some(held) = played.take() {
                        lie(&mut played, held.id);
                    }
                },
                || driver.send(&command).unwrap_err(),
            );
            let mut text = error.to_string();
            if let ControlError::Fault(fault) = error {
                text += &format!(": {fault}");
            }
            assert!(text.contains(expected), "{text}");
            let again = std::time::Instant::now();
            driver.send(&command).unwrap_err();
            assert!(again.elapsed().as_millis() < 15, "it does not wait again");
        }
    }
}

#[test]
fn an_index_that_jumps_is_a_lie() {
    let region = region();
    let mut driver = ControlQueue::new(&region, queue::SIZE, false).unwrap();
    let mut played = Played::new(&driver.layout(), 0, false);
    played.go_on(7);
    let error = driver.send(&Command::Announced).unwrap_err();
    assert!(
        matches!(error, ControlError::Fault(QueueFault::UsedIndexJump { moved: 7, outstanding: 1 })),
        "{error:?}"
    );
}

/// A driver's ring, written by the test.
struct Liar {
    region: Arc<Region>,
    driver: ControlQueue,
    device: ControlServer,
}

impl Liar {
    fn new() -> Self {
        let region = region();
        let driver = ControlQueue::new(&region, queue::SIZE, false).unwrap();
        let device = server(&region, &driver);
        Self { region, driver, device }
    }

    fn areas(&self) -> split::Areas {
        let layout = self.driver.layout();
        // SAFETY: carved by the driver, whose region is kept.
        unsafe {
            split::Areas::new(
                layout.descriptors.0 as *mut u8,
                layout.available.0 as *mut u8,
                layout.used.0 as *mut u8,
                layout.size,
            )
        }
    }

    /// What comes of a chain from `head` on.
    fn told(&mut self, head: u16, descriptors: &[Descriptor]) -> (Vec<Vec<u8>>, Option<QueueFault>) {
        let areas = self.areas();
        for (id, descriptor) in (0..).zip(descriptors) {
            areas.write_descriptor(id, *descriptor);
        }
        let next = areas.available_index();
        areas.write_available(next, head);
        areas.publish_available(next.wrapping_add(1));
        let mut seen = Vec::new();
        self.device.serve(|bytes| {
            seen.push(bytes.to_vec());
            true
        });
        (seen, self.device.fault())
    }

    fn piece(&self, offset: u64, len: u32, flags: u16, next: u16) -> Descriptor {
        Descriptor { address: self.region.iova().0 + offset, len, flags, next }
    }
}

#[test]
fn a_driver_that_lies_stops_the_queue_and_nonsense_is_refused() {
    let (next, write) = (DESC_F_NEXT, DESC_F_WRITE);
    let mut liar = Liar::new();
    // Any number of pieces, no answer wanted, no command at all: served.
    let chain = [liar.piece(0, 1, next, 1), liar.piece(9, 1, next, 2), liar.piece(50_000, 1, write, 0)];
    assert_eq!(liar.told(0, &chain).0.len(), 1);
    let chain = [liar.piece(0, 2, 0, 0)];
    assert_eq!(liar.told(0, &chain), (vec![], None), "nobody to answer, nothing done");
    let chain = [liar.piece(50_000, 1, write, 0)];
    assert_eq!(liar.told(0, &chain).0, vec![vec![]; 1], "an empty command, to be refused by its reader");
    let chain = [liar.piece(0, 5000, next, 1), liar.piece(50_000, 1, write, 0)];
    assert_eq!(liar.told(0, &chain), (vec![], None), "too long to be one");
    // Lies.
    let faults: [(u16, Vec<Descriptor>, QueueFault); 6] = [
        (4, vec![], QueueFault::DescriptorOutOfRange { id: 4, size: 4 }),
        (0, vec![liar.piece(0, 1, next, 0)], QueueFault::ChainTooLong { size: 4 }),
        (0, vec![liar.piece(0, 1, next, 9)], QueueFault::DescriptorOutOfRange { id: 9, size: 4 }),
        (
            0,
            vec![liar.piece(0, 1, write | next, 1), liar.piece(0, 1, 0, 0)],
            QueueFault::BadDescriptorFlags { flags: 0 },
        ),
        (
            0,
            vec![Descriptor { address: 16, len: 4, flags: 0, next: 0 }],
            QueueFault::AddressNotShared { address: 16, len: 4 },
        ),
        (0, vec![liar.piece(0, 24, DESC_F_INDIRECT, 0)], QueueFault::BadIndirectTable { len: 24, size: 4 }),
    ];
    for (head, chain, fault) in faults {
        let mut liar = Liar::new();
        let base = liar.region.iova().0;
        let chain: Vec<_> = chain
            .iter()
            .map(|piece| match piece.address {
                16 => *piece,
                _ => Descriptor { address: base, ..*piece },
            })
            .collect();
        assert_eq!(liar.told(head, &chain), (vec![], Some(fault)));
        assert_eq!(liar.told(0, &[]).0.len(), 0, "it stands still");
    }
}

proptest! {
    #[test]
    fn no_table_of_descriptors_is_too_wild_for_the_device(
        descriptors in prop::collection::vec(
            (prop_oneof![Just(0_u64), Just(16), 0..70_000_u64], prop_oneof![Just(16_u32), Just(64), 0..5000_u32], 0..8_u16, 0..6_u16), 4),
        head in 0..6_u16,
    ) {
        let mut liar = Liar::new();
        let base = liar.region.iova().0;
        let chain: Vec<_> = descriptors
            .into_iter()
            .map(|(offset, len, flags, next)| Descriptor { address: base + offset, len, flags, next })
            .collect();
        for _ in 0..3 {
            liar.told(head, &chain);
        }
    }
}
