//! The kernel's interface to TAP: ioctls on `/dev/net/tun`, questions about the interface, one frame a call.
//! Source: Linux `include/uapi/linux/if_tun.h`, netdevice(7).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use arrayvec::ArrayVec;
use libc::{c_int, c_short, c_uint, c_ulong, ifreq, iovec};

use crate::mem::Mbuf;
use crate::virtio::header::HeaderBytes;

/// The most buffers one frame is read into or written from, beside the header; far below the kernel's `IOV_MAX`.
pub(super) const MAX_PIECES: usize = 64;

/// A header and buffers, for one system call.
type Pieces = ArrayVec<iovec, { 1 + MAX_PIECES }>;

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // at most 65
fn count(pieces: &Pieces) -> c_int {
    pieces.len() as c_int
}

/// Opens the TUN/TAP driver, not yet attached to an interface; calls on it do not block.
pub(super) fn open() -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    Ok(file.into())
}

/// An `ifreq` that names an interface; the rest is zero.
fn request(name: &str) -> ifreq {
    // SAFETY: zero is a value of every field: integers, and a union of integers, addresses and a pointer.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero; names that long were refused before.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

/// # Safety
/// `ask` is an ioctl that `fd` knows and that takes a pointer to an `ifreq`.
unsafe fn ioctl_ifreq(fd: &OwnedFd, ask: c_ulong, request: &mut ifreq) -> io::Result<()> {
    // SAFETY: the pointer is valid for the call, the rest as the caller promised.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), ask, std::ptr::from_mut(request)) })
}

fn check(answer: c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `fd` a queue of the TAP interface `name`, with virtio-net headers and without packet information, creating the
/// interface if there is none.
pub(super) fn attach(fd: &OwnedFd, name: &str, more_flags: c_int) -> io::Result<()> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more_flags;
    let mut request = request(name);
    #[allow(clippy::cast_possible_truncation)] // all of them lie in the lower 15 bits
    let flags = flags as c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF takes an ifreq.
    unsafe { ioctl_ifreq(fd, libc::TUNSETIFF, &mut request) }
}

/// Sets how many bytes precede each frame.
pub(super) fn set_header_bytes(fd: &OwnedFd, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: TUNSETVNETHDRSZ reads an int through the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// Tells the kernel which frames we take: with `all`, those without a checksum and of up to 64 KiB of TCP; without, only
/// finished ones, summed, and segmented to the MTU.
pub(super) fn set_offloads(fd: &OwnedFd, all: bool) -> io::Result<()> {
    let takes = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let takes: c_uint = if all { takes } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes a number, not a pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(takes)) })
}

/// Makes the interface outlive its file descriptors.
pub(super) fn set_persistent(fd: &OwnedFd) -> io::Result<()> {
    let yes: c_ulong = 1;
    // SAFETY: TUNSETPERSIST takes a number, not a pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, yes) })
}

