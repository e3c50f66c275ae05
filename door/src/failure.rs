//! Why a socket does not work any more, as a code in shared memory and as an `io::Error`.

use std::io;

/// What the core says has happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Failure {
    /// The peer reset the connection.
    #[error("the peer reset the connection")]
    Reset = 1,
    /// Nobody listens there.
    #[error("connection refused: nobody listens on that port")]
    Refused,
    /// The peer does not answer any more, or never did.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The host cannot be reached: a router said so, or it does not answer on the link.
    #[error("the host cannot be reached")]
    HostUnreachable,
    /// No route leads there, or a router said so.
    #[error("no route to that network: is a gateway configured?")]
    NetUnreachable,
    /// The engine stopped or died.
    #[error("the engine has stopped")]
    Stopped,
    /// This side aborted the connection.
    #[error("the connection was aborted")]
    Aborted,
    /// Another socket has the port.
    #[error("the address is in use")]
    AddrInUse,
    /// Not an address of this stack, or no port is left.
    #[error("not an address of this stack, or no free port")]
    AddrNotAvailable,
    /// A limit of the engine is reached.
    #[error("the engine's limit of sockets or flows is reached")]
    NoRoom,
    /// What was asked for makes no sense.
    #[error("invalid address or option")]
    Invalid,
    /// The datagram is too long.
    #[error("the datagram is too long")]
    TooLong,
    /// The shared memory holds what it cannot hold.
    #[error("the shared memory is corrupt")]
    Lied,
    /// No such name.
    #[error("no such name")]
    NoSuchName,
    /// The name servers do not answer, or there are none.
    #[error("no name server answers: is one configured?")]
    NoNameServer,
}

impl Failure {
    const ALL: [Self; 15] = [
        Self::Reset,
        Self::Refused,
        Self::TimedOut,
        Self::HostUnreachable,
        Self::NetUnreachable,
        Self::Stopped,
        Self::Aborted,
        Self::AddrInUse,
        Self::AddrNotAvailable,
        Self::NoRoom,
        Self::Invalid,
        Self::TooLong,
        Self::Lied,
        Self::NoSuchName,
        Self::NoNameServer,
    ];

    /// Its number in shared memory; never 0.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The failure of a number; 0 is none, and an unknown one a lie.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => None,
            _ => Some(Self::ALL.into_iter().find(|failure| failure.code() == code).unwrap_or(Self::Lied)),
        }
    }

    /// What the standard library calls it.
    #[must_use]
    pub fn kind(self) -> io::ErrorKind {
        use io::ErrorKind as Kind;
        match self {
            Self::Reset => Kind::ConnectionReset,
            Self::Refused => Kind::ConnectionRefused,
            Self::TimedOut => Kind::TimedOut,
            Self::HostUnreachable => Kind::HostUnreachable,
            Self::NetUnreachable => Kind::NetworkUnreachable,
            Self::Stopped | Self::Aborted | Self::Lied => Kind::ConnectionAborted,
            Self::AddrInUse => Kind::AddrInUse,
            Self::AddrNotAvailable => Kind::AddrNotAvailable,
            Self::NoRoom => Kind::QuotaExceeded,
            Self::Invalid | Self::TooLong => Kind::InvalidInput,
            Self::NoSuchName => Kind::NotFound,
            Self::NoNameServer => Kind::TimedOut,
        }
    }

    /// Whether every later call meets it too; others are reported once.
    pub(crate) fn is_lasting(self) -> bool {
        matches!(self, Self::Stopped | Self::Aborted | Self::Lied)
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind(), failure)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn code_and_failure_are_one_to_one() {
        for failure in Failure::ALL {
            assert_eq!(Failure::from_code(failure.code()), Some(failure));
        }
        assert_eq!(Failure::from_code(0), None);
        assert_eq!(Failure::from_code(255), Some(Failure::Lied));
    }
}
