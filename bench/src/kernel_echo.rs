//! The kernel's end of a comparison, server side: a TCP echo on one core, epoll and non-blocking sockets.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::epoll::{Epoll, IN, OUT};

/// Loopback addresses it listens on. A client's port stays reserved a minute after its connection, per address of the
/// server: with several, connecting over and over does not run out of ports.
const ADDRESSES: [Ipv4Addr; 4] = [
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
    Ipv4Addr::new(127, 0, 0, 4),
];
/// Events taken at a time, and connections accepted at a time.
const EVENTS: usize = 512;
/// Largest read.
const READ_BYTES: usize = 16 * 1024;
/// How often it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server. Dropping it stops it.
pub struct KernelEcho {
    addresses: Vec<SocketAddrV4>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<u64>>>,
}

impl KernelEcho {
    /// Starts it on processor `core`.
    ///
    /// # Errors
    /// If it cannot listen or the thread cannot be started.
    pub fn start(core: usize) -> Result<KernelEcho> {
        let listeners = ADDRESSES.map(|address| TcpListener::bind((address, 0)));
        let listeners =
            listeners.into_iter().collect::<io::Result<Vec<_>>>().context("cannot listen on loopback")?;
        let mut addresses = Vec::new();
        for listener in &listeners {
            listener.set_nonblocking(true)?;
            if let SocketAddr::V4(address) = listener.local_addr()? {
                addresses.push(address);
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("kernel-echo".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                core_affinity::set_for_current(core_affinity::CoreId { id: core });
                serve(&listeners, &stop)
            }
        })?;
        Ok(KernelEcho { addresses, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddrV4] {
        &self.addresses
    }

    /// Stops it and returns how many bytes it echoed.
    ///
    /// # Errors
    /// What ended it early.
    pub fn stop(mut self) -> Result<u64> {
        self.halt().context("it was stopped before")?.context("the kernel's echo")
    }

    fn halt(&mut self) -> Option<Result<u64>> {
        // ORDERING: Relaxed. A flag alone; the join orders everything else.
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(thread.join().map_err(|_| anyhow!("the thread panicked")).and_then(|result| Ok(result?)))
    }
}

impl Drop for KernelEcho {
    fn drop(&mut self) {
        // An error of a server that nobody asks any more has nobody to be told to.
        let _ = self.halt();
    }
}

/// A connection, and what it could not send back yet.
struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

fn serve(listeners: &[TcpListener], stop: &AtomicBool) -> io::Result<u64> {
    let (mut epoll, mut ready) = (Epoll::new(EVENTS)?, Vec::new());
    for (token, listener) in listeners.iter().enumerate() {
        epoll.add(listener, IN, token)?;
    }
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut free, mut echoed, mut buffer) = (Vec::new(), 0, vec![0; READ_BYTES]);
    // ORDERING: Relaxed. See `halt`.
    while !stop.load(Ordering::Relaxed) {
        epoll.wait(LOOK_EVERY, &mut ready)?;
        for &token in &ready {
            if let Some(listener) = listeners.get(token) {
                while let Some(stream) = accept(listener)? {
                    let slot = free.pop().unwrap_or(connections.len());
                    if slot == connections.len() {
                        connections.push(None);
                    }
                    epoll.add(&stream, IN, listeners.len() + slot)?;
                    connections[slot] = Some(Connection { stream, pending: Vec::new() });
                }
                continue;
            }
            let slot = token - listeners.len();
            let Some(connection) = &mut connections[slot] else { continue };
            let had_pending = !connection.pending.is_empty();
            match connection.echo(&mut buffer) {
                Ok(Some(bytes)) => {
                    echoed += bytes as u64;
                    let has_pending = !connection.pending.is_empty();
                    if has_pending != had_pending {
                        epoll.modify(&connection.stream, if has_pending { OUT } else { IN }, token)?;
                    }
                }
                // Finished, or reset by a client that has seen enough: closing the descriptor ends the watch.
                Ok(None) | Err(_) => {
                    connections[slot] = None;
                    free.push(slot);
                }
            }
        }
    }
    Ok(echoed)
}

fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(Some(stream))
        }
        // A connection that was reset before it was accepted is nobody's concern.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Connection {
    /// Sends pending bytes, or reads once and sends that back; how many bytes were read. `None` when the peer has
    /// finished.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.pending.is_empty() {
            let sent = would_block_is_none(self.stream.write(&self.pending))?;
            self.pending.drain(..sent);
            return Ok(Some(0));
        }
        let count = match self.stream.read(buffer) {
            Ok(0) => return Ok(None),
            result => would_block_is_none(result)?,
        };
        let sent = would_block_is_none(self.stream.write(&buffer[..count]))?;
        self.pending.extend_from_slice(&buffer[sent..count]);
        Ok(Some(count))
    }
}

fn would_block_is_none(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_are_counted_even_if_nobody_reads_them_for_a_while() {
        let echo = KernelEcho::start(0).unwrap();
        let address = echo.addresses()[1];
        let sent: Vec<u8> = (0..=250).cycle().take(8_000_000).collect();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let came = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            let mut came = Vec::new();
            reader.read_to_end(&mut came).map(|_| came)
        });
        stream.write_all(&sent).unwrap();
        // All of it must be back before the end is told: the server closes when the client does.
        thread::sleep(Duration::from_millis(200));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let came = came.join().unwrap().unwrap();
        assert!(sent.starts_with(&came[..]) && came.len() == sent.len(), "{} of {}", came.len(), sent.len());
        assert_eq!(echo.stop().unwrap(), sent.len() as u64);
    }
}
