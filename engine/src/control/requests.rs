//! What can be asked: `engine` (who are you, which ports), `show` (figures), `stop`, `dump` (a capture of a port).

use std::io::{self, BufWriter, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};

use super::server::{Client, Handler, Patient};
use super::show::{Subject, show};
use super::view::View;
use crate::capture::{CaptureSpec, Captures, Ways};
use crate::launch::SharedPorts;

/// The shortest snapshot length: an Ethernet header.
const MIN_SNAPLEN: u32 = 14;

/// `{"request":"show"}`.
#[derive(Debug, Deserialize)]
struct Show {
    what: Subject,
    /// Whether latencies come with their histograms.
    #[serde(default)]
    histograms: bool,
}

/// `{"request":"dump"}`.
#[derive(Debug, Deserialize)]
struct Dump {
    /// A port string, or the number of the port.
    port: String,
    #[serde(default)]
    snaplen: Option<u32>,
    #[serde(default)]
    direction: Ways,
}

/// All of an engine.
pub(crate) fn handlers(
    view: &Arc<View>,
    captures: &Arc<Captures>,
    stopping: &Arc<AtomicBool>,
) -> Vec<(&'static str, Handler)> {
    let shown = Arc::clone(view);
    let engine: Handler = Box::new(move |_, client: Client<'_>| client.accept(shown.itself()).map(drop));
    let shown = Arc::clone(view);
    let show: Handler =
        Box::new(move |request, client: Client<'_>| match serde_json::from_value::<Show>(request.clone()) {
            Ok(Show { what, histograms }) => client.accept(show(&shown, what, histograms)).map(drop),
            Err(error) => client.refuse(&format!("a request to show something: {error}")),
        });
    let ended = Arc::clone(view);
    let stop: Handler = Box::new(move |_, client: Client<'_>| {
        log::warn!("{} asks for the end", client.who());
        // ORDERING: Relaxed. A flag on its own. Partner: `Running::stop_wanted`.
        ended.stop_wanted.store(true, Ordering::Relaxed);
        client.accept(ended.itself()).map(drop)
    });
    let (ports, captures, stopping) = (Arc::clone(&view.ports), Arc::clone(captures), Arc::clone(stopping));
    let dump: Handler =
        Box::new(move |request, client: Client<'_>| dump(request, client, &ports, &captures, &stopping));
    vec![("engine", engine), ("show", show), ("stop", stop), ("dump", dump)]
}

fn dump(
    request: &Value,
    client: Client<'_>,
    ports: &SharedPorts,
    captures: &Arc<Captures>,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let dump = match Dump::deserialize(request) {
        Ok(dump) => dump,
        Err(error) => return client.refuse(&format!("a request for a dump: {error}")),
    };
    let snaplen = dump.snaplen.unwrap_or(u32::MAX);
    if snaplen < MIN_SNAPLEN {
        return client.refuse(&format!("a snapshot length of {snaplen} bytes; {MIN_SNAPLEN} are the least"));
    }
    let names = ports.iter().map(|port| crate::launch::lock(port).name().to_owned());
    let names: Vec<String> = names.collect();
    let number = dump.port.parse().ok().filter(|number| *number < names.len());
    let Some(port) = names.iter().position(|name| *name == dump.port).or(number) else {
        return client.refuse(&format!("no port is called {:?}; there are {}", dump.port, names.join(", ")));
    };
    let mut capture = match captures.begin(CaptureSpec { port, snaplen, ways: dump.direction }) {
        Ok(capture) => capture,
        Err(error) => return client.refuse(&error.to_string()),
    };
    let driver = crate::launch::lock(&ports[port]).info().driver;
    let stream = client.accept(json!({ "port": names[port] }))?;
    let out = BufWriter::with_capacity(64 << 10, Patient { stream: &stream, stopping });
    capture.stream(out, &names[port], driver, &mut || has_hung_up(&stream))?;
    Ok(())
}

/// Whether the client has shut down its half: it wants no more frames, but how many were missed. Whatever else it says
/// is thrown away.
fn has_hung_up(mut stream: &UnixStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let hung_up = match stream.read(&mut [0; 256]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted,
    };
    stream.set_nonblocking(false).is_err() || hung_up
}
