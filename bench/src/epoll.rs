//! What the kernel pair needs of Linux beyond the standard library: epoll, and connecting without waiting.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// Readable, or the peer has finished (epoll_ctl(2)).
pub const IN: u32 = libc::EPOLLIN.cast_unsigned();
/// Writable; of a connection being made: it is made, or failed.
pub const OUT: u32 = libc::EPOLLOUT.cast_unsigned();

/// An epoll instance, level-triggered.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// One that returns up to `events` events at a time.
    ///
    /// # Errors
    /// The system's.
    pub fn new(events: usize) -> io::Result<Epoll> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, valid (just checked), and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; events.max(1)] })
    }

    /// Watches `of` for `interest`, reporting it as `token`. Closing it ends the watch.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&self, of: &impl AsRawFd, interest: u32, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, of.as_raw_fd(), interest, token)
    }

    /// Changes what it is watched for.
    ///
    /// # Errors
    /// The system's.
    pub fn modify(&self, of: &impl AsRawFd, interest: u32, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, of.as_raw_fd(), interest, token)
    }

    fn control(&self, operation: i32, fd: RawFd, interest: u32, token: usize) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: token as u64 };
        // SAFETY: `event` lives across the call, which copies it; a wrong descriptor is an error, nothing worse.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &raw mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events, at most `limit`, and appends their tokens to `ready`, emptied first.
    ///
    /// # Errors
    /// The system's; an interrupted wait is none.
    pub fn wait(&mut self, limit: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let room = i32::try_from(self.events.len()).unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most `room` events, which is how many the vector holds.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, limit) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        // Tokens were made of a usize.
        #[allow(clippy::cast_possible_truncation)]
        ready.extend(self.events[..count].iter().map(|event| event.u64 as usize));
        Ok(())
    }
}

/// Begins to connect to `to` without waiting; [`OUT`] says when it is done. The socket does not block.
///
/// # Errors
/// The system's.
#[allow(clippy::cast_possible_truncation)] // 2, and 16 bytes
pub fn connect(to: SocketAddrV4) -> io::Result<TcpStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, valid (just checked), and nobody else's.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_in of `len` bytes, and is only read.
    let result = unsafe { libc::connect(stream.as_raw_fd(), (&raw const address).cast(), len) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(error);
        }
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    #[test]
    fn connecting_is_announced_and_failing_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!("no IPv4") };
        let (mut epoll, mut ready) = (Epoll::new(4).unwrap(), Vec::new());
        let stream = connect(at).unwrap();
        epoll.add(&stream, OUT, 7).unwrap();
        epoll.wait(Duration::from_secs(10), &mut ready).unwrap();
        assert_eq!(ready, [7]);
        assert!(stream.take_error().unwrap().is_none() && stream.peer_addr().unwrap() == SocketAddr::V4(at));
        drop(listener);
        // Some systems refuse at once, some through the event.
        if let Ok(stream) = connect(at) {
            epoll.add(&stream, OUT, 8).unwrap();
            epoll.wait(Duration::from_secs(10), &mut ready).unwrap();
            assert!(ready.contains(&8) && stream.take_error().unwrap().is_some());
        }
    }
}