/// What the interface is called now.
pub(super) fn name(fd: &OwnedFd) -> io::Result<String> {
    let mut request = request("");
    // SAFETY: TUNGETIFF takes an ifreq.
    unsafe { ioctl_ifreq(fd, libc::TUNGETIFF, &mut request)? };
    let bytes: Vec<u8> =
        request.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|b| *b != 0).collect();
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// A socket that questions about interfaces go through; it belongs to the network namespace it was opened in.
pub(super) struct Control(OwnedFd);

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: just opened, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn ask(&self, what: c_ulong, name: &str) -> io::Result<ifreq> {
        let mut request = request(name);
        // SAFETY: all callers are below and ask what takes an ifreq.
        unsafe { ioctl_ifreq(&self.0, what, &mut request)? };
        Ok(request)
    }

    pub(super) fn exists(&self, name: &str) -> io::Result<bool> {
        match self.flags(name) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn flags(&self, name: &str) -> io::Result<c_short> {
        let answer = self.ask(libc::SIOCGIFFLAGS, name)?;
        // SAFETY: this request fills in the flags.
        Ok(unsafe { answer.ifr_ifru.ifru_flags })
    }

    /// Whether frames pass: set up, and with a carrier.
    pub(super) fn is_up(&self, name: &str) -> io::Result<bool> {
        let wanted = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(c_int::from(self.flags(name)?) & wanted == wanted)
    }

    pub(super) fn set_up(&self, name: &str) -> io::Result<()> {
        let mut request = request(name);
        #[allow(clippy::cast_possible_truncation)] // 1
        let up = libc::IFF_UP as c_short;
        request.ifr_ifru.ifru_flags = self.flags(name)? | up;
        // SAFETY: SIOCSIFFLAGS takes an ifreq.
        unsafe { ioctl_ifreq(&self.0, libc::SIOCSIFFLAGS, &mut request) }
    }

    /// The MTU, in bytes without the Ethernet header; the kernel lets a TAP interface have no more than fit in 16 bits.
    pub(super) fn mtu(&self, name: &str) -> io::Result<u16> {
        let answer = self.ask(libc::SIOCGIFMTU, name)?;
        // SAFETY: this request fills in the MTU.
        Ok(saturated(unsafe { answer.ifr_ifru.ifru_mtu }))
    }

    /// How many frames wait for us at most, before the kernel drops more.
    pub(super) fn queue_len(&self, name: &str) -> io::Result<u16> {
        let answer = self.ask(libc::SIOCGIFTXQLEN, name)?;
        // SAFETY: this request fills in an int, in the place of the MTU (`ifr_qlen` and `ifr_mtu` are both the union's int).
        Ok(saturated(unsafe { answer.ifr_ifru.ifru_mtu }))
    }

    pub(super) fn set_queue_len(&self, name: &str, frames: u16) -> io::Result<()> {
        let mut request = request(name);
        request.ifr_ifru.ifru_mtu = frames.into();
        // SAFETY: SIOCSIFTXQLEN takes an ifreq.
        unsafe { ioctl_ifreq(&self.0, libc::SIOCSIFTXQLEN, &mut request) }
    }

    /// The kernel's end's Ethernet address.
    pub(super) fn mac(&self, name: &str) -> io::Result<[u8; 6]> {
        let answer = self.ask(libc::SIOCGIFHWADDR, name)?;
        // SAFETY: this request fills in the address.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr }.sa_data;
        Ok(std::array::from_fn(|at| address[at].cast_unsigned()))
    }
}

fn saturated(number: c_int) -> u16 {
    u16::try_from(number.max(0)).unwrap_or(u16::MAX)
}

/// Reads one frame: its header, then its bytes into the free room of the empty `buffers`, in order. Returns how many
/// bytes came, header included. Neither blocks nor changes the buffers' bounds.
#[inline]
pub(super) fn read(fd: &OwnedFd, header: &mut HeaderBytes, buffers: &mut [Mbuf]) -> io::Result<usize> {
    let mut pieces = Pieces::new();
    pieces.push(iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() });
    for buffer in buffers.iter_mut().take(MAX_PIECES) {
        // A clone's room is not ours to write; fresh mbufs never are clones.
        let room = if buffer.is_shared() { 0 } else { buffer.tailroom() };
        pieces.push(iovec { iov_base: buffer.data_ptr().wrapping_add(buffer.len()).cast(), iov_len: room });
    }
    // SAFETY: every piece is writable for its length and exclusively ours: the header, and the tailrooms of unshared
    // mbufs that we hold by `&mut`. The kernel writes them within the call alone.
    let read = unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr(), count(&pieces)) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Writes one frame behind its header. Does not block. `None` if the frame has too many segments.
#[inline]
pub(super) fn write(fd: &OwnedFd, header: &HeaderBytes, frame: &Mbuf) -> Option<io::Result<()>> {
    let mut pieces = Pieces::new();
    pieces.push(iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() });
    for segment in frame.segments() {
        pieces.try_push(iovec { iov_base: segment.data_ptr().cast(), iov_len: segment.len() }).ok()?;
    }
    // SAFETY: every piece is readable for its length: the header, and the data of segments that `frame` owns; writev
    // only reads through the pointers, and only within the call.
    let written = unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr(), count(&pieces)) };
    Some(if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) })
}
