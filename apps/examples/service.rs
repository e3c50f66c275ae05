//! A service on the loop: an echo that never leaves its core, and a client that asks it a hundred times.
//!
//! Nothing is handed to a thread: the stack calls the service with a connection, and bytes are read and written in the
//! socket's own buffers. Run with `cargo run --release -p bywash --example service`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bywash::engine::{Engine, StackSettings};
use bywash::stack::{Closed, Conn, ConnId, ConnectOptions, IpEndpoint, ListenOptions, Net, Service};

const PORT: u16 = 7;
const ROUNDS: u32 = 100;

/// Sends back whatever comes.
struct Echo;

impl Service for Echo {
    fn start(&mut self, net: &mut Net<'_>) {
        net.listen(PORT.into(), ListenOptions::default()).expect("the port is free");
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    /// Called when bytes, room or the peer's end have come; what does not fit now is echoed when there is room.
    fn ready(&mut self, conn: &mut Conn<'_>) {
        let mut bytes = [0; 2048];
        loop {
            let room = conn.send_room().min(bytes.len());
            let count = conn.recv_slice(&mut bytes[..room]);
            if count == 0 {
                break;
            }
            conn.send_slice(&bytes[..count]);
        }
        if conn.peer_finished() {
            conn.close();
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, _why: Closed, _net: &mut Net<'_>) {}
}

/// Asks, waits for the answer, asks again.
struct Client {
    server: IpEndpoint,
    answers: Arc<AtomicU32>,
}

impl Service for Client {
    fn start(&mut self, net: &mut Net<'_>) {
        net.connect(self.server, ConnectOptions::default()).expect("there is a route");
    }

    fn accept(&mut self, _conn: &mut Conn<'_>) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        conn.send_slice(b"ping");
    }

    fn ready(&mut self, conn: &mut Conn<'_>) {
        if conn.recv_queue() < 4 {
            return;
        }
        let mut answer = [0; 4];
        conn.recv_slice(&mut answer);
        assert_eq!(&answer, b"ping");
        if self.answers.fetch_add(1, Ordering::Relaxed) + 1 < ROUNDS {
            conn.send_slice(b"ping");
        } else {
            conn.close();
        }
    }

    fn closed(&mut self, _id: ConnId, _tag: u64, why: Closed, _net: &mut Net<'_>) {
        println!("connection closed: {why:?}");
    }

    fn is_done(&self) -> bool {
        self.answers.load(Ordering::Relaxed) == ROUNDS
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut engine = Engine::builder();
    let (near, far, core) = (engine.port("loop:a"), engine.port("loop:b"), engine.lcore(None));
    let host =
        |address: &str| StackSettings { addresses: vec![address.parse().unwrap()], ..Default::default() };
    let answers = Arc::new(AtomicU32::new(0));
    let server = "10.0.0.2:7".parse::<std::net::SocketAddr>()?.into();
    engine.stack(&[core], near, &host("10.0.0.1/24"), |_| Client { server, answers: answers.clone() });
    engine.stack(&[core], far, &host("10.0.0.2/24"), |_| Echo);
    engine.start()?.finish(Duration::from_secs(10))?;
    println!("{} answers", answers.load(Ordering::Relaxed));
    assert_eq!(answers.load(Ordering::Relaxed), ROUNDS);
    Ok(())
}
