//! Registers in a file instead of a device: what a device that only remembers can show, and one that lies.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::mem::Iova;

const NOTIFY: u64 = 4096;
const CONFIG: u64 = 8192;

/// The registers of a device, each a byte in a file that the transport maps.
struct Picture {
    file: File,
}

impl Picture {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * 4096).unwrap();
        Self { file }
    }

    fn set(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at as u64).unwrap();
        bytes
    }

    fn set_u16(&self, at: usize, value: u16) {
        self.set(at as u64, &value.to_le_bytes());
    }

    fn transport(&self) -> Vfio {
        let window = |offset, len| Window::map(self.file.as_raw_fd(), offset, len, Arc::new(())).unwrap();
        Vfio {
            common: window(0, 56),
            notify: Arc::new(window(NOTIFY, 12)),
            notify_off_multiplier: 4,
            config: window(CONFIG, 12),
            selection: Mutex::default(),
            vectors: Vec::new(),
            interrupts: Mutex::default(),
            bus_master: None,
            request: None,
            device: None,
        }
    }
}

fn layout(size: u16) -> RingLayout {
    RingLayout {
        size,
        packed: false,
        descriptors: Iova(0x1_2345_6780),
        available: Iova(0x2_0000_0000),
        used: Iova(0x3_0000_0004),
    }
}

#[test]
fn queue_is_described_enabled_and_notified() {
    let picture = Picture::new();
    picture.set_u16(common::QUEUE_SIZE, 256);
    picture.set_u16(common::QUEUE_NOTIFY_OFF, 2);
    let notifier = picture.transport().enable_queue(1, &layout(256)).unwrap();
    assert_eq!(picture.get(common::QUEUE_SELECT), [1, 0]);
    assert_eq!(picture.get(common::QUEUE_MSIX_VECTOR), NO_VECTOR.to_le_bytes());
    assert_eq!(picture.get(common::QUEUE_ENABLE), [1, 0]);
    assert_eq!(picture.get(common::QUEUE_DESC), 0x1_2345_6780_u64.to_le_bytes());
    assert_eq!(picture.get(common::QUEUE_DRIVER), 0x2_0000_0000_u64.to_le_bytes());
    assert_eq!(picture.get(common::QUEUE_DEVICE), 0x3_0000_0004_u64.to_le_bytes());
    // The transport is gone, the notifier keeps the mapping.
    picture.set(NOTIFY + 8, &[0xff, 0xff]);
    notifier.notify();
    assert_eq!(picture.get(4096 + 8), [1, 0]);
}

#[test]
fn queue_larger_than_the_device_allows_is_refused() {
    let picture = Picture::new();
    picture.set_u16(common::QUEUE_SIZE, 128);
    let transport = picture.transport();
    assert_eq!(transport.max_queue_size(3).unwrap(), 128);
    let error = transport.enable_queue(0, &layout(256)).unwrap_err();
    assert!(matches!(error, TransportError::Queue { queue: 0, size: 256, max: 128 }), "{error}");
    let error = transport.enable_queue(0, &layout(0)).unwrap_err();
    assert!(matches!(error, TransportError::Queue { size: 0, .. }), "{error}");
    assert_eq!(picture.get(common::QUEUE_ENABLE), [0, 0]);
}

#[test]
fn notification_register_outside_its_structure_is_refused() {
    for (notify_off, multiplier) in [(3, 4), (0xffff, u32::MAX), (1, 11), (1, 3)] {
        let picture = Picture::new();
        picture.set_u16(common::QUEUE_SIZE, 256);
        picture.set_u16(common::QUEUE_NOTIFY_OFF, notify_off);
        let mut transport = picture.transport();
        transport.notify_off_multiplier = multiplier;
        let error = transport.enable_queue(0, &layout(256)).unwrap_err().to_string();
        assert!(error.contains("notification register of virtqueue 0 at 0x"), "{error}");
        assert_eq!(picture.get(common::QUEUE_ENABLE), [0, 0]);
    }
}

