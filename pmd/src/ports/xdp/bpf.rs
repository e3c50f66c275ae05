//! bpf(2): the map of sockets, the program, and the link that ties it to the interface.
//!
//! The link is a file descriptor: when the last one is closed, which the end of a process does whatever the reason, the
//! kernel takes the program off the interface. Nothing is pinned, nothing stays behind.
//! Source: bpf(2), Linux `kernel/bpf/syscall.c`, `net/core/dev.c` (`dev_xdp_attach`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::abi::{self, cmd};

/// What the program is called in lists such as `bpftool prog`.
pub(super) const PROGRAM_NAME: &str = "bywash_xdp";

/// Bytes for what the verifier says.
const LOG_BYTES: u32 = 16 << 10;

/// # Safety
/// `attr` is what `command` reads, and every address in it is valid for what the command does with it.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes; the rest as the caller promised.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    i32::try_from(answer).ok().filter(|answer| *answer >= 0).ok_or_else(io::Error::last_os_error)
}

/// As [`bpf`], for commands that return a new file descriptor.
///
/// # Safety
/// As `bpf`, and the command is such a one.
unsafe fn bpf_open<T>(command: i32, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promised.
    let fd = unsafe { bpf(command, attr)? };
    // SAFETY: just opened (close-on-exec, as the kernel opens them all), and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// A name in the kernel's form: letters, digits, underscores; ends with a zero.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..15].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

/// A map of AF_XDP sockets, by queue.
pub(super) fn create_socket_map(queues: u32) -> io::Result<OwnedFd> {
    let mut attr = abi::MapCreate {
        map_type: abi::MAP_TYPE_XSKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: queues,
        map_name: object_name("bywash_xsks"),
        ..Default::default()
    };
    // SAFETY: no addresses in it.
    unsafe { bpf_open(cmd::MAP_CREATE, &mut attr) }
}

/// Puts a socket into the map.
pub(super) fn set_socket(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let socket = number(socket);
    let mut attr = abi::MapElem {
        map_fd: number(map),
        key: (&raw const queue) as u64,
        value: (&raw const socket) as u64,
        ..Default::default()
    };
    // SAFETY: key and value are four bytes each, as the map was created with, and live until the call returns.
    unsafe { bpf(cmd::MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Loads the program.
///
/// # Errors
/// errno, and what the verifier said, if it said something.
pub(super) fn load_program(insns: &[abi::Insn]) -> Result<OwnedFd, (io::Error, String)> {
    // We call one helper, which is not restricted to the GPL.
    const LICENSE: &std::ffi::CStr = c"MIT OR Apache-2.0";
    let mut attr = abi::ProgLoad {
        prog_type: abi::PROG_TYPE_XDP,
        insn_cnt: u32::try_from(insns.len()).unwrap_or(u32::MAX),
        insns: insns.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        prog_name: object_name(PROGRAM_NAME),
        expected_attach_type: abi::ATTACH_XDP,
        ..Default::default()
    };
    // SAFETY: `insns` has as many instructions as it says; the license ends with a zero.
    let loaded = unsafe { bpf_open(cmd::PROG_LOAD, &mut attr) };
    loaded.map_err(|error| {
        if error.raw_os_error() == Some(libc::EPERM) {
            return (error, String::new());
        }
        let mut log = vec![0_u8; LOG_BYTES as usize];
        (attr.log_level, attr.log_size, attr.log_buf) = (1, LOG_BYTES, log.as_mut_ptr() as u64);
        // SAFETY: as above; the log is writable for `log_size` bytes and lives until the call returns.
        drop(unsafe { bpf_open(cmd::PROG_LOAD, &mut attr) });
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        (error, String::from_utf8_lossy(&log[..end]).trim().to_owned())
    })
}

/// Ties the program to the interface for as long as the link is open.
pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = abi::LinkCreate {
        prog_fd: number(program),
        target_ifindex: ifindex,
        attach_type: abi::ATTACH_XDP,
        flags,
    };
    // SAFETY: no addresses in it.
    unsafe { bpf_open(cmd::LINK_CREATE, &mut attr) }
}

/// What the program with this id is called; none if it has no name, is gone, or we may not ask.
pub(super) fn program_name(id: u32) -> Option<String> {
    let mut attr = abi::GetId { id, ..Default::default() };
    // SAFETY: no addresses in it.
    let program = unsafe { bpf_open(cmd::PROG_GET_FD_BY_ID, &mut attr) }.ok()?;
    let mut info = abi::ProgInfo::default();
    let mut attr = abi::GetInfo {
        fd: number(std::os::fd::AsFd::as_fd(&program)),
        info_len: size_of::<abi::ProgInfo>().try_into().ok()?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `info` is writable for the bytes it says and lives until the call returns; the kernel reads the pointers in
    // it, which are null, and writes nothing through them as the numbers beside them are zero.
    unsafe { bpf(cmd::OBJ_GET_INFO_BY_FD, &mut attr) }.ok()?;
    let name: Vec<u8> = info.name.into_iter().take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}
