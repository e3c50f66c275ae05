//! A virtio driver that lies to our device.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pmd::fuzzing::driver(data));
