//! From a request to its answer: which file, which part of it, or which error.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use super::head::{Connection, Date, Head, Status};
use super::range::{Part, part};
use super::request::{Body, Method, Request};
use super::site::{Entry, File, Site};
use super::target;

/// Longest body of a request that is read and discarded, so that its connection may stay; a longer one ends it.
const MAX_DISCARDED_BYTES: u64 = 64 * 1024;
/// Longest target, decoded: that of a request as long as may be.
const KEY_BYTES: usize = super::request::MAX_HEAD_BYTES;

/// What follows the head of an answer, and then.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// The bytes to send.
    pub body: Option<(Arc<File>, Range<usize>)>,
    /// Bytes of the request's own body, to be discarded.
    pub discard: u64,
    /// Whether the connection ends.
    pub closes: bool,
}

/// What the answers of one core have in common. Nothing in here allocates once it is warm.
#[derive(Debug)]
pub struct Answers {
    site: Arc<Site>,
    date: Date,
    head: Head,
    key: Vec<u8>,
    /// What was answered.
    pub counts: Counts,
}

/// Answers by class; bytes of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the counters' own
pub struct Counts {
    pub requests: u64,
    pub status_2xx: u64,
    pub status_3xx: u64,
    pub status_4xx: u64,
    pub status_5xx: u64,
    pub body_bytes: u64,
}

impl Answers {
    /// Answers from `site`.
    #[must_use]
    pub fn new(site: Arc<Site>) -> Answers {
        let (date, head) = (Date::new(SystemTime::now()), Head::default());
        Answers { site, date, head, key: Vec::with_capacity(KEY_BYTES), counts: Counts::default() }
    }

    /// Answers from `site` from now on. What is being sent is not touched.
    pub fn set_site(&mut self, site: Arc<Site>) {
        self.site = site;
    }

    /// Keeps the `Date` true.
    #[inline]
    pub fn refresh(&mut self, now_ns: u64) {
        self.date.refresh(now_ns);
    }

    /// The head that [`Answers::answer`] or [`Answers::refuse`] wrote, with the text of an error behind it.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.head.bytes()
    }

    /// Writes the head of the answer to `request`; returns what follows it.
    pub fn answer(&mut self, request: &Request<'_>) -> Rest {
        let (discard, keeps) = match request.body {
            // Whether the body of a client that waits for `100 Continue` still comes after another answer is unknown.
            Body::Length(bytes) if bytes == 0 || !request.expects_continue => {
                (bytes, bytes <= MAX_DISCARDED_BYTES)
            }
            _ => (0, false),
        };
        let stays = keeps && request.keep_alive;
        let connection = match (stays, request.is_http_1_0) {
            (false, _) => Connection::Closes,
            (true, true) => Connection::StaysAsAsked,
            (true, false) => Connection::Stays,
        };
        let body = self.find(request, connection);
        Rest { body, discard: if stays { discard } else { 0 }, closes: !stays }
    }

    /// Writes an answer after which the connection ends.
    pub fn refuse(&mut self, status: Status) -> Rest {
        self.error(status, Connection::Closes, true);
        Rest { closes: true, ..Rest::default() }
    }

    fn find(&mut self, request: &Request<'_>, connection: Connection) -> Option<(Arc<File>, Range<usize>)> {
        let with_body = request.method != Method::Head;
        if request.method == Method::Other {
            self.error(Status::MethodNotAllowed, connection, true);
            return None;
        }
        let found = match target::key(request.target, &mut self.key) {
            Ok(()) => self.site.find(&self.key).ok_or(Status::NotFound),
            Err(status) => Err(status),
        };
        // A clone of the `Arc`: what is sent must outlive a change of the site.
        let file = match found {
            Ok(Entry::File(file)) => Arc::clone(file),
            Ok(Entry::Directory(location)) => {
                self.head.begin(Status::MovedPermanently, &self.date, connection);
                self.head.lines(b"Location: ");
                self.head.lines(location.as_bytes());
                self.head.lines(b"\r\n");
                self.head.end_with_words(Status::MovedPermanently, with_body);
                self.count(Status::MovedPermanently);
                return None;
            }
            Ok(Entry::NotLoaded) => {
                self.error(Status::Unavailable, connection, with_body);
                return None;
            }
            Err(status) => {
                self.error(status, connection, with_body);
                return None;
            }
        };
        self.file(request, file, connection)
    }

    fn file(
        &mut self,
        request: &Request<'_>,
        file: Arc<File>,
        connection: Connection,
    ) -> Option<(Arc<File>, Range<usize>)> {
        let bytes = file.bytes();
        // RFC 9110 §13.2.2: conditions first, then the range, which only GET has.
        let wanted = match request.range {
            _ if is_not_modified(request, &file) => {
                self.begin(Status::NotModified, connection, &file);
                self.head.end();
                return None;
            }
            Some(range) if request.method == Method::Get && is_current(request, &file) => part(range, bytes),
            _ => Part::Whole,
        };
        let sent = match wanted {
            Part::Whole => {
                self.begin(Status::Ok, connection, &file);
                0..bytes
            }
            Part::Bytes(part) => {
                self.begin(Status::PartialContent, connection, &file);
                self.head.range(Some(&part), bytes);
                part
            }
            Part::Unsatisfiable => {
                self.head.begin(Status::RangeNotSatisfiable, &self.date, connection);
                self.head.range(None, bytes);
                self.head.end_with_words(Status::RangeNotSatisfiable, true);
                self.count(Status::RangeNotSatisfiable);
                return None;
            }
        };
        self.head.length(sent.end - sent.start);
        self.head.end();
        if request.method == Method::Head {
            return None;
        }
        self.counts.body_bytes += sent.end - sent.start;
        // Within the file, whose length is a usize.
        let sent = usize::try_from(sent.start).ok()?..usize::try_from(sent.end).ok()?;
        (!sent.is_empty()).then_some((file, sent))
    }

    fn begin(&mut self, status: Status, connection: Connection, file: &File) {
        self.head.begin(status, &self.date, connection);
        self.head.lines(&file.lines);
        self.count(status);
    }

    fn error(&mut self, status: Status, connection: Connection, with_body: bool) {
        self.head.begin(status, &self.date, connection);
        if status == Status::MethodNotAllowed {
            self.head.lines(b"Allow: GET, HEAD\r\n");
        }
        self.head.end_with_words(status, with_body);
        self.count(status);
    }

    fn count(&mut self, status: Status) {
        let counts = &mut self.counts;
        counts.requests += 1;
        *match status.number() {
            ..300 => &mut counts.status_2xx,
            300..400 => &mut counts.status_3xx,
            400..500 => &mut counts.status_4xx,
            500.. => &mut counts.status_5xx,
        } += 1;
    }
}

