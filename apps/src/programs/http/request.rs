//! The head of a request: parsed by `httparse`, and what of it the answer depends on.
//!
//! Sources: RFC 9112 (HTTP/1.1 messages) and RFC 9110 (semantics).

use std::mem::MaybeUninit;

use httparse::{Error, ParserConfig, Status as Progress};

use super::head::Status;

/// Longest head of a request, request line and blank line included; a longer one is answered 431 (RFC 6585 §5).
pub const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Most header fields of a request; more are answered 431.
pub const MAX_FIELDS: usize = 64;

/// What is asked of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Its bytes.
    Get,
    /// All about it but the bytes.
    Head,
    /// Anything else: answered 405.
    Other,
}

/// The bytes that follow a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many, perhaps none.
    Length(u64),
    /// As many as a transfer coding says.
    Coded,
}

/// The head of a request; texts are borrowed from the bytes it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// How many bytes the head has.
    pub head_bytes: usize,
    /// What is asked.
    pub method: Method,
    /// Of what: `/a/b?c`, or `http://host/a/b?c`.
    pub target: &'a str,
    /// Whether it is HTTP/1.0, whose clients must be told of a connection that stays.
    pub is_http_1_0: bool,
    /// Whether the client wants the connection to stay.
    pub keep_alive: bool,
    /// What follows the head.
    pub body: Body,
    /// It waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// `Range`.
    pub range: Option<&'a [u8]>,
    /// `If-Range`.
    pub if_range: Option<&'a [u8]>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a [u8]>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<&'a [u8]>,
}

/// What a number of bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole head.
    Whole(Request<'a>),
    /// The beginning of one.
    Partial,
    /// Nothing that can be answered but with this, and the end of the connection: what follows it is unknown.
    Refused(Status),
}

/// Parses the head that `bytes` begin with. Looks at [`MAX_HEAD_BYTES`] at most; neither blocks nor allocates.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut raw = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut raw, bytes, &mut fields);
    match parsed {
        Ok(Progress::Complete(head_bytes)) => match read(head_bytes, &raw) {
            Ok(request) => Parsed::Whole(request),
            Err(status) => Parsed::Refused(status),
        },
        Ok(Progress::Partial) if bytes.len() == MAX_HEAD_BYTES => Parsed::Refused(Status::HeadTooLarge),
        Ok(Progress::Partial) => Parsed::Partial,
        Err(Error::TooManyHeaders) => Parsed::Refused(Status::HeadTooLarge),
        Err(Error::Version) => Parsed::Refused(Status::VersionNotSupported),
        Err(_) => Parsed::Refused(Status::BadRequest),
    }
}

fn read<'a>(head_bytes: usize, raw: &httparse::Request<'_, 'a>) -> Result<Request<'a>, Status> {
    let is_http_1_0 = raw.version == Some(0);
    let mut request = Request {
        head_bytes,
        method: match raw.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            _ => Method::Other,
        },
        target: raw.path.unwrap_or_default(),
        is_http_1_0,
        keep_alive: !is_http_1_0,
        body: Body::Length(0),
        expects_continue: false,
        range: None,
        if_range: None,
        if_none_match: None,
        if_modified_since: None,
    };
    let (mut hosts, mut length, mut is_coded) = (0, None, false);
    for field in &*raw.headers {
        let (name, value) = (field.name, field.value);
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        // The length decides for most of the names that browsers send and nobody here asks for.
        match name.len() {
            4 if is("host") => hosts += 1,
            5 if is("range") => request.range = Some(value),
            6 if is("expect") => request.expects_continue = true,
            8 if is("if-range") => request.if_range = Some(value),
            10 if is("connection") => connection(value, &mut request.keep_alive),
            13 if is("if-none-match") => request.if_none_match = Some(value),
            14 if is("content-length") => {
                // Two that differ are how one request is smuggled inside another (RFC 9112 §6.3).
                let value = number(value).ok_or(Status::BadRequest)?;
                if length.is_some_and(|before| before != value) {
                    return Err(Status::BadRequest);
                }
                length = Some(value);
            }
            17 if is("if-modified-since") => request.if_modified_since = Some(value),
            17 if is("transfer-encoding") => is_coded = true,
            _ => {}
        }
    }
    // RFC 9112 §3.2: exactly one Host in HTTP/1.1.
    if hosts > 1 || (hosts == 0 && !is_http_1_0) {
        return Err(Status::BadRequest);
    }
    request.body = match (length, is_coded) {
        (Some(_), true) => return Err(Status::BadRequest),
        (None, true) => Body::Coded,
        (length, false) => Body::Length(length.unwrap_or(0)),
    };
    Ok(request)
}

