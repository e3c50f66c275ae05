//! The rings between a core and an application, and the sockets on the application's side.
//!
//! One implementation for two uses: over heap memory for threads of the engine's own process, and over a sealed memory
//! file for other processes. Whatever one side reads of what the other wrote is masked and bounded: it may be hostile.
//!
//! ```text
//!   application                                 │ core (never blocks)
//!   TcpListener  TcpStream  UdpSocket  aio::…   │ CoreDoor
//!        │            ▲ │                       │   next_knock ─► Opened(Request) │ Rung(Token)
//!        │        rx  │ │ tx   one ring each    │   TcpEnd: deliver, outgoing, finish, fail, …
//!        │            │ ▼                       │   UdpEnd, ListenerEnd, LookupEnd
//!        └─ request, bell ─► one queue a core ──┼─►
//!        CoreBell, only if the core sleeps ─────┼─►
//!          futex word, waker ◄── only if armed ─┼── wake, after one fence a turn
//! ```
//!
//! # Copies
//! A byte that a service handles on the loop is copied twice on its way in and out: from the mbuf to the socket's buffer,
//! and from there to an mbuf. For a thread it is copied three times a direction: mbuf to socket's buffer, to the ring, to
//! the caller's buffer; and the same back: an echo by a thread copies each byte six times where the loop copies it twice.
//! The ring is filled straight from the socket's buffer, and the socket's buffer straight from the ring.
//!
//! # Backpressure
//! Nothing of a TCP stream is dropped: while a ring is full its bytes stay in the socket's buffer, which closes the window;
//! while the socket's buffer is full they stay in the ring, and the writer sleeps. Datagrams without room are lost and
//! counted.
//!
//! # Memory
//! Each connection has one mapping with a page of words and two rings ([`TcpOptions::rx_bytes`] and `tx_bytes`), populated as
//! bytes reach it, freed when both sides have let go.

pub mod aio;
mod bell;
mod channel;
mod core_bell;
mod core_door;
#[cfg(all(test, not(loom)))]
mod double;
mod failure;
#[cfg(all(test, not(loom)))]
mod hostile;
pub mod layout;
mod lookup;
#[allow(unsafe_code)] // maps, and copies to and from what is mapped
mod memory;
mod net;
mod options;
mod request;
mod ring;
#[allow(unsafe_code)] // futex, eventfd
mod sync;
mod tcp;
mod udp;
#[allow(unsafe_code)] // reads the clock
mod wake;

pub use bell::{Knock, Token};
pub use core_bell::{Caller, CoreBell};
pub use core_door::{AppState, CoreDoor, ListenerEnd, Refusal, TcpEnd, UdpEnd};
pub use failure::Failure;
pub use lookup::{Family, LookupEnd, MAX_ADDRESSES};
pub use net::{Net, door};
pub use options::{ConnectOptions, ListenOptions, TcpOptions};
pub use request::{Connect, Request};
pub use ring::Lie;
pub use tcp::{Incoming, TcpListener, TcpStream};
pub use udp::{MAX_DATAGRAM, UdpSocket};

/// A full memory fence: between the last change to any end and the first `wake` of a turn. One serves them all.
#[inline]
pub fn full_fence() {
    wake::full_fence();
}