/// Whether the client has this very version. `If-None-Match` wins over `If-Modified-Since`. RFC 9110 §13.1
fn is_not_modified(request: &Request<'_>, file: &File) -> bool {
    if file.etag.is_empty() {
        return false;
    }
    if let Some(tags) = request.if_none_match {
        // Weak comparison: a `W/` in front makes no difference. Our tags contain no comma.
        let mut tags = tags.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        return tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == file.etag.as_bytes());
    }
    let since = request.if_modified_since.and_then(date);
    since.zip(file.modified).is_some_and(|(since, modified)| modified <= since)
}

/// Whether a range may be taken out of this version: `If-Range` names it, or is not there. RFC 9110 §13.1.5
fn is_current(request: &Request<'_>, file: &File) -> bool {
    let Some(wanted) = request.if_range else { return true };
    let same_tag = !file.etag.is_empty() && wanted.trim_ascii() == file.etag.as_bytes();
    same_tag || (file.modified.is_some() && date(wanted) == file.modified)
}

fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::http::request::{Parsed, parse};
    use std::time::Duration;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn site() -> Arc<Site> {
        let modified = SystemTime::UNIX_EPOCH + Duration::new(784_111_777, 1);
        let file = |name: &str, body: &str| {
            Entry::File(Arc::new(File::new(name.as_bytes(), body.as_bytes().into(), modified)))
        };
        let mut site = Site::default();
        site.add(b"a.txt", file("a.txt", "0123456789"));
        site.add(b"empty", file("empty", ""));
        site.add(b"dir", Entry::Directory("/dir/".into()));
        site.add(b"big", Entry::NotLoaded);
        Arc::new(site)
    }

    /// Status line, head, bytes that follow, and whether the connection ends.
    fn ask(line: &str, fields: &str) -> (u16, String, Vec<u8>, bool) {
        let text = format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let Parsed::Whole(request) = parse(text.as_bytes()) else { panic!("{text}") };
        let mut answers = Answers::new(site());
        let rest = answers.answer(&request);
        let head = String::from_utf8(answers.head().to_vec()).unwrap();
        let (head, words) = head.split_once("\r\n\r\n").unwrap();
        let mut body = words.as_bytes().to_vec();
        if let Some((file, range)) = rest.body {
            body.extend_from_slice(&file.body[range]);
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_string(), body, rest.closes)
    }

    fn etag() -> String {
        match site().find(b"a.txt") {
            Some(Entry::File(file)) => file.etag.to_string(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn the_announced_length_is_that_of_the_body_whatever_is_asked() {
        for (line, fields, status, body) in [
            ("GET /a.txt", "", 200, "0123456789"),
            ("GET /a.txt?q=1", "", 200, "0123456789"),
            ("GET /empty", "", 200, ""),
            ("GET /a.txt", "Range: bytes=2-4\r\n", 206, "234"),
            ("GET /a.txt", "Range: bytes=-2\r\n", 206, "89"),
            ("GET /a.txt", "Range: bytes=10-\r\n", 416, "416 Range Not Satisfiable\n"),
            ("GET /a.txt", "Range: bytes=0-1,3-4\r\n", 200, "0123456789"),
            ("GET /nothing", "", 404, "404 Not Found\n"),
            ("GET /..", "", 400, "400 Bad Request\n"),
            ("GET /dir", "", 301, "301 Moved Permanently\n"),
            ("GET /big", "", 503, "503 Service Unavailable\n"),
            ("POST /a.txt", "", 405, "405 Method Not Allowed\n"),
            ("OPTIONS *", "", 405, "405 Method Not Allowed\n"),
        ] {
            let (got, head, bytes, closes) = ask(line, fields);
            assert_eq!((got, std::str::from_utf8(&bytes).unwrap()), (status, body), "{line} {fields}");
            assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{line}: {head}");
            assert!(head.contains("\r\nDate: ") && !closes, "{line}: {head}");
        }
    }

    #[test]
    fn head_is_get_without_the_bytes() {
        for target in ["/a.txt", "/nothing", "/dir", "/big"] {
            let (get, head) = (ask(&format!("GET {target}"), ""), ask(&format!("HEAD {target}"), ""));
            assert_eq!((get.0, get.1), (head.0, head.1), "{target}");
            assert!(head.2.is_empty() && !get.2.is_empty(), "{target}");
        }
        assert_eq!(ask("HEAD /a.txt", "Range: bytes=0-1\r\n").0, 200, "a range is for GET");
    }

    #[test]
    fn clients_that_have_it_already_are_told_so() {
        let tag = etag();
        for (fields, status) in [
            (format!("If-None-Match: {tag}"), 304),
            (format!("If-None-Match: \"x\", W/{tag}"), 304),
            ("If-None-Match: *".to_string(), 304),
            ("If-None-Match: \"x\"".to_string(), 200),
            (format!("If-Modified-Since: {DATE}"), 304),
            ("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT".to_string(), 200),
            ("If-Modified-Since: never".to_string(), 200),
            (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {DATE}"), 200),
            (format!("If-Range: {tag}\r\nRange: bytes=0-1"), 206),
            (format!("If-Range: W/{tag}\r\nRange: bytes=0-1"), 200),
            (format!("If-Range: {DATE}\r\nRange: bytes=0-1"), 206),
            ("If-Range: \"x\"\r\nRange: bytes=0-1".to_string(), 200),
        ] {
            let (got, head, body, _) = ask("GET /a.txt", &format!("{fields}\r\n"));
            assert_eq!(got, status, "{fields}");
            assert_eq!(body.is_empty(), status == 304);
            assert!(head.contains(&format!("ETag: {tag}")), "{head}");
        }
    }

    #[test]
    fn a_connection_ends_where_the_next_request_cannot_be_found() {
        for (fields, closes) in [
            ("Content-Length: 10\r\n", false),
            ("Content-Length: 65537\r\n", true),
            ("Transfer-Encoding: chunked\r\n", true),
            ("Content-Length: 10\r\nExpect: 100-continue\r\n", true),
            ("Expect: 100-continue\r\n", false),
            ("Connection: close\r\n", true),
        ] {
            let (status, head, _, got) = ask("POST /a.txt", fields);
            assert_eq!((status, got), (405, closes), "{fields}");
            assert_eq!(head.contains("Connection: close"), closes, "{head}");
            assert!(head.contains("\r\nAllow: GET, HEAD\r\n"), "{head}");
        }
    }

    #[test]
    fn answers_are_counted_by_class() {
        let mut answers = Answers::new(site());
        for text in ["GET /a.txt", "HEAD /a.txt", "GET /dir", "GET /x", "GET /big"] {
            let text = format!("{text} HTTP/1.0\r\n\r\n");
            let Parsed::Whole(request) = parse(text.as_bytes()) else { panic!() };
            assert!(answers.answer(&request).closes);
        }
        answers.refuse(Status::BadRequest);
        let expected = Counts {
            requests: 6,
            status_2xx: 2,
            status_3xx: 1,
            status_4xx: 2,
            status_5xx: 1,
            body_bytes: 10,
        };
        assert_eq!(answers.counts, expected);
    }

    #[test]
    fn the_longest_head_fits() {
        let long = "n".repeat(super::super::head::MAX_ANSWER_BYTES / 2 - 1);
        let mut site = Site::default();
        site.add(b"d", Entry::Directory(long.into()));
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        site.add(b"f", Entry::File(Arc::new(File::new(b"f.ico", vec![0; 100_000].into(), far))));
        let mut answers = Answers::new(Arc::new(site));
        for (target, fields) in
            [("d", ""), ("f", "Range: bytes=99998-99999\r\n"), ("f", "Range: bytes=999999-\r\n")]
        {
            let text = format!("GET /{target} HTTP/1.0\r\nConnection: keep-alive\r\n{fields}\r\n");
            let Parsed::Whole(request) = parse(text.as_bytes()) else { panic!() };
            answers.answer(&request);
            assert!(answers.head().len() < super::super::head::MAX_ANSWER_BYTES, "{target}");
        }
    }
}