/// `Connection`, a list: `close` wins over everything.
fn connection(value: &[u8], keep_alive: &mut bool) {
    let mut closes = false;
    for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        closes |= option.eq_ignore_ascii_case(b"close");
        *keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    *keep_alive &= !closes;
}

/// Digits and nothing else; `None` of too many.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Request<'_> {
        match parse(text.as_bytes()) {
            Parsed::Whole(request) => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn what_the_answer_depends_on_is_found_whatever_its_case() {
        let text =
            "GET /a?b HTTP/1.1\r\nHOST: x\r\nrange: bytes=1-2\r\nIF-none-match: \"e\"\r\n\r\nGET /next";
        let request = whole(text);
        assert_eq!((request.method, request.target, request.keep_alive), (Method::Get, "/a?b", true));
        assert_eq!((request.range, request.if_none_match), (Some(&b"bytes=1-2"[..]), Some(&b"\"e\""[..])));
        assert_eq!(&text[request.head_bytes..], "GET /next");
    }

    #[test]
    fn a_connection_stays_as_the_version_and_the_client_say() {
        for (version, field, stays) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: keep-alive, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: TE, keep-alive\r\n", true),
        ] {
            let text = format!("HEAD / HTTP/{version}\r\nHost: x\r\n{field}\r\n");
            assert_eq!(whole(&text).keep_alive, stays, "{text}");
        }
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").keep_alive, "HTTP/1.0 needs no Host");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_status() {
        let host = "Host: x\r\n";
        for (text, status) in [
            ("GET / HTTP/1.1\r\n\r\n".to_string(), Status::BadRequest),
            (format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), Status::BadRequest),
            (format!("GET / HTTP/2.0\r\n{host}\r\n"), Status::VersionNotSupported),
            (
                format!("GET / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
                Status::BadRequest,
            ),
            (format!("GET / HTTP/1.1\r\n{host}Content-Length: -5\r\n\r\n"), Status::BadRequest),
            (
                format!("GET / HTTP/1.1\r\n{host}Content-Length: 99999999999999999999\r\n\r\n"),
                Status::BadRequest,
            ),
            (
                format!("GET / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
                Status::BadRequest,
            ),
            (format!("GET / HTTP/1.1\r\n{host}{}\r\n", "a: b\r\n".repeat(MAX_FIELDS)), Status::HeadTooLarge),
            (format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(MAX_HEAD_BYTES)), Status::HeadTooLarge),
            ("\x16\x03\x01\x02\x00\x01\x00".to_string(), Status::BadRequest),
            ("GET  HTTP/1.1\r\n\r\n".to_string(), Status::BadRequest),
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Refused(status), "{text:?}");
        }
    }

    #[test]
    fn bodies_are_announced() {
        let with = |fields: &str| whole(format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n").leak()).body;
        assert_eq!(with(""), Body::Length(0));
        assert_eq!(with("Content-Length: 12\r\nContent-Length: 12\r\n"), Body::Length(12));
        assert_eq!(with("Transfer-Encoding: chunked\r\n"), Body::Coded);
    }

    #[test]
    fn a_head_that_just_fits_is_whole_and_every_beginning_of_it_partial() {
        let frame = "GET / HTTP/1.1\r\nHost: x\r\na: \r\n\r\n";
        let text =
            format!("GET / HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n", "y".repeat(MAX_HEAD_BYTES - frame.len()));
        assert_eq!(whole(&text).head_bytes, MAX_HEAD_BYTES);
        for bytes in [0, 1, 15, 16, 100, MAX_HEAD_BYTES - 1] {
            assert_eq!(parse(&text.as_bytes()[..bytes]), Parsed::Partial, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn bytes_like_requests_panic_neither(line in "(GET|HEAD|POST) [/%.a-f0-9?]{1,40} HTTP/1\\.[01]\r\n",
                                             fields in "([A-Za-z-]{1,18}: ?[ -~]{0,20}\r\n){0,8}\r\n") {
            let text = line + &fields;
            if let Parsed::Whole(request) = parse(text.as_bytes()) {
                prop_assert!(request.head_bytes <= text.len());
            }
        }
    }
}
