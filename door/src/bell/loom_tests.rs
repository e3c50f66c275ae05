//! At most one ring of a socket is in the queue, none is lost, and none comes after the token was freed.
//! Run with `./ci.sh model`.

use std::sync::Arc;

use super::{Bell, Desk, Knock, answer};
use crate::sync::{AtomicU32, Ordering};

/// What the application published before it rang.
struct Socket {
    word: AtomicU32,
    published: AtomicU32,
}

#[test]
fn loom_each_ring_is_answered_after_what_was_published() {
    loom::model(|| {
        let desk = Arc::new(Desk::new(1, Arc::default()));
        let token = desk.token().unwrap();
        let socket = Arc::new(Socket { word: AtomicU32::new(0), published: AtomicU32::new(0) });
        let application = loom::thread::spawn({
            let (bell, socket) = (Bell { desk: desk.clone(), token }, socket.clone());
            move || {
                // ORDERING: Relaxed, both sides: the bell orders them, which is what is checked.
                socket.published.store(1, Ordering::Relaxed);
                bell.ring(&socket.word);
                socket.published.store(2, Ordering::Relaxed);
                bell.close(&socket.word);
            }
        });
        let mut rings = 0;
        loop {
            let Some(Knock::Rung(rung)) = desk.next() else {
                loom::thread::yield_now();
                continue;
            };
            assert_eq!(rung, token);
            rings += 1;
            if answer(&socket.word) {
                break;
            }
        }
        // The last ring: all that was published is seen, and the queue is empty for good.
        assert_eq!(socket.published.load(Ordering::Relaxed), 2);
        assert!(rings <= 2);
        application.join().unwrap();
        assert!(desk.is_quiet());
    });
}

#[test]
fn loom_two_threads_of_one_socket_have_one_entry_in_the_queue() {
    loom::model(|| {
        let desk = Arc::new(Desk::new(1, Arc::default()));
        let token = desk.token().unwrap();
        let socket = Arc::new(Socket { word: AtomicU32::new(0), published: AtomicU32::new(0) });
        let ring = || {
            let (bell, socket) = (Bell { desk: desk.clone(), token }, socket.clone());
            loom::thread::spawn(move || {
                socket.published.fetch_add(1, Ordering::Relaxed);
                bell.ring(&socket.word);
            })
        };
        let threads = [ring(), ring()];
        let mut seen = 0;
        while seen < 2 {
            if desk.next().is_some() {
                assert!(!answer(&socket.word));
                seen = socket.published.load(Ordering::Relaxed);
            }
            loom::thread::yield_now();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // One may be left, of a thread whose word was seen before its ring; never two.
        let left = desk.next();
        assert!(desk.next().is_none(), "two entries of one socket, the first {left:?}");
        assert_eq!(left.is_some(), socket.word.load(Ordering::Relaxed) != 0);
    });
}
