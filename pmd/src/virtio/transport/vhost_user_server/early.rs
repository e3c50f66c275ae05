//! What QEMU says earlier than the crate `vhost` takes it.
//!
//! QEMU enables the virtqueues of a network device (SET_VRING_ENABLE) as soon as protocol features are negotiated; the
//! crate wants SET_FEATURES to have been said before. QEMU's document asks for the former alone.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use vhost::vhost_user::VhostUserBackendReqHandlerMut;

use super::session::Session;
use super::whole::{self, HEADER_BYTES};
use crate::virtio::spec::feature;

const SET_VRING_ENABLE: u32 = 18;
/// Its body: the virtqueue, then 1 or 0.
const BODY_BYTES: usize = 8;

/// Bits of a header's flags. Source: QEMU `docs/interop/vhost-user.rst`, "Header".
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Takes the next message if it is one of those, and answers it if it asks for that. `false` leaves it to the crate.
/// The message is there as a whole.
pub(super) fn take(mut socket: &UnixStream, session: &Mutex<Session>) -> io::Result<bool> {
    let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
    if session.features & feature::VHOST_USER_PROTOCOL != 0 || !session.negotiates {
        return Ok(false);
    }
    let Some(header) = whole::header(socket)? else { return Ok(false) };
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let (request, flags, len) = (word(&header, 0), word(&header, 4), word(&header, 8));
    if request != SET_VRING_ENABLE || len as usize != BODY_BYTES {
        return Ok(false);
    }
    let mut message = [0; HEADER_BYTES + BODY_BYTES];
    socket.read_exact(&mut message)?;
    let enable = word(&message, HEADER_BYTES + 4) == 1;
    let done = session.set_vring_enable(word(&message, HEADER_BYTES), enable);
    if flags & NEED_REPLY != 0 {
        let answer = [SET_VRING_ENABLE, VERSION | REPLY, 8, u32::from(done.is_err()), 0];
        let answer: Vec<u8> = answer.into_iter().flat_map(u32::to_le_bytes).collect();
        socket.write_all(&answer)?;
    }
    done.map_err(io::Error::other)?;
    Ok(true)
}
