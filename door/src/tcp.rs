//! TCP for threads: the names and the habits of `std::net`.

mod acceptor;
mod listener;
mod socket;
mod stream;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use acceptor::{Acceptor, Closer};
pub use listener::{Incoming, TcpListener};
pub(crate) use socket::Socket;
pub use stream::TcpStream;
