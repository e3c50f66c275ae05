//! Waiting for a message to be there as a whole: who reads one that is not waits for its rest, however long that takes,
//! and meanwhile nobody else is served.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the rest of a message may take. Frontends send each with one system call.
pub(super) const REST_WITHIN: Duration = Duration::from_secs(2);

/// How often to look whether it has come.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Length of the header, in bytes. Source: QEMU `docs/interop/vhost-user.rst`, "Message Specification".
pub(super) const HEADER_BYTES: usize = 12;

/// Waits for the rest of the message that has begun to arrive, at most [`REST_WITHIN`]; `false` if it does not come. A
/// socket that was closed counts as whole: the reader finds out.
pub(super) fn is_whole_in_time(socket: &UnixStream) -> io::Result<bool> {
    let deadline = Instant::now() + REST_WITHIN;
    loop {
        let (there, header) = look(socket)?;
        let needed = match header {
            None => HEADER_BYTES,
            Some(header) => {
                let [.., a, b, c, d] = header;
                HEADER_BYTES + u32::from_le_bytes([a, b, c, d]) as usize
            }
        };
        if there == 0 || there >= needed {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(LOOK_EVERY);
    }
}

/// The header of the next message, if it is there. Takes nothing.
pub(super) fn header(socket: &UnixStream) -> io::Result<Option<[u8; HEADER_BYTES]>> {
    Ok(look(socket)?.1)
}

/// How many bytes there are to be read, and the header if it is among them. Takes nothing.
fn look(socket: &UnixStream) -> io::Result<(usize, Option<[u8; HEADER_BYTES]>)> {
    let mut header = [0; HEADER_BYTES];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the call writes at most as many bytes as the array has.
    let peeked = unsafe { libc::recv(socket.as_raw_fd(), header.as_mut_ptr().cast(), header.len(), flags) };
    let Ok(peeked) = usize::try_from(peeked) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok((0, None)) } else { Err(error) };
    };
    if peeked < HEADER_BYTES {
        return Ok((peeked, None));
    }
    let mut there: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int through the pointer.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut there) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((usize::try_from(there).unwrap_or(0), Some(header)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_message_is_waited_for_as_long_as_it_may_take_and_no_longer() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let message = [&[1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0][..], &[7; 8]].concat();
        theirs.write_all(&message).unwrap();
        assert!(is_whole_in_time(&ours).unwrap());
        drop((theirs, ours));
        for part in [1, 11, 12, 19] {
            let (mut theirs, ours) = UnixStream::pair().unwrap();
            theirs.write_all(&message[..part]).unwrap();
            let rest = message[part..].to_vec();
            let sending = std::thread::spawn(move || {
                sleep(Duration::from_millis(50));
                theirs.write_all(&rest).unwrap();
                theirs
            });
            assert!(is_whole_in_time(&ours).unwrap(), "{part} bytes, then the rest");
            drop(sending.join().unwrap());
        }
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        theirs.write_all(&message[..13]).unwrap();
        assert!(!is_whole_in_time(&ours).unwrap());
        drop(theirs);
        let (theirs, ours) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(is_whole_in_time(&ours).unwrap(), "closed");
    }
}
