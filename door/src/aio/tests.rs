//! The async sockets on the smallest of executors: a thread that parks.

#![allow(clippy::cast_possible_truncation)] // patterns of bytes

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_io::{AsyncRead, AsyncWrite};

use super::*;
use crate::double::double;

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

async fn write_all(stream: &TcpStream, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let count = poll_fn(|cx| Pin::new(&mut &*stream).poll_write(cx, data)).await?;
        data = &data[count..];
    }
    poll_fn(|cx| Pin::new(&mut &*stream).poll_close(cx)).await
}

async fn read_to_end(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let (mut all, mut data) = (Vec::new(), [0; 700]);
    loop {
        match poll_fn(|cx| Pin::new(&mut &*stream).poll_read(cx, &mut data)).await? {
            0 => return Ok(all),
            count => all.extend(&data[..count]),
        }
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

#[test]
fn tasks_accept_connect_read_and_write() {
    let (net, _core) = double(8);
    let listener = TcpListener::bind(&net, at(7)).unwrap();
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 249) as u8).collect();
    let server = std::thread::spawn(move || {
        block_on(async {
            let (stream, _) = listener.accept().await.unwrap();
            let all = read_to_end(&stream).await.unwrap();
            write_all(&stream, &all).await.unwrap();
        });
    });
    let echoed = block_on(async {
        let stream = TcpStream::connect(&net, at(7)).await.unwrap();
        write_all(&stream, &data).await.unwrap();
        read_to_end(&stream).await.unwrap()
    });
    server.join().unwrap();
    assert!(echoed == data);
}

#[test]
fn tasks_send_datagrams_and_resolve() {
    let (net, _core) = double(8);
    let (one, two) = (UdpSocket::bind(&net, at(1)).unwrap(), UdpSocket::bind(&net, at(2)).unwrap());
    let waiting = std::thread::spawn(move || {
        let mut data = [0; 8];
        let (len, from) = block_on(two.recv_from(&mut data)).unwrap();
        (data[..len].to_vec(), from)
    });
    block_on(one.send_to(b"hello", at(2))).unwrap();
    assert_eq!(waiting.join().unwrap(), (b"hello".to_vec(), at(1)));
    assert_eq!(block_on(resolve(&net, "two.example")).unwrap().len(), 2);
    assert_eq!(block_on(resolve(&net, "none.example")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn tasks_that_wait_when_the_engine_stops_end_with_an_error() {
    let (net, core) = double(8);
    let listener = TcpListener::bind(&net, at(7)).unwrap();
    let accepting = std::thread::spawn(move || {
        let (stream, _) = block_on(listener.accept()).unwrap();
        let reading = block_on(read_to_end(&stream)).unwrap_err().kind();
        (reading, block_on(listener.accept()).unwrap_err().kind())
    });
    let stream = block_on(TcpStream::connect(&net, at(7))).unwrap();
    let there = net.clone();
    let connecting =
        std::thread::spawn(move || block_on(TcpStream::connect(&there, at(9))).unwrap_err().kind());
    std::thread::sleep(std::time::Duration::from_millis(30));
    drop(core);
    let aborted = ErrorKind::ConnectionAborted;
    assert_eq!(accepting.join().unwrap(), (aborted, aborted));
    assert_eq!(connecting.join().unwrap(), aborted);
    assert_eq!(block_on(read_to_end(&stream)).unwrap_err().kind(), aborted);
}

#[test]
fn connection_whose_future_is_dropped_is_given_up() {
    let (net, core) = double(2);
    for _ in 0..20 {
        let mut connecting = Box::pin(TcpStream::connect(&net, at(9)));
        let waker = Waker::noop();
        assert!(connecting.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        drop(connecting);
        while core.held.load(std::sync::atomic::Ordering::Relaxed) != 0 {
            std::thread::yield_now();
        }
        // The token comes back a little after the count.
        while net.bind(at(3)).is_err() {
            std::thread::yield_now();
        }
    }
}
