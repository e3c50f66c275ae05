//! The same sockets for async code: `futures-io`'s traits, Tokio's under the feature `tokio`. Wakers only; any executor
//! will do. A core that finds a waker calls it, so an executor's wake-up must not block: those in use do not.
//!
//! One task may wait for each direction of a stream or UDP socket; several may accept from one listener. Dropping a stream
//! never blocks: a linger time other than zero makes the drop of [`crate::TcpStream`] wait and must not be set here.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};

use crate::net::Net;
use crate::options::{ConnectOptions, ListenOptions};

/// A listener of tasks.
#[derive(Debug)]
pub struct TcpListener(crate::TcpListener);

impl TcpListener {
    /// As [`crate::TcpListener::bind`]; waits for the cores, which is a matter of microseconds, by blocking.
    ///
    /// # Errors
    /// As there.
    pub fn bind(net: &Net, at: SocketAddr) -> io::Result<Self> {
        net.listen_with(at, ListenOptions::default()).map(Self)
    }

    /// The next connection and its peer's address. Cancel-safe.
    ///
    /// # Errors
    /// `ConnectionAborted` when the engine has stopped.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = poll_fn(|cx| self.0.poll_accept(cx)).await?;
        Ok((TcpStream(stream), peer))
    }

    /// The address it listens at.
    ///
    /// # Errors
    /// None: as in `std::net`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl From<crate::TcpListener> for TcpListener {
    fn from(listener: crate::TcpListener) -> Self {
        Self(listener)
    }
}

/// A connection for tasks.
#[derive(Debug)]
pub struct TcpStream(crate::TcpStream);

impl TcpStream {
    /// Connects; dropping the future gives up.
    ///
    /// # Errors
    /// As [`crate::TcpStream::connect`].
    pub async fn connect(net: &Net, to: SocketAddr) -> io::Result<Self> {
        let socket = net.start_connecting(to, ConnectOptions::default())?;
        let stream = crate::TcpStream::new(socket);
        poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok(Self(stream))
    }

    /// The stream for threads, for its options and addresses.
    #[must_use]
    pub fn get_ref(&self) -> &crate::TcpStream {
        &self.0
    }

    fn poll_end(&self) -> Poll<io::Result<()>> {
        // A connection that is over needs no end.
        drop(self.0.shutdown(Shutdown::Write));
        Poll::Ready(Ok(()))
    }
}

impl From<crate::TcpStream> for TcpStream {
    fn from(stream: crate::TcpStream) -> Self {
        Self(stream)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_receive(cx, data)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_transmit(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Finishes the direction to the peer.
    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end()
    }
}

impl AsyncRead for &TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_receive(cx, data)
    }
}

impl AsyncWrite for &TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_transmit(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end()
    }
}

#[cfg(feature = "tokio")]
impl tokio::io::AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = std::task::ready!(self.0.poll_receive(cx, data.initialize_unfilled()))?;
        data.advance(count);
        Poll::Ready(Ok(()))
    }
}

#[cfg(feature = "tokio")]
impl tokio::io::AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_transmit(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end()
    }
}

/// A UDP socket for tasks.
#[derive(Debug)]
pub struct UdpSocket(crate::UdpSocket);

impl UdpSocket {
    /// As [`crate::UdpSocket::bind`]; waits for the cores by blocking.
    ///
    /// # Errors
    /// As there.
    pub fn bind(net: &Net, at: SocketAddr) -> io::Result<Self> {
        net.bind(at).map(Self)
    }

    /// As [`crate::UdpSocket::send_to`]. Cancel-safe.
    ///
    /// # Errors
    /// As there, but for `WouldBlock`.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        poll_fn(|cx| self.0.poll_send_to(cx, data, to)).await
    }

    /// As [`crate::UdpSocket::recv_from`]. Cancel-safe.
    ///
    /// # Errors
    /// As there, but for `WouldBlock`.
    pub async fn recv_from(&self, data: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.0.poll_recv_from(cx, data)).await
    }

    /// The socket for threads, for its options and addresses.
    #[must_use]
    pub fn get_ref(&self) -> &crate::UdpSocket {
        &self.0
    }
}

/// As [`Net::resolve`], without blocking.
///
/// # Errors
/// As there.
pub async fn resolve(net: &Net, name: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let answers = net.start_resolving(name)?;
    poll_fn(|cx| Net::poll_resolved(cx, &answers)).await
}

#[cfg(all(test, not(loom)))]
mod tests;
