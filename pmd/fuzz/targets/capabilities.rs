//! A PCI device whose configuration space and BARs say anything.
#![no_main]

use pmd::vfio::pci::{Bar, CONFIG_BYTES, Structure, choose, virtio_capabilities};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut config = [0; CONFIG_BYTES];
    let len = data.len().min(CONFIG_BYTES);
    config[..len].copy_from_slice(&data[..len]);
    let Ok(found) = virtio_capabilities(&config) else { return };
    assert!(found.len() <= 48, "{} capabilities", found.len());

    let mut rest = data[len..].chunks(4);
    let mut size =
        || rest.next().map_or(0, |bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let bars = std::array::from_fn(|_| match size() {
        0 => Bar::Absent,
        odd if odd % 2 == 1 => Bar::IoPorts { size: odd },
        even => Bar::Memory { size: even, mappable: vec![(size(), size())] },
    });
    for structure in [Structure::Common, Structure::Notify, Structure::Device] {
        let Ok(chosen) = choose(&found, structure, &bars) else { continue };
        let (begin, end) = (u64::from(chosen.offset), u64::from(chosen.offset) + u64::from(chosen.length));
        let Bar::Memory { size, mappable } = &bars[usize::from(chosen.bar)] else {
            panic!("{chosen:?} of {bars:?}")
        };
        let mapped = mappable.iter().any(|(start, len)| *start <= begin && end <= start.saturating_add(*len));
        assert!(mapped && end <= *size && chosen.length >= structure.min_bytes(), "{chosen:?} of {bars:?}");
    }
});
