//! The head of an answer, written without `format!`: a hundred bytes each time, a million times a second.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use arrayvec::ArrayVec;

/// Room that the longest head of an answer needs, with the text of an error behind it. A send buffer must have it.
pub const MAX_ANSWER_BYTES: usize = 1024;

/// A status of an answer. RFC 9110 §15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 206
    PartialContent,
    /// 301
    MovedPermanently,
    /// 304
    NotModified,
    /// 400
    BadRequest,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 408
    RequestTimeout,
    /// 416
    RangeNotSatisfiable,
    /// 431
    HeadTooLarge,
    /// 503
    Unavailable,
    /// 505
    VersionNotSupported,
}

impl Status {
    /// Its line of the head without `HTTP/1.1`, and without line end.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::PartialContent => "206 Partial Content",
            Status::MovedPermanently => "301 Moved Permanently",
            Status::NotModified => "304 Not Modified",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::RangeNotSatisfiable => "416 Range Not Satisfiable",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.text()[..3].parse().unwrap_or_default()
    }
}

/// What the client is told about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It stays, as is usual: nothing is said.
    Stays,
    /// It stays, which an HTTP/1.0 client must be told.
    StaysAsAsked,
    /// It ends after this answer.
    Closes,
}

/// An answer's first bytes, in the making.
#[derive(Debug, Default)]
pub struct Head(ArrayVec<u8, MAX_ANSWER_BYTES>);

impl Head {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Begins anew: status line, `Date`, `Connection`.
    pub fn begin(&mut self, status: Status, date: &Date, connection: Connection) {
        self.0.clear();
        self.push(b"HTTP/1.1 ");
        self.push(status.text().as_bytes());
        self.push(b"\r\nDate: ");
        self.push(date.text());
        self.push(b"\r\n");
        match connection {
            Connection::Stays => {}
            Connection::StaysAsAsked => self.push(b"Connection: keep-alive\r\n"),
            Connection::Closes => self.push(b"Connection: close\r\n"),
        }
    }

    /// Whole lines, each with its end.
    pub fn lines(&mut self, lines: &[u8]) {
        self.push(lines);
    }

    /// `Content-Length`.
    pub fn length(&mut self, bytes: u64) {
        self.push(b"Content-Length: ");
        self.decimal(bytes);
        self.push(b"\r\n");
    }

    /// `Content-Range` of a part of `whole` bytes; of none of them when the range was not satisfiable.
    pub fn range(&mut self, part: Option<&Range<u64>>, whole: u64) {
        self.push(b"Content-Range: bytes ");
        match part {
            Some(part) => {
                self.decimal(part.start);
                self.push(b"-");
                self.decimal(part.end.saturating_sub(1));
            }
            None => self.push(b"*"),
        }
        self.push(b"/");
        self.decimal(whole);
        self.push(b"\r\n");
    }

    /// The blank line.
    pub fn end(&mut self) {
        self.push(b"\r\n");
    }

    /// Ends a head whose body is its status in words; without the body if only the head was asked for.
    pub fn end_with_words(&mut self, status: Status, with_body: bool) {
        let words = status.text().as_bytes();
        self.push(b"Content-Type: text/plain; charset=utf-8\r\n");
        self.length(words.len() as u64 + 1);
        self.end();
        if with_body {
            self.push(words);
            self.push(b"\n");
        }
    }

    /// What does not fit is left out: the constant above is chosen, and tested, so that everything does.
    fn push(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.0.remaining_capacity());
        debug_assert_eq!(fits, bytes.len(), "the head outgrew MAX_ANSWER_BYTES");
        // Fits, as its length was just cut to the room there is.
        let _ = self.0.try_extend_from_slice(&bytes[..fits]);
    }

    fn decimal(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b"0123456789"[(number % 10) as usize];
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }
}

