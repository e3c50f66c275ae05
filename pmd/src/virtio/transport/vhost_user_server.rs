//! Device side over a vhost-user socket: we are the device of a QEMU guest, of DPDK's virtio-user, of another bywash.
//!
//! One control thread per port owns the socket: it accepts one frontend at a time, follows its messages
//! (`messages.rs`, `session.rs`), maps its memory (`received.rs`) and hands its virtqueues to the cores that poll them
//! ([`attach`](crate::virtio::attach)). When a frontend leaves, its virtqueues stop and the next one may come.
//!
//! Source: QEMU `docs/interop/vhost-user.rst`.

mod early;
mod messages;
#[allow(unsafe_code)]
mod received;
mod session;
#[allow(unsafe_code)] // recv and ioctl
mod whole;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use vhost::vhost_user::{BackendReqHandler, Error as WireError};

use super::TransportError;
use super::poll::poll;
use crate::port::Link;
use crate::virtio::attach::{Follower, hand_over};
use crate::virtio::server::{DeviceControl, Steering};
pub use received::MemoryTableError;
use session::{Device, Session};

/// What to offer to frontends, and where.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The socket to listen on. Its permissions, as the umask leaves them, decide who may be a frontend; whoever may
    /// can crash this process (see the memory table's notes).
    pub path: PathBuf,
    /// Virtio feature bits offered; vhost-user's own is added.
    pub features: u64,
    /// Number of virtqueues, two for each queue pair. With `CTRL_VQ` among the features there is one more behind them,
    /// the control queue, which is served here.
    pub queues: u16,
    /// The device configuration space (virtio 1.2 §5.1.4); empty if no feature stands for a field of it.
    pub config: Vec<u8>,
}

/// Why a socket cannot be listened on.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Another process listens there.
    #[error("{} is in use by a running vhost-user backend; stop it or choose another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// There is a file, not a socket.
    #[error("{} exists and is not a socket; choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Its directory is not there, or cannot be written to, or the path is too long (107 bytes).
    #[error("cannot listen on {} ({what})", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// errno.
        source: io::Error,
    },
}

/// How things stand with the frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// There is one.
    pub connected: bool,
    /// Virtqueues it has started and enabled.
    pub rings: usize,
    /// Feature bits it has accepted, vhost-user's own included; 0 before that.
    pub features: u64,
}

