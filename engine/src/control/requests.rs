//! What can be asked: `engine` (who are you, which ports), `dump` (a capture of one of them).

use std::io::{self, BufWriter, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::server::{Client, Handler, Patient};
use crate::capture::{CaptureSpec, Captures, Ways};
use crate::launch::SharedPorts;

/// The shortest snapshot length: an Ethernet header.
const MIN_SNAPLEN: u32 = 14;

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
    control: &Control,
    ports: &SharedPorts,
    captures: &Arc<Captures>,
    stopping: &Arc<AtomicBool>,
) -> Vec<(&'static str, Handler)> {
    let described = Arc::clone(ports);
    let facts = json!({ "name": control.name, "program": control.program, "pid": std::process::id() });
    let engine: Handler = Box::new(move |_, client: Client<'_>| {
        let mut answer = facts.clone();
        answer["ports"] = describe(&described);
        client.accept(answer).map(drop)
    });
    let (ports, captures, stopping) = (Arc::clone(ports), Arc::clone(captures), Arc::clone(stopping));
    let dump: Handler =
        Box::new(move |request, client: Client<'_>| dump(request, client, &ports, &captures, &stopping));
    vec![("engine", engine), ("dump", dump)]
}

fn describe(ports: &SharedPorts) -> Value {
    let describe = |(index, port): (usize, &_)| {
        let port = crate::launch::lock(port);
        let info = port.info();
        let mac = info.mac.map(|byte| format!("{byte:02x}")).join(":");
        let link = format!("{:?}", port.link()).to_lowercase();
        json!({ "port": index, "name": port.name(), "driver": info.driver, "mac": mac, "mtu": info.mtu, "link": link })
    };
    ports.iter().enumerate().map(describe).collect()
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
