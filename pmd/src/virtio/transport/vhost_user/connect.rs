//! Connecting to a backend's socket, and what can be in the way.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::virtio::spec::feature;
use crate::virtio::transport::TransportError;

/// Why there is no device behind a vhost-user socket.
#[derive(Debug, Error)]
pub enum VhostUserError {
    /// No such file.
    #[error(
        "no vhost-user socket {}; start its backend first, for example: dpdk-testpmd --vdev net_vhost0,iface={} \
         or a bywash port vhost-user-server:{}",
        path.display(), path.display(), path.display()
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A file, but no socket.
    #[error("{} is not a socket; give the path that the vhost-user backend listens on", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A socket that nobody listens on.
    #[error("nobody listens on {}: the backend that made it is gone; start it again", path.display())]
    NobodyListens {
        /// The path.
        path: PathBuf,
    },
    /// A socket of somebody else's.
    #[error(
        "no permission to use {}; the backend's user must give ours write access (chmod g+w, a common group)",
        path.display()
    )]
    Permission {
        /// The path.
        path: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// Any other failure to connect.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// It did not go on as it should.
    #[error("vhost-user handshake over {} failed; the backend's log may say more", path.display())]
    Handshake {
        /// The path.
        path: PathBuf,
        /// Which step, and how.
        source: TransportError,
    },
    /// A device from before virtio 1.0.
    #[error(
        "backend at {} offers {}, not VERSION_1: it is older than virtio 1.0, which is not supported",
        path.display(), feature::names(*offered)
    )]
    Legacy {
        /// The path.
        path: PathBuf,
        /// The bits it offers.
        offered: u64,
    },
    /// Fewer queues than asked for.
    #[error(
        "backend at {} has {offered} queue pairs, {wanted} are asked for; start it with more (DPDK: queues={wanted}) or ask \
         for fewer",
        path.display()
    )]
    QueuePairs {
        /// The path.
        path: PathBuf,
        /// Queue pairs asked for.
        wanted: u16,
        /// Queue pairs there are.
        offered: u64,
    },
}

pub(super) fn connect(path: &Path) -> Result<UnixStream, VhostUserError> {
    let path_buf = || path.to_path_buf();
    UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => VhostUserError::NoSocket { path: path_buf() },
        io::ErrorKind::PermissionDenied => VhostUserError::Permission { path: path_buf(), source },
        io::ErrorKind::ConnectionRefused => match path.metadata() {
            Ok(found) if !found.file_type().is_socket() => VhostUserError::NotASocket { path: path_buf() },
            _ => VhostUserError::NobodyListens { path: path_buf() },
        },
        _ => VhostUserError::Connect { path: path_buf(), source },
    })
}
