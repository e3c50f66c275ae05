//! DPDK's telemetry, version 2: what `dpdk-telemetry.py`, telegraf and collectd ask a DPDK process, asked of an engine.
//!
//! ```text
//!   /var/run/dpdk/PREFIX/dpdk_telemetry.v2      root's; $RUNTIME_DIRECTORY first; $XDG_RUNTIME_DIR, or /tmp, for others
//!
//!   ← {"version":"bywash 0.1.0","pid":4711,"max_output_len":65536}       SOCK_SEQPACKET: a message each
//!   → /ethdev/stats,0
//!   ← {"/ethdev/stats":{"ipackets":…}}                                   null for what there is not
//! ```
//!
//! Source: DPDK 22.11's programmer's guide, "Telemetry Library", and its `usertools/dpdk-telemetry.py`.

mod commands;
#[cfg(all(test, not(loom)))]
mod tests;

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use serde_json::json;

use super::acceptor::{Acceptor, Guest, MAX_CONNECTIONS, Serve};
use super::directory::{ControlError, Folder};
use super::view::View;

/// The socket's name, which is DPDK's.
const SOCKET: &str = "dpdk_telemetry.v2";

/// The longest answer, in bytes: below what a socket takes in one message, 208 KiB unless the system is told otherwise.
const MAX_OUTPUT_BYTES: usize = 64 << 10;

/// The longest request, in bytes; DPDK's.
const MAX_REQUEST_BYTES: usize = 1024;

/// How long a client is waited for before the server looks whether it is to stop.
const STEP: Duration = Duration::from_millis(100);

/// The socket, open. Dropping it takes the socket away.
pub(crate) struct Telemetry {
    _acceptor: Acceptor,
    _file: File,
}

/// The socket's file; goes when dropped, with folders that are then empty.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        if let Some(folder) = self.0.parent() {
            // Not if another process of that prefix has something there.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Telemetry {
    /// Listens in `folder`.
    pub(crate) fn start(
        folder: &Path,
        view: Arc<View>,
        stopping: Arc<AtomicBool>,
    ) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Telemetry { folder: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let path = folder.join(SOCKET);
        let listener = open(&path).map_err(failed)?;
        let file = File(path);
        fs::set_permissions(&file.0, Permissions::from_mode(0o660)).map_err(failed)?;
        let serve: Serve<UnixStream> = Box::new(move |stream, guest| converse(stream, &guest, &view));
        let acceptor = Acceptor::start("telemetry", listener, stopping, serve).map_err(failed)?;
        Ok(Self { _acceptor: acceptor, _file: file })
    }
}

/// Where DPDK and its tools look for a process of this file prefix: `/var/run/dpdk/PREFIX` for root,
/// `$XDG_RUNTIME_DIR/dpdk/PREFIX` for others; `$RUNTIME_DIRECTORY` before both.
///
/// # Errors
/// [`ControlError::BadName`] unless the prefix could be an engine's name.
pub fn telemetry_folder(prefix: &str) -> Result<PathBuf, ControlError> {
    Folder::new(Path::new(""), prefix)?;
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let is_root = || fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    let parent = variable("RUNTIME_DIRECTORY").unwrap_or_else(|| match is_root() {
        true => "/var/run".into(),
        false => variable("XDG_RUNTIME_DIR").unwrap_or_else(|| "/tmp".into()),
    });
    Ok(parent.join("dpdk").join(prefix))
}

/// A listening socket at `path`, in place of one that nobody listens on any more.
fn open(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, probe) = (socket()?, socket()?);
    // Only a refusal says that its owner is dead: what cannot be asked may be alive.
    if let Err(rustix::io::Errno::CONNREFUSED) = connect(&probe, &address) {
        fs::remove_file(path)?;
    }
    bind(&ours, &address)?;
    listen(&ours, i32::try_from(MAX_CONNECTIONS).unwrap_or(i32::MAX))?;
    Ok(UnixListener::from(ours))
}

/// Greets, and answers until the client hangs up. Each read is a message, each write another.
fn converse(mut stream: UnixStream, guest: &Guest<'_>, view: &View) -> io::Result<()> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    if guest.is_too_many {
        return Ok(());
    }
    let version = format!("bywash {}", env!("CARGO_PKG_VERSION"));
    let hello = json!({ "version": version, "pid": std::process::id(), "max_output_len": MAX_OUTPUT_BYTES });
    say(&mut stream, &hello.to_string())?;
    let mut request = [0; MAX_REQUEST_BYTES];
    loop {
        // ORDERING: Relaxed. A flag on its own. Partner: `Acceptor::drop`.
        if guest.stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        match stream.read(&mut request) {
            Ok(0) => return Ok(()),
            Ok(bytes) => {
                let line = String::from_utf8_lossy(&request[..bytes]);
                say(&mut stream, &commands::answer(line.trim_end_matches(['\0', '\n']), view))?;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// One message. A client that does not read until its queue is full is not waited for.
fn say(stream: &mut UnixStream, text: &str) -> io::Result<()> {
    stream.write(text.as_bytes()).map(drop)
}
