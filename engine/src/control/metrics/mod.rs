//! A page of metrics in the OpenMetrics text format, for Prometheus and whatever else reads it, over HTTP/1.1.
//!
//! Two paths are served: `/metrics`, and `/` with a link to it. A request is its head, at most 8 KiB and within two seconds;
//! an answer closes the connection. The loops have no part in it but the counters that they hand out.

mod page;
#[cfg(all(test, not(loom)))]
mod tests;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::acceptor::{Acceptor, Serve};
use super::directory::ControlError;
use super::view::View;
use page::Page;

/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// How many header fields a request may have.
const MAX_FIELDS: usize = 64;

/// How long a client may take to ask, and to take the answer.
const WITHIN: Duration = Duration::from_secs(2);

/// The format, as <https://prometheus.io/docs/specs/om/open_metrics_spec/> calls it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page, served. Dropping it ends that.
pub(crate) struct Metrics {
    address: SocketAddr,
    _acceptor: Acceptor,
}

impl Metrics {
    /// Listens on `address`.
    pub(crate) fn start(
        address: SocketAddr,
        view: Arc<View>,
        stopping: Arc<AtomicBool>,
    ) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Metrics { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let page = Page::new(view);
        let serve: Serve<TcpStream> = Box::new(move |stream, guest| serve(stream, guest.is_too_many, &page));
        let acceptor = Acceptor::start("metrics", listener, stopping, serve).map_err(failed)?;
        Ok(Self { address: bound, _acceptor: acceptor })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Reads one request and answers it.
fn serve(mut stream: TcpStream, is_too_many: bool, page: &Page) -> io::Result<()> {
    stream.set_write_timeout(Some(WITHIN))?;
    if is_too_many {
        return answer(&mut stream, "503 Service Unavailable", "text/plain", "too many connections\n", true);
    }
    let Some(head) = head(&mut stream)? else {
        return answer(
            &mut stream,
            "400 Bad Request",
            "text/plain",
            "no HTTP request of at most 8 KiB\n",
            true,
        );
    };
    let (whole, path) = (head.method == "GET", head.path.split('?').next().unwrap_or_default());
    if !whole && head.method != "HEAD" {
        return answer(&mut stream, "405 Method Not Allowed", "text/plain", "GET and HEAD only\n", true);
    }
    match path {
        "/metrics" => answer(&mut stream, "200 OK", OPEN_METRICS, &page.text(), whole),
        "/" => answer(&mut stream, "200 OK", "text/html", "<a href=\"/metrics\">/metrics</a>\n", whole),
        _ => answer(&mut stream, "404 Not Found", "text/plain", "there is /metrics\n", whole),
    }
}

/// What a request wants.
struct Head {
    method: String,
    path: String,
}

/// The head of a request; `None` if it is none, or too long.
fn head(stream: &mut TcpStream) -> io::Result<Option<Head>> {
    let deadline = Instant::now() + WITHIN;
    let (mut bytes, mut length) = (vec![0; MAX_HEAD_BYTES], 0);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[length..]) {
            // The end, or no room for more.
            Ok(0) => return Ok(None),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&bytes[..length]) {
            Ok(httparse::Status::Complete(_)) => {
                let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
                return Ok(Some(Head { method: word(request.method), path: word(request.path) }));
            }
            Ok(httparse::Status::Partial) => {}
            Err(_) => return Ok(None),
        }
    }
}

fn answer(stream: &mut TcpStream, status: &str, kind: &str, body: &str, whole: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(if whole { body.as_bytes() } else { b"" })?;
    stream.flush()
}
