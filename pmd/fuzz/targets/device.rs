//! A virtio device that lies to our driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pmd::fuzzing::device(data));
