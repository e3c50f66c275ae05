//! The kernel's end of an interface: a packet socket. Also the wait for a file descriptor.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{Wire, is_ours};

/// Where a frame says which way it goes: those that we send ourselves come back to a packet socket.
const OUTWARD_AT: usize = 18;

/// Bytes of a receive buffer that holds more frames than any check leaves lying.
const BUFFER_BYTES: libc::c_int = 8 << 20;

/// Whether one of `fds` becomes readable within `limit`.
pub(super) fn is_readable(fds: &[OwnedFd], limit: Duration) -> bool {
    let entry = |fd: &OwnedFd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut entries: Vec<libc::pollfd> = fds.iter().map(entry).collect();
    let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the entries are a vector of as many pollfd as is said, of descriptors that are open.
    unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, limit_ms) > 0 }
}

/// A packet socket on an interface.
pub struct PacketWire {
    socket: std::fs::File,
    /// Takes the interface away.
    kill: Box<dyn FnMut()>,
}

impl PacketWire {
    /// A socket that [`socket`](Self::socket) has made. `kill` takes the interface away.
    pub fn new(socket: OwnedFd, kill: impl FnMut() + 'static) -> Self {
        Self { socket: socket.into(), kill: Box::new(kill) }
    }

    /// A packet socket on the interface with this index, in the namespace that the calling thread is in.
    ///
    /// # Errors
    /// errno: no permission, mostly.
    pub fn socket(index: u32) -> io::Result<OwnedFd> {
        let all = u16::to_be(libc::ETH_P_ALL as u16);
        // SAFETY: plain calls; the descriptor is checked before it is owned, the address and the option are live
        //         values of the lengths that are said.
        unsafe {
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                i32::from(all),
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let socket = OwnedFd::from_raw_fd(fd);
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: all,
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            if libc::bind(fd, (&raw const address).cast(), len) != 0 {
                return Err(io::Error::last_os_error());
            }
            let len = size_of::<libc::c_int>() as libc::socklen_t;
            let wanted = BUFFER_BYTES;
            let bytes = &raw const wanted;
            if libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes.cast(), len) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(socket)
        }
    }
}

impl Wire for PacketWire {
    fn send(&mut self, frame: &[u8]) -> bool {
        self.socket.write(frame).is_ok_and(|bytes| bytes == frame.len())
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut frame = [0; 4096];
        loop {
            let bytes = self.socket.read(&mut frame).ok()?;
            if is_ours(&frame[..bytes]) && frame[OUTWARD_AT] == 1 {
                return Some(frame[..bytes].to_vec());
            }
        }
    }

    fn die(&mut self) {
        (self.kill)();
    }
}
