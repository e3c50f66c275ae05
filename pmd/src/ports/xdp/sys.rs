//! The kernel's interface to AF_XDP sockets: one thin wrapper a call, and the questions about an interface.
//! Source: Linux `Documentation/networking/af_xdp.rst`, `net/xdp/xsk.c`; netdevice(7), netlink(7).

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, ifreq, socklen_t, xdp_mmap_offsets, xdp_statistics, xdp_umem_reg};

use super::abi::{self, Channels, EthtoolValue};

fn check(answer: c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open_socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(fd)?;
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An AF_XDP socket, not yet anything.
pub(super) fn socket() -> io::Result<OwnedFd> {
    open_socket(libc::AF_XDP, libc::SOCK_RAW, 0)
}

/// # Safety
/// `option` of AF_XDP reads a `T`, and addresses in it are valid for what it does with them.
unsafe fn set_option<T>(socket: BorrowedFd<'_>, option: c_int, value: &T) -> io::Result<()> {
    #[allow(clippy::cast_possible_truncation)] // at most a few dozen
    let len = size_of::<T>() as socklen_t;
    let value = std::ptr::from_ref(value).cast::<c_void>();
    // SAFETY: `value` is readable for `len` bytes; the rest as the caller promised.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, value, len) })
}

/// Reads an option of AF_XDP into what is zeroed at first: older kernels know fewer fields.
///
/// # Safety
/// Zero is a value of `T`, and so is whatever `option` writes.
unsafe fn get_option<T>(socket: BorrowedFd<'_>, option: c_int) -> io::Result<T> {
    // SAFETY: as the caller promised.
    let mut value: T = unsafe { zeroed() };
    #[allow(clippy::cast_possible_truncation)] // at most a few dozen
    let mut len = size_of::<T>() as socklen_t;
    let to = (&raw mut value).cast::<c_void>();
    // SAFETY: `value` is writable for `len` bytes.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, to, &raw mut len) })?;
    Ok(value)
}

/// Gives the socket the memory that its frames lie in, in chunks that may begin anywhere. The kernel keeps the pages
/// until the socket and its rings are gone; the addresses may be unmapped at once.
pub(super) fn register_umem(
    socket: BorrowedFd<'_>,
    start: *const u8,
    len_bytes: usize,
    chunk_bytes: u32,
) -> io::Result<()> {
    let umem = xdp_umem_reg {
        addr: start as u64,
        len: len_bytes as u64,
        chunk_size: chunk_bytes,
        headroom: 0,
        flags: libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
        tx_metadata_len: 0,
    };
    // SAFETY: the kernel finds out by itself whether the addresses are mapped, and keeps the pages.
    unsafe { set_option(socket, libc::XDP_UMEM_REG, &umem) }
}

/// The four rings of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingKind {
    /// Received frames: the kernel produces descriptors.
    Rx,
    /// Frames to send: the kernel consumes descriptors.
    Tx,
    /// Room for received frames: the kernel consumes addresses.
    Fill,
    /// Sent frames: the kernel produces addresses.
    Completion,
}

impl RingKind {
    const fn option(self) -> c_int {
        match self {
            Self::Rx => libc::XDP_RX_RING,
            Self::Tx => libc::XDP_TX_RING,
            Self::Fill => libc::XDP_UMEM_FILL_RING,
            Self::Completion => libc::XDP_UMEM_COMPLETION_RING,
        }
    }

    /// Where mmap(2) finds it.
    #[allow(clippy::cast_possible_wrap)] // a few times 2^31
    pub(super) const fn page_offset(self) -> libc::off_t {
        match self {
            Self::Rx => libc::XDP_PGOFF_RX_RING,
            Self::Tx => libc::XDP_PGOFF_TX_RING,
            Self::Fill => libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
            Self::Completion => libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
        }
    }
}

/// Makes a ring; `size` is a power of two.
pub(super) fn make_ring(socket: BorrowedFd<'_>, kind: RingKind, size: u32) -> io::Result<()> {
    // SAFETY: these options read an int.
    unsafe { set_option(socket, kind.option(), &size) }
}

/// Asks the kernel to send so many frames in each call instead of 32. Linux before 6.17 does not: no harm.
pub(super) fn set_send_budget(socket: BorrowedFd<'_>, frames: u32) {
    // SAFETY: the option reads an int.
    let _ = unsafe { set_option(socket, abi::MAX_TX_SKB_BUDGET, &frames) };
}

/// How long a call that may block polls; ours do not block, but 0 is off.
const BUSY_POLL_MICROSECONDS: c_int = 20;

