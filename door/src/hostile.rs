//! The other side writes anything anywhere at any moment: calls return errors or rubbish, and neither panic nor hang.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use crate::core_door::TcpEnd;
use crate::options::TcpOptions;
use crate::sync::{AtomicU32, Ordering};
use crate::tcp::{Socket, TcpStream};

/// A word of the header that the other side could write.
fn word(socket: &Socket, which: usize) -> &AtomicU32 {
    let header = socket.channel.header();
    let words = [
        &header.core.state,
        &header.app.bell,
        &header.app.state,
        &header.app.handoff_ns,
        &header.app.options,
        &header.app.keep_alive_ms,
        &header.app.hop_limit,
        &header.app.dscp,
        &header.rx.tail.0,
        &header.rx.head.0,
        &header.tx.tail.0,
        &header.tx.head.0,
        header.rx.events.data.word(),
        header.rx.events.room.word(),
        header.tx.events.data.word(),
        header.tx.events.room.word(),
    ];
    words[which % words.len()]
}

fn options() -> TcpOptions {
    TcpOptions { rx_bytes: 1024, tx_bytes: 1024, ..TcpOptions::default() }
}

proptest! {
    #[test]
    fn any_word_at_any_moment_harms_neither_side(
        moves in prop::collection::vec((any::<usize>(), any::<u32>(), any::<bool>(), 0..1200usize), 1..60),
    ) {
        let socket = Arc::new(Socket::new(&options()).unwrap());
        let mut end = socket.end().unwrap();
        end.opened(SocketAddr::from(([192, 0, 2, 1], 1)));
        let mut stream = TcpStream::new(socket.clone());
        stream.set_nonblocking(true).unwrap();
        let mut data = vec![9; 1200];
        for (which, value, small, len) in moves {
            let value = if small { value % 2048 } else { value };
            word(&socket, which).store(value, Ordering::Relaxed);
            for read in [stream.read(&mut data[..len]), stream.peek(&mut data[..len])] {
                prop_assert!(read.map_or(0, |count| count) <= len.min(1024));
            }
            prop_assert!(stream.write(&data[..len]).map_or(0, |count| count) <= len.min(1024));
            let _ = (stream.take_error(), stream.set_nodelay(small));
            prop_assert!(end.deliver(&data[..len]).unwrap_or(0) <= len.min(1024));
            prop_assert!(end.outgoing(&mut data[..len]).unwrap_or(0) <= len.min(1024));
            prop_assert!(end.outgoing_len().unwrap_or(0) <= 1024);
            let _ = (end.wish_for_room(), end.is_drained(), end.answer(), end.app_state(), end.take_handoff_ns());
            if let Some(options) = end.changed_options() {
                prop_assert!(options.dscp < 64 && options.hop_limit != Some(0));
            }
            end.wake();
        }
    }
}

#[test]
fn memory_that_is_not_a_sockets_is_refused() {
    let socket = Socket::new(&options()).unwrap();
    assert!(TcpEnd::new(socket.channel.clone(), options()).is_ok());
    assert!(Socket::new(&TcpOptions { rx_bytes: 1000, ..options() }).is_err());
    assert!(Socket::new(&TcpOptions { tx_bytes: 1 << 40, ..options() }).is_err());
}
