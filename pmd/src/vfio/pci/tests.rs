use proptest::prelude::*;

use super::*;

/// The configuration space of a modern virtio-net device as QEMU makes it: MSI-X first, then the structures of
/// BAR 4, one page each.
fn modern() -> ConfigSpace {
    let mut config = [0; CONFIG_BYTES];
    config[register::VENDOR_ID..][..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
    config[register::STATUS] = 0x10;
    config[register::CAPABILITIES] = 0x98;
    config[0x98..][..4].copy_from_slice(&[0x11, 0x84, 2, 0x80]);
    put(&mut config, 0x84, 0x70, 14, 5, 0, 0, 0);
    put(&mut config, 0x70, 0x60, 20, 2, 4, 0x3000, 0x1000);
    config[0x80] = 4;
    put(&mut config, 0x60, 0x50, 16, 4, 4, 0x2000, 0x1000);
    put(&mut config, 0x50, 0x40, 16, 3, 4, 0x1000, 0x1000);
    put(&mut config, 0x40, 0, 16, 1, 4, 0, 0x1000);
    config
}

#[expect(clippy::too_many_arguments)]
fn put(config: &mut ConfigSpace, at: usize, next: u8, len: u8, kind: u8, bar: u8, offset: u32, length: u32) {
    config[at..][..5].copy_from_slice(&[VENDOR_SPECIFIC, next, len, kind, bar]);
    config[at + 8..][..4].copy_from_slice(&offset.to_le_bytes());
    config[at + 12..][..4].copy_from_slice(&length.to_le_bytes());
}

fn memory(size: u64) -> Bar {
    Bar::Memory { size, mappable: vec![(0, size)] }
}

fn bars_with(bar4: Bar) -> [Bar; 6] {
    [Bar::Absent, memory(0x1000), Bar::Absent, Bar::Absent, bar4, Bar::Absent]
}

fn common(offset: u32, length: u32) -> Capability {
    Capability { structure: Structure::Common, bar: 4, offset, length, notify_off_multiplier: 0 }
}

#[test]
fn structures_of_a_modern_device_are_found() {
    let capabilities = virtio_capabilities(&modern()).unwrap();
    let bars = bars_with(memory(0x4000));
    let common = choose(&capabilities, Structure::Common, &bars).unwrap();
    assert_eq!((common.bar, common.offset, common.length), (4, 0, 0x1000));
    let notify = choose(&capabilities, Structure::Notify, &bars).unwrap();
    assert_eq!((notify.offset, notify.notify_off_multiplier), (0x3000, 4));
    assert_eq!(choose(&capabilities, Structure::Device, &bars).unwrap().offset, 0x2000);
}

#[test]
fn device_without_capabilities_has_no_structures() {
    let mut config = modern();
    config[register::STATUS] = 0;
    let none = virtio_capabilities(&config).unwrap();
    assert_eq!(none, []);
    let error = choose(&none, Structure::Common, &bars_with(memory(0x4000))).unwrap_err();
    assert_eq!(error, PciError::Missing { structure: Structure::Common });
}

#[test]
fn list_that_loops_is_refused() {
    let mut config = modern();
    config[0x41] = 0x98;
    assert_eq!(virtio_capabilities(&config), Err(PciError::Loop { at: 0x98 }));
}

#[test]
fn capability_in_the_header_is_refused() {
    let mut config = modern();
    config[0x41] = 0x10;
    assert_eq!(virtio_capabilities(&config), Err(PciError::InHeader { at: 0x10 }));
}

#[test]
fn short_capability_is_refused_also_at_the_end_of_the_space() {
    let mut config = modern();
    config[0x72] = 16;
    assert_eq!(virtio_capabilities(&config), Err(PciError::Truncated { at: 0x70, len: 16 }));
    let mut config = modern();
    config[register::CAPABILITIES] = 0xf4;
    config[0xf4..][..4].copy_from_slice(&[VENDOR_SPECIFIC, 0, 20, 1]);
    assert_eq!(virtio_capabilities(&config), Err(PciError::Truncated { at: 0xf4, len: 20 }));
}

#[test]
fn reserved_bars_and_kinds_are_passed_over() {
    let mut config = modern();
    config[0x44] = 6;
    config[0x63] = 0x77;
    let found: Vec<_> = virtio_capabilities(&config).unwrap().iter().map(|c| c.structure).collect();
    assert_eq!(found, [Structure::Notify]);
}

#[test]
fn first_usable_capability_is_taken() {
    let capabilities = [Capability { bar: 0, ..common(0, 64) }, common(0x100, 64)];
    let mut bars = bars_with(memory(0x1000));
    bars[0] = Bar::IoPorts { size: 64 };
    assert_eq!(choose(&capabilities, Structure::Common, &bars), Ok(common(0x100, 64)));
    let error = choose(&capabilities[..1], Structure::Common, &bars).unwrap_err();
    assert_eq!(error, PciError::IoPorts { structure: Structure::Common, bar: 0 });
}

#[test]
fn structure_must_lie_in_its_bar() {
    let outside = |offset, length, size| {
        let error =
            choose(&[common(offset, length)], Structure::Common, &bars_with(memory(size))).unwrap_err();
        assert!(matches!(error, PciError::OutsideBar { .. }), "{error}");
    };
    outside(0xfc8 + 4, 56, 0x1000);
    outside(0xffff_fffc, u32::MAX, 0x1000);
    outside(0, 0x1001, 0x1000);
    choose(&[common(0xfc8, 56)], Structure::Common, &bars_with(memory(0x1000))).unwrap();
    let error = choose(&[common(0, 64)], Structure::Common, &bars_with(Bar::Absent)).unwrap_err();
    assert!(matches!(error, PciError::OutsideBar { size: 0, .. }), "{error}");
}

#[test]
fn short_and_unaligned_structures_are_refused() {
    let choose =
        |capability| choose(&[capability], Structure::Common, &bars_with(memory(0x1000))).unwrap_err();
    assert!(matches!(choose(common(0, 55)), PciError::TooShort { length: 55, min: 56, .. }));
    assert!(matches!(choose(common(2, 64)), PciError::Misaligned { offset: 2, align: 4, .. }));
}

#[test]
fn page_of_the_msix_table_is_not_mapped() {
    let bar = Bar::Memory { size: 0x4000, mappable: vec![(0, 0x1000), (0x2000, 0x2000)] };
    let bars = bars_with(bar);
    let error = choose(&[common(0x1000, 64)], Structure::Common, &bars).unwrap_err();
    assert!(matches!(error, PciError::NotMappable { bar: 4, offset: 0x1000, .. }), "{error}");
    choose(&[common(0x3000, 0x1000)], Structure::Common, &bars).unwrap();
    let error = choose(&[common(0xfe0, 64)], Structure::Common, &bars).unwrap_err();
    assert!(matches!(error, PciError::NotMappable { .. }), "{error}");
}

fn any_config() -> impl Strategy<Value = ConfigSpace> {
    let noise = proptest::collection::vec(any::<u8>(), CONFIG_BYTES);
    // Half of the bytes that matter are made plausible, or the walk would end at the first step.
    let hints = proptest::collection::vec((0_u8..48, any::<bool>(), 0_u8..48, 0_u8..24, 0_u8..6), 0..20);
    (noise, hints, 0_u8..64).prop_map(|(noise, hints, first)| {
        let mut config: ConfigSpace = noise.try_into().unwrap();
        config[register::STATUS] |= 0x10;
        config[register::CAPABILITIES] = first * 4;
        for (slot, virtio, next, len, kind) in hints {
            let at = register::FIRST_CAPABILITY + usize::from(slot) * 4;
            let id = if virtio { VENDOR_SPECIFIC } else { 0x11 };
            config[at..][..4].copy_from_slice(&[id, 0x40 + next * 4, len, kind]);
        }
        config
    })
}

fn any_bar() -> impl Strategy<Value = Bar> {
    let piece = (0_u64..0x3000, 0_u64..0x3000);
    let size = prop_oneof![0_u64..0x4000, any::<u64>()];
    prop_oneof![
        1 => Just(Bar::Absent),
        1 => (1_u64..256).prop_map(|size| Bar::IoPorts { size }),
        4 => (size, proptest::collection::vec(piece, 0..3))
            .prop_map(|(size, mappable)| Bar::Memory { size, mappable }),
    ]
}

fn any_capability() -> impl Strategy<Value = Capability> {
    let structure = prop_oneof![Just(Structure::Common), Just(Structure::Notify), Just(Structure::Device)];
    let offset = prop_oneof![4 => (0_u32..0x800).prop_map(|words| 4 * words), 1 => any::<u32>()];
    let length = prop_oneof![4 => 0_u32..0x1000, 1 => any::<u32>()];
    (structure, 0_u8..8, offset, length).prop_map(|(structure, bar, offset, length)| Capability {
        structure,
        bar,
        offset,
        length,
        notify_off_multiplier: 4,
    })
}

proptest! {
    /// Whatever the device says, the walk ends, and what it finds comes out of the list.
    #[test]
    fn any_configuration_space_is_walked(config in any_config()) {
        if let Ok(found) = virtio_capabilities(&config) {
            prop_assert!(found.len() <= (CONFIG_BYTES - register::FIRST_CAPABILITY) / 4);
            for capability in found {
                prop_assert!(capability.bar <= 5);
            }
        }
    }

    /// What is chosen can be mapped: it lies within the BAR and within a part the kernel lets us have.
    #[test]
    fn chosen_structure_lies_in_a_mappable_part(
        capabilities in proptest::collection::vec(any_capability(), 0..6),
        bars in proptest::array::uniform6(any_bar()),
    ) {
        for structure in [Structure::Common, Structure::Notify, Structure::Device] {
            let Ok(chosen) = choose(&capabilities, structure, &bars) else { continue };
            let Bar::Memory { size, mappable } = &bars[usize::from(chosen.bar)] else {
                panic!("chose {chosen:?} in {bars:?}")
            };
            let end = u64::from(chosen.offset) + u64::from(chosen.length);
            prop_assert!(end <= *size && chosen.length >= structure.min_bytes());
            let inside = |(start, len): &(u64, u64)| *start <= u64::from(chosen.offset) && end <= start + len;
            prop_assert!(mappable.iter().any(inside));
        }
    }
}