#[test]
fn configuration_is_read_within_its_bounds() {
    let picture = Picture::new();
    picture.set(CONFIG, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let transport = picture.transport();
    let mut mac = [0; 6];
    transport.read_config(0, &mut mac).unwrap();
    assert_eq!(mac, [1, 2, 3, 4, 5, 6]);
    let mut mtu = [0; 2];
    transport.read_config(10, &mut mtu).unwrap();
    assert_eq!(mtu, [11, 12]);
    for offset in [11, 12, usize::MAX] {
        let error = transport.read_config(offset, &mut mtu).unwrap_err();
        assert!(error.to_string().contains("configuration has 12 bytes"), "{error}");
    }
}

#[test]
fn device_that_was_unplugged_is_gone() {
    let picture = Picture::new();
    let transport = picture.transport();
    assert!(transport.is_present());
    transport.set_status(1).unwrap();
    transport.set_status(2).unwrap();
    assert_eq!(transport.status().unwrap(), 3);
    // Nothing sticks to a bus without a device; a file remembers, so the status is set anew for each call.
    let unplugged = || picture.set(common::DEVICE_STATUS as u64, &[ALL_ONES]);
    let gone = |result: Result<(), TransportError>| {
        assert!(matches!(result, Err(TransportError::Gone { .. })), "{result:?}");
        unplugged();
    };
    unplugged();
    assert!(!transport.is_present());
    gone(transport.status().map(drop));
    gone(transport.set_status(4));
    gone(transport.device_features().map(drop));
    gone(transport.set_driver_features(0));
    gone(transport.read_config(0, &mut [0]));
    gone(transport.queue_count().map(drop));
    gone(transport.max_queue_size(0).map(drop));
    gone(transport.enable_queue(0, &layout(8)).map(drop));
}

#[test]
fn reset_is_waited_for_but_not_for_ever() {
    let limit = Duration::from_millis(20);
    let reads = Cell::new(0);
    let slow = || {
        reads.set(reads.get() + 1);
        Ok(if reads.get() < 4 { 7 } else { 0 })
    };
    wait_for_reset(Duration::from_secs(10), slow).unwrap();
    assert_eq!(reads.get(), 4);
    let never = wait_for_reset(limit, || Ok(4)).unwrap_err();
    assert_eq!(never.to_string(), "the device did not come back from its reset within 20 ms");
    let gone = wait_for_reset(limit, || Err(TransportError::Gone { what: "reset it" })).unwrap_err();
    assert!(matches!(gone, TransportError::Gone { .. }), "{gone}");
}

#[test]
fn configuration_is_all_from_one_generation_or_an_error() {
    let generations = Cell::new(0_u8);
    let copies = Cell::new(0);
    let copy = || copies.set(copies.get() + 1);
    // Changes between the first two reads only.
    let settles = || {
        generations.set(generations.get() + 1);
        generations.get().min(2)
    };
    read_in_one_generation(settles, copy).unwrap();
    assert_eq!(copies.take(), 2);
    let never = || {
        generations.set(generations.get().wrapping_add(1));
        generations.get()
    };
    let error = read_in_one_generation(never, copy).unwrap_err();
    assert!(error.to_string().contains("changed during each of 16 reads"), "{error}");
    assert_eq!(copies.get(), 16);
}

#[test]
fn receive_queues_get_a_vector_each_as_far_as_there_are_any() {
    let picture = Picture::new();
    picture.set(common::QUEUE_SIZE as u64, &256_u16.to_le_bytes());
    let mut transport = picture.transport();
    transport.vectors = vec![crate::virtio::transport::Interrupt::new().unwrap()];
    for (queue, vector) in [(0_u16, 0_u16), (1, NO_VECTOR), (2, NO_VECTOR)] {
        transport.enable_queue(queue, &layout(256)).unwrap();
        assert_eq!(picture.get(common::QUEUE_MSIX_VECTOR), vector.to_le_bytes(), "queue {queue}");
        assert_eq!(transport.interrupt(queue).is_some(), vector != NO_VECTOR, "queue {queue}");
    }
}