/// Has the driver's receive work done in our own calls, at most `budget` frames in each, and its interrupts leave it to
/// them while we call often enough. A socket without it goes on as it was.
///
/// # Errors
/// errno; `EPERM` without `CAP_NET_ADMIN`, `ENOPROTOOPT` before Linux 5.11.
pub(super) fn prefer_busy_poll(socket: BorrowedFd<'_>, budget: u16) -> io::Result<()> {
    let set = |option: c_int, value: c_int| {
        #[allow(clippy::cast_possible_truncation)] // 4
        let len = size_of::<c_int>() as socklen_t;
        let value = (&raw const value).cast();
        // SAFETY: these options read an int, which lives until the call returns.
        check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, len) })
    };
    let options = [
        (libc::SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL_BUDGET, c_int::from(budget)),
        (libc::SO_BUSY_POLL, BUSY_POLL_MICROSECONDS),
    ];
    let done = options.into_iter().try_for_each(|(option, value)| set(option, value));
    if done.is_err() {
        let _ = set(libc::SO_PREFER_BUSY_POLL, 0);
    }
    done
}

/// Where in their mappings the parts of the rings lie.
pub(super) fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<xdp_mmap_offsets> {
    // SAFETY: integers.
    let offsets: xdp_mmap_offsets = unsafe { get_option(socket, libc::XDP_MMAP_OFFSETS)? };
    if offsets.rx.flags == 0 {
        // Linux before 5.4: the shorter form.
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(offsets)
}

/// What the kernel counts.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<xdp_statistics> {
    // SAFETY: integers.
    unsafe { get_option(socket, libc::XDP_STATISTICS) }
}

/// Binds the socket to a queue of an interface. With `shared`, on the memory of that socket.
pub(super) fn bind(
    socket: BorrowedFd<'_>,
    ifindex: u32,
    queue: u32,
    flags: u16,
    shared: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[allow(clippy::cast_possible_truncation)] // 44
    let family = libc::AF_XDP as u16;
    let address = libc::sockaddr_xdp {
        sxdp_family: family,
        sxdp_flags: flags | if shared.is_some() { libc::XDP_SHARED_UMEM } else { 0 },
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
    };
    #[allow(clippy::cast_possible_truncation)] // 16
    let len = size_of_val(&address) as socklen_t;
    // SAFETY: the address is readable for its length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })
}

/// Makes the kernel send what is in the transmit ring, as much as it does in one call. Does not block.
#[inline]
pub(super) fn wake_tx(socket: BorrowedFd<'_>) -> Result<(), c_int> {
    // SAFETY: an empty message, no memory is involved.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    if sent < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(()) }
}

/// Makes the driver look at the fill ring and, where the socket prefers busy polling, take what has arrived. Does not
/// block.
#[inline]
pub(super) fn wake_rx(socket: BorrowedFd<'_>) {
    // SAFETY: an empty message, no memory is involved. What goes wrong shows in the interface's own state.
    unsafe {
        let (none, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        libc::recvfrom(socket.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), len);
    }
}

/// Questions about interfaces; it belongs to the network namespace it was opened in.
pub(super) struct Control {
    netlink: OwnedFd,
    ioctls: OwnedFd,
}

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        let netlink = open_socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        Ok(Self { netlink, ioctls: open_socket(libc::AF_INET, libc::SOCK_DGRAM, 0)? })
    }

    /// Sends a netlink request to the kernel.
    pub(super) fn send(&self, request: &[u8]) -> io::Result<()> {
        let fd = self.netlink.as_raw_fd();
        // SAFETY: `request` is readable for its length.
        let sent = unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads the kernel's next datagram of netlink messages, which answers at once.
    pub(super) fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0_u8; 64 << 10];
        // SAFETY: `answer` is writable for its length.
        let got =
            unsafe { libc::recv(self.netlink.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        answer.truncate(usize::try_from(got).map_err(|_| io::Error::last_os_error())?);
        Ok(answer)
    }

    /// # Safety
    /// `command` of ethtool reads and writes a `T`.
    unsafe fn ethtool<T>(&self, name: &str, command: &mut T) -> io::Result<()> {
        // SAFETY: zero is a value of every field.
        let mut request: ifreq = unsafe { zeroed() };
        for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
        // SAFETY: SIOCETHTOOL takes an ifreq whose data is the command, which lives until the call returns.
        check(unsafe { libc::ioctl(self.ioctls.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })
    }

    /// How many receive queues are in use.
    pub(super) fn receive_queues(&self, name: &str) -> io::Result<u32> {
        let mut channels = Channels { cmd: abi::ETHTOOL_GCHANNELS, ..Default::default() };
        // SAFETY: the command's own structure.
        unsafe { self.ethtool(name, &mut channels)? };
        Ok(channels.rx_count + channels.combined_count)
    }

    /// Whether it leaves checksums to its other end.
    pub(super) fn leaves_checksums(&self, name: &str) -> io::Result<bool> {
        let mut value = EthtoolValue { cmd: abi::ETHTOOL_GTXCSUM, ..Default::default() };
        // SAFETY: the command's own structure.
        unsafe { self.ethtool(name, &mut value)? };
        Ok(value.data != 0)
    }
}
