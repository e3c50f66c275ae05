//! The answering end: echoes on one port, answers whole messages on the other.

use stack::{Closed, Conn, ConnId, IpListenEndpoint, ListenOptions, Net, Service, TcpOptions};

use super::{BULK, ECHO, EF, MESSAGE_BYTES, SMALL_BYTES};

/// What an answer to a normal message consists of.
const ANSWER: [u8; SMALL_BYTES] = [0xa5; SMALL_BYTES];

/// Answers, and counts what it got.
#[derive(Default)]
pub struct Server {
    urgent_received: u64,
    normal_received: u64,
    failed: u64,
}

impl Server {
    /// As many whole messages as have come and whose answers have room; the rest waits for room.
    fn echo(&mut self, conn: &mut Conn<'_>) {
        let mut message = [0; SMALL_BYTES];
        while conn.recv_queue() >= message.len() && conn.send_room() >= message.len() {
            conn.recv_slice(&mut message);
            conn.send_slice(&message);
            self.urgent_received += 1;
        }
    }

    /// Reads all there is; the tag holds the bytes that are not answered yet.
    fn answer(&mut self, conn: &mut Conn<'_>) {
        let mut unanswered = conn.tag();
        while let count @ 1.. = conn.recv(|bytes| (bytes.len(), bytes.len())) {
            unanswered += count as u64;
        }
        while unanswered >= MESSAGE_BYTES as u64 && conn.send_room() >= ANSWER.len() {
            conn.send_slice(&ANSWER);
            unanswered -= MESSAGE_BYTES as u64;
            self.normal_received += 1;
        }
        conn.set_tag(unanswered);
    }
}

impl Service for Server {
    fn start(&mut self, net: &mut Net<'_>) {
        for (port, dscp) in [(ECHO, EF), (BULK, 0)] {
            let tcp = TcpOptions { dscp, ..TcpOptions::default() };
            let at = IpListenEndpoint { addr: None, port };
            let listening = net.listen(at, ListenOptions { tcp, ..ListenOptions::default() });
            self.failed += u64::from(listening.is_err());
        }
    }

    fn accept(&mut self, conn: &mut Conn<'_>) {
        conn.set_tag(0);
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        if conn.local().port == ECHO { self.echo(conn) } else { self.answer(conn) }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {
        self.failed += 1;
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("urgent_received", self.urgent_received);
        visit("normal_received", self.normal_received);
        visit("failed", self.failed);
    }
}
