//! Frames made by the kernel: one XDP program run over and over, its frames sent through an interface.
//!
//! No packet buffer of the stack is made for them, so one core offers several times what a program receives on the
//! other. Source: bpf(2), Linux `Documentation/bpf/bpf_prog_run.rst` ("live frames", Linux 5.18).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Frames in each call: about a second. A call begins by making its frames and ends by waiting until the kernel has let
/// go of them, which takes 10 ms and more in which nothing is sent: with calls of 2^14 frames it was most of the time.
const FRAMES_A_CALL: u32 = 1 << 20;

const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const PROG_TYPE_XDP: u32 = 6;
const TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// The fields of `union bpf_attr` that `BPF_PROG_LOAD` reads; the rest is zero.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 4],
}

/// Those of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// # Safety
/// `attr` is what `command` reads, and every address in it is valid for what the command does with it.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes; the rest as the caller promised.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    i32::try_from(answer).ok().filter(|answer| *answer >= 0).ok_or_else(io::Error::last_os_error)
}

/// `return XDP_TX`: out of the interface that the frame is said to have come from.
fn load() -> io::Result<OwnedFd> {
    // r0 = 3; exit
    const PROGRAM: [u64; 2] = [0x0000_0003_0000_00b7, 0x0000_0000_0000_0095];
    let mut attr = ProgLoad {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: PROGRAM.as_ptr() as u64,
        license: c"MIT OR Apache-2.0".as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: two instructions, and a license that ends with a zero.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr)? };
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `frame` out of interface `name` of the calling thread's network namespace until `stop`, as fast as it goes.
///
/// # Errors
/// The system's.
pub fn send_until(stop: &AtomicBool, name: &std::ffi::CStr, frame: &[u8]) -> io::Result<()> {
    // SAFETY: a string that ends with a zero.
    let ingress_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if ingress_ifindex == 0 {
        return Err(io::Error::last_os_error());
    }
    let program = load()?;
    let data_end = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let context = XdpMd { data_end, ingress_ifindex, ..Default::default() };
    // ORDERING: Relaxed. A flag on its own.
    while !stop.load(Ordering::Relaxed) {
        let mut attr = TestRun {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            data_size_in: data_end,
            data_in: frame.as_ptr() as u64,
            repeat: FRAMES_A_CALL,
            ctx_size_in: u32::try_from(size_of::<XdpMd>()).map_err(io::Error::other)?,
            ctx_in: (&raw const context) as u64,
            flags: TEST_XDP_LIVE_FRAMES,
            batch_size: 64,
            ..Default::default()
        };
        // SAFETY: the frame and the context are readable for the bytes they say, and live until the call returns;
        // nothing is written back.
        match unsafe { bpf(PROG_TEST_RUN, &mut attr) } {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
