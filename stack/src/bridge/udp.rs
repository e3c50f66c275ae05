//! Datagrams both ways.

use door::{Failure, Lie, Token, UdpEnd};

use super::convert::{self, endpoint, socket_addr};
use super::{Bridge, Slot, What};
use crate::{IpEndpoint, Net, SendError, UdpId};

/// Datagrams of one socket that are sent in one call.
const DATAGRAMS: usize = 32;

/// A UDP socket and its end.
#[derive(Debug)]
pub(super) struct Udp {
    pub end: UdpEnd,
    /// `None` when it was not bound, or is closed.
    pub id: Option<UdpId>,
    /// The application has let go.
    pub gone: bool,
}

impl Udp {
    /// Sends what the application wrote. Whether something is left that nobody will announce.
    fn send(&mut self, scratch: &mut [u8], net: &mut Net<'_>) -> Result<bool, Lie> {
        let Some(id) = self.id else { return Ok(false) };
        for _ in 0..DATAGRAMS {
            let Some((to, len)) = self.end.outgoing(scratch)? else { return Ok(false) };
            let sent = match scratch.get(..len) {
                Some(data) => net.send_to(id, endpoint(to), data),
                None => Err(SendError::TooLong { len, max: scratch.len() }),
            };
            match sent {
                Ok(()) => {}
                Err(SendError::NoBuffers) => return Ok(true),
                Err(error) => self.end.fail(convert::send_failure(error)),
            }
            self.end.sent()?;
        }
        Ok(true)
    }
}

impl Bridge {
    /// The application has rung, or datagrams were left.
    pub(super) fn serve_udp(&mut self, token: Token, rung: bool, net: &mut Net<'_>) {
        let Some(Slot { what: What::Udp(udp), .. }) = self.slots.get_mut(token as usize) else { return };
        udp.gone |= rung && udp.end.answer();
        match udp.send(&mut self.scratch, net) {
            // What a closed socket wrote last is still sent.
            Ok(true) => self.look_again(token),
            Ok(false) if udp.gone => {
                self.close_udp(token, net);
                return self.free(token);
            }
            Ok(false) => {}
            Err(lie) => self.udp_lied(token, lie, net),
        }
        self.touch(token);
    }

    pub(super) fn deliver_datagram(
        &mut self,
        socket: UdpId,
        from: IpEndpoint,
        data: &[u8],
        net: &mut Net<'_>,
    ) {
        let Some(token) = self.sockets.get(socket.index()) else { return };
        let Some(Slot { what: What::Udp(udp), .. }) = self.slots.get_mut(token as usize) else { return };
        match udp.end.deliver(socket_addr(from), data) {
            Ok(true) => {}
            Ok(false) => self.counters.datagrams_full += 1,
            Err(lie) => self.udp_lied(token, lie, net),
        }
        self.touch(token);
    }

    fn udp_lied(&mut self, token: Token, lie: Lie, net: &mut Net<'_>) {
        log::warn!("door: {lie}: UDP socket closed");
        self.counters.lies += 1;
        if let Some(Slot { what: What::Udp(udp), .. }) = self.slots.get_mut(token as usize) {
            udp.end.fail(Failure::Lied);
            let gone = udp.gone;
            self.close_udp(token, net);
            if gone {
                self.free(token);
            }
        }
    }

    fn close_udp(&mut self, token: Token, net: &mut Net<'_>) {
        if let Some(Slot { what: What::Udp(udp), .. }) = self.slots.get_mut(token as usize)
            && let Some(id) = udp.id.take()
        {
            self.sockets.remove(id.index());
            net.close_udp(id);
        }
    }
}