/// The `Date` of answers, formatted once a second. RFC 9110 §6.6.1.
#[derive(Debug)]
pub struct Date {
    text: ArrayVec<u8, 32>,
    /// The loop's time at which the text is no longer true.
    until_ns: u64,
}

impl Date {
    /// The date of `wall`, for a start; [`Date::refresh`] keeps it true.
    #[must_use]
    pub fn new(wall: SystemTime) -> Date {
        let mut date = Date { text: ArrayVec::new(), until_ns: 0 };
        date.set(wall);
        date
    }

    /// Formats it anew if its second has passed. One call a second reads the system's clock (through the vDSO), all
    /// others compare two numbers.
    #[inline]
    pub fn refresh(&mut self, now_ns: u64) {
        if now_ns >= self.until_ns {
            let wall = SystemTime::now();
            self.set(wall);
            let since_second = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
            self.until_ns = now_ns + 1_000_000_000 - u64::from(since_second);
        }
    }

    /// As in `Sun, 06 Nov 1994 08:49:37 GMT`.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    fn set(&mut self, wall: SystemTime) {
        use std::io::Write as _;
        self.text.clear();
        // `httpdate` formats years up to 9999 and panics beyond.
        let wall = wall.clamp(SystemTime::UNIX_EPOCH, last_date());
        // 29 bytes fit.
        let _ = write!(self.text, "{}", httpdate::HttpDate::from(wall));
    }
}

/// The last second that a date can name, with a day to spare.
fn last_date() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_214_400)
}

/// A file's time as a date, within what a date can name.
#[must_use]
pub fn http_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time.clamp(SystemTime::UNIX_EPOCH, last_date()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date() -> Date {
        Date::new(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    fn text(head: &Head) -> &str {
        std::str::from_utf8(head.bytes()).unwrap()
    }

    #[test]
    fn a_head_reads_as_in_the_book() {
        let mut head = Head::default();
        head.begin(Status::PartialContent, &date(), Connection::StaysAsAsked);
        head.lines(b"Content-Type: text/plain\r\n");
        head.range(Some(&(10..20)), 12_345);
        head.length(10);
        head.end();
        let expected = "HTTP/1.1 206 Partial Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: keep-alive\r\n\
                        Content-Type: text/plain\r\nContent-Range: bytes 10-19/12345\r\nContent-Length: 10\r\n\r\n";
        assert_eq!(text(&head), expected);
    }

    #[test]
    fn errors_say_themselves_and_heads_begin_anew() {
        let mut head = Head::default();
        head.begin(Status::NotFound, &date(), Connection::Stays);
        head.end_with_words(Status::NotFound, true);
        head.begin(Status::MethodNotAllowed, &date(), Connection::Closes);
        head.end_with_words(Status::MethodNotAllowed, true);
        let (head, body) = text(&head).split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("\r\nConnection: close\r\n"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(body, "405 Method Not Allowed\n");
        assert_eq!(Status::HeadTooLarge.number(), 431);
    }

    #[test]
    fn numbers_of_all_lengths_are_written() {
        for number in [0, 7, 10, 99, 100, 12_345_678_901, u64::MAX] {
            let mut head = Head::default();
            head.length(number);
            assert_eq!(text(&head), format!("Content-Length: {number}\r\n"));
        }
    }

    #[test]
    fn a_date_is_formatted_once_a_second() {
        let mut date = date();
        let now_ns = 5_000_000_000;
        date.refresh(now_ns);
        let (first, until_ns) = (date.text().to_vec(), date.until_ns);
        assert!(until_ns > now_ns && until_ns <= now_ns + 1_000_000_000);
        assert_eq!(first.len(), 29);
        date.refresh(now_ns);
        assert_eq!((date.text(), date.until_ns), (&first[..], until_ns));
    }

    #[test]
    fn absurd_times_have_dates_too() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(http_date(far).contains("9999"));
        assert!(http_date(SystemTime::UNIX_EPOCH - Duration::from_secs(9)).contains("1970"));
    }
}