/// A vhost-user backend: listens as long as it lives.
pub struct VhostUserServer {
    device: Arc<Device>,
    // Hung up to stop the control thread, in whatever call it is.
    stop: Option<UnixStream>,
    connection: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl VhostUserServer {
    /// Listens on the socket, in place of one that a killed process has left there, and starts the control thread.
    /// Returns the polling cores' ends of the virtqueues as well, by number.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(config: ServerConfig) -> Result<(Self, Vec<Follower>), ServerError> {
        let path = config.path;
        let failed = |what| {
            let path = path.clone();
            move |source| ServerError::Listen { path, what, source }
        };
        let listener = Listener::bind(&path)?;
        let (publishers, followers) = (0..config.queues).map(|_| hand_over()).unzip();
        let device = Arc::new(Device {
            features: config.features,
            config: config.config,
            publishers,
            steering: Steering::new(config.queues / 2),
            status: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let (stop, stopped) = UnixStream::pair().map_err(failed("make a pair of sockets"))?;
        let connection = Arc::default();
        let control =
            Control { listener, stopped, device: Arc::clone(&device), connection: Arc::clone(&connection) };
        let thread = std::thread::Builder::new()
            .name("vhost-user".into())
            .spawn(move || control.run())
            .map_err(failed("start a thread"))?;
        Ok((Self { device, stop: Some(stop), connection, thread: Some(thread) }, followers))
    }

    /// Who decides which receive queue a frame goes to.
    pub(crate) fn steering(&self) -> Arc<Steering> {
        Arc::clone(&self.device.steering)
    }

    /// How things stand, as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        *self.device.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Disconnects the frontend, stops its virtqueues, removes the socket. Idempotent; dropping does the same.
    ///
    /// Blocks at most half a second for each virtqueue whose core neither polls nor has dropped its [`Follower`].
    pub fn stop(&mut self) {
        // ORDERING: Relaxed; a flag that carries nothing with it. Partner: `Session::drop`.
        self.device.stopping.store(true, Ordering::Relaxed);
        drop(self.stop.take());
        if let Some(connection) = &*self.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            // Ends a read or write that a frontend which has stopped half way keeps the control thread in.
            drop(connection.shutdown(std::net::Shutdown::Both));
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for VhostUserServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl DeviceControl for VhostUserServer {
    fn link(&self) -> Link {
        if self.status().rings >= 2 { Link::Up } else { Link::Down }
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        VhostUserServer::stop(self);
        Ok(())
    }
}

/// The control thread.
struct Control {
    listener: Listener,
    stopped: UnixStream,
    device: Arc<Device>,
    connection: Arc<Mutex<Option<UnixStream>>>,
}

impl Control {
    fn run(self) {
        let name = self.listener.path.display().to_string();
        loop {
            match self.wait(self.listener.socket.as_fd()) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    return log::error!(
                        "vhost-user-server:{name}: {error}; no frontend can connect any more"
                    );
                }
            }
            match self.listener.socket.accept() {
                Ok((stream, _)) => {
                    log::info!("vhost-user-server:{name}: frontend connected");
                    match self.serve(stream) {
                        Ok(()) | Err(WireError::Disconnected) => {
                            log::info!("vhost-user-server:{name}: frontend left");
                        }
                        // Ours says what the frontend did; the crate's wrapping says nothing more.
                        Err(WireError::ReqHandlerError(error)) => {
                            log::warn!("vhost-user-server:{name}: frontend disconnected: {error}");
                        }
                        Err(error) => log::warn!("vhost-user-server:{name}: frontend disconnected: {error}"),
                    }
                }
                // It has thought better of it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::warn!("vhost-user-server:{name}: cannot accept a frontend: {error}");
                    // Out of file descriptors, most likely; not at full speed until there are some.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Waits until there is something to read; `false` if we are to stop.
    fn wait(&self, fd: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
        loop {
            let [stopped, fd] = poll([self.stopped.as_fd(), fd], None)?;
            if stopped.gone {
                return Ok(false);
            }
            if fd.readable || fd.gone {
                return Ok(true);
            }
        }
    }

    /// The same, serving the control queue meanwhile.
    fn wait_for_message(
        &self,
        socket: std::os::fd::BorrowedFd<'_>,
        session: &Mutex<Session>,
    ) -> io::Result<bool> {
        loop {
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(kick) = session.control_kick() else {
                drop(session);
                return self.wait(socket);
            };
            session.obey();
            drop(session);
            let [stopped, socket, _] = poll([self.stopped.as_fd(), socket, kick.as_fd()], None)?;
            if stopped.gone {
                return Ok(false);
            }
            if socket.readable || socket.gone {
                return Ok(true);
            }
        }
    }

    fn serve(&self, stream: UnixStream) -> Result<(), WireError> {
        let connection = stream.try_clone().map_err(WireError::SocketError)?;
        let waiting = stream.try_clone().map_err(WireError::SocketError)?;
        let remember = |connection| {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        };
        remember(Some(connection));
        let session = Arc::new(Mutex::new(Session::new(Arc::clone(&self.device))));
        let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&session));
        let ended = loop {
            match self.wait_for_message(waiting.as_fd(), &session) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(WireError::SocketError(error)),
            }
            match whole::is_whole_in_time(&waiting) {
                Ok(true) => {}
                Ok(false) => break Err(session::SessionError::Unfinished.into()),
                Err(error) => break Err(WireError::SocketError(error)),
            }
            match early::take(&waiting, &session) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => break Err(WireError::ReqHandlerError(error)),
            }
            if let Err(error) = handler.handle_request() {
                break Err(error);
            }
        };
        // First the virtqueues stop, then the frontend sees that the connection is gone: once it does, its memory is
        // its own again.
        drop(handler);
        drop(session);
        remember(None);
        ended
    }
}

/// A listening socket and its name in the file system, which goes with it.
struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode: the name may have been taken over by another process since.
    identity: Option<(u64, u64)>,
}

impl Listener {
    fn bind(path: &Path) -> Result<Self, ServerError> {
        let failed = |what, source| ServerError::Listen { path: path.to_path_buf(), what, source };
        match path.symlink_metadata() {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ServerError::NotASocket { path: path.to_path_buf() });
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)
                        .map_err(|source| failed("remove what was left there", source))?;
                }
                Err(source) => return Err(failed("see whether somebody listens there", source)),
                Ok(_) => return Err(ServerError::InUse { path: path.to_path_buf() }),
            },
            Err(_) => {}
        }
        let socket = UnixListener::bind(path).map_err(|source| failed("bind", source))?;
        // A frontend that hangs up before it is accepted must not leave the control thread waiting in accept.
        socket.set_nonblocking(true).map_err(|source| failed("make it non-blocking", source))?;
        let identity = path.symlink_metadata().ok().map(|found| (found.dev(), found.ino()));
        Ok(Self { socket, path: path.to_path_buf(), identity })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let there = self.path.symlink_metadata().ok().map(|found| (found.dev(), found.ino()));
        if there.is_some() && there == self.identity {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
