//! HTTP/1.1 answers, as the bytes come: status, length, and where one ends and the next begins. RFC 9112.

use thiserror::Error;

/// Longest head of an answer that is waited for, in bytes; what servers commonly allow a request.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
/// Most header fields.
const MAX_FIELDS: usize = 64;
/// Longest line before a chunk: size, extensions.
const MAX_CHUNK_LINE_BYTES: usize = 256;

/// Why an answer cannot be understood. The connection it came on is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// No HTTP.
    #[error("the answer is not HTTP/1.x: {0}")]
    Head(httparse::Error),
    /// A head without end.
    #[error("the head of the answer is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    /// A length that is none, or two different ones.
    #[error("the answer has an impossible Content-Length")]
    Length,
    /// A body in an encoding of the transfer that is not `chunked`.
    #[error("the answer has a Transfer-Encoding other than chunked")]
    Encoding,
    /// A chunk without a proper size line or end.
    #[error("the answer has a damaged chunk")]
    Chunk,
    /// Bytes that no request asked for.
    #[error("an answer came to no request")]
    Unasked,
}

/// One complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Bytes of the body, without the framing of chunks.
    pub body_bytes: u64,
    /// The server will close the connection after it.
    pub closes: bool,
}

/// Where in an answer the next byte belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// So many bytes of the body are missing.
    Body(u64),
    UntilClose,
    ChunkLine,
    /// So many bytes of the chunk are missing, its line end included.
    Chunk(u64),
    /// The fields after the last chunk, up to an empty line.
    Trailer,
}

/// Reads the answers of one connection.
#[derive(Debug, Default)]
pub struct Reader {
    place: Place,
    answer: Option<Answer>,
    /// A head or line that is not complete yet. Empty as a rule: heads are read where they lie.
    kept: Vec<u8>,
}

impl Reader {
    /// Forgets everything: the next byte is the first of a connection.
    pub fn reset(&mut self) {
        self.place = Place::Head;
        self.answer = None;
        self.kept.clear();
    }

    /// Takes all of `bytes`, and shows each answer that is complete with them.
    ///
    /// # Errors
    /// [`AnswerError`]; what follows on this connection means nothing any more.
    pub fn read(&mut self, mut bytes: &[u8], done: &mut impl FnMut(Answer)) -> Result<(), AnswerError> {
        while !bytes.is_empty() {
            let used = match self.place {
                Place::Head => self.head(bytes, done)?,
                Place::Body(left) => {
                    let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    self.place = Place::Body(left - used as u64);
                    if left == used as u64 {
                        self.complete(done);
                    }
                    used
                }
                Place::UntilClose => {
                    self.count_body(bytes.len() as u64);
                    bytes.len()
                }
                Place::ChunkLine | Place::Trailer => self.line(bytes, done)?,
                Place::Chunk(left) => {
                    let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    // CR and LF end the chunk and are no part of the body.
                    let ends = &bytes[..used];
                    let behind = left - used as u64;
                    let outside = ends
                        .iter()
                        .rev()
                        .zip(behind..2)
                        .all(|(&byte, from_end)| byte == if from_end == 0 { b'\n' } else { b'\r' });
                    if !outside {
                        return Err(AnswerError::Chunk);
                    }
                    self.place = if behind == 0 { Place::ChunkLine } else { Place::Chunk(behind) };
                    used
                }
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// The server finished: completes an answer whose body lasts until then. False if one is cut off.
    pub fn finish(&mut self, done: &mut impl FnMut(Answer)) -> bool {
        if self.place == Place::UntilClose {
            self.complete(done);
        }
        self.place == Place::Head && self.kept.is_empty()
    }

    fn complete(&mut self, done: &mut impl FnMut(Answer)) {
        self.place = Place::Head;
        if let Some(answer) = self.answer.take() {
            done(answer);
        }
    }

    fn count_body(&mut self, bytes: u64) {
        if let Some(answer) = &mut self.answer {
            answer.body_bytes = answer.body_bytes.saturating_add(bytes);
        }
    }

    /// Reads a head, where it lies if it lies there whole. Returns the bytes used of `bytes`.
    fn head(&mut self, bytes: &[u8], done: &mut impl FnMut(Answer)) -> Result<usize, AnswerError> {
        let before = self.kept.len();
        let parsed = if before == 0 {
            head(bytes)?
        } else {
            let more = bytes.len().min(MAX_HEAD_BYTES.saturating_sub(before));
            self.kept.extend_from_slice(&bytes[..more]);
            head(&self.kept)?
        };
        let Some((length, answer, place)) = parsed else {
            if before == 0 {
                self.kept.extend_from_slice(&bytes[..bytes.len().min(MAX_HEAD_BYTES)]);
            }
            return if self.kept.len() >= MAX_HEAD_BYTES {
                Err(AnswerError::TooLong)
            } else {
                Ok(bytes.len())
            };
        };
        self.kept.clear();
        // Interim answers (RFC 9110 §15.2) precede the real one.
        if answer.status >= 200 {
            self.answer = Some(answer);
            self.place = place;
            if place == Place::Body(0) {
                self.complete(done);
            }
        }
        Ok(length - before)
    }

    /// Reads the line before a chunk, or one after the last.
    fn line(&mut self, bytes: &[u8], done: &mut impl FnMut(Answer)) -> Result<usize, AnswerError> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(bytes.len(), |at| at + 1);
        if self.kept.len() + used > MAX_CHUNK_LINE_BYTES {
            return Err(AnswerError::Chunk);
        }
        self.kept.extend_from_slice(&bytes[..used]);
        if end.is_none() {
            return Ok(used);
        }
        let is_empty = self.kept == b"\r\n" || self.kept == b"\n";
        if self.place == Place::Trailer {
            self.kept.clear();
            if is_empty {
                self.complete(done);
            }
            return Ok(used);
        }
        let size = match httparse::parse_chunk_size(&self.kept) {
            Ok(httparse::Status::Complete((_, size))) => size,
            _ => return Err(AnswerError::Chunk),
        };
        self.kept.clear();
        self.count_body(size);
        self.place = match size {
            0 => Place::Trailer,
            size => Place::Chunk(size.checked_add(2).ok_or(AnswerError::Chunk)?),
        };
        Ok(used)
    }
}

/// A complete head's length, what it says, and what follows it; `None` if it is not complete.
fn head(bytes: &[u8]) -> Result<Option<(usize, Answer, Place)>, AnswerError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = parsed.parse(bytes).map_err(AnswerError::Head)? else {
        return Ok(None);
    };
    let status = parsed.code.unwrap_or(0);
    let (mut body, mut is_chunked) = (None, false);
    let mut closes = parsed.version == Some(0);
    for field in parsed.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = content_length(field.value).ok_or(AnswerError::Length)?;
            // RFC 9112 §6.3: two that differ are an attack or a mistake.
            if body.is_some_and(|other| other != length) {
                return Err(AnswerError::Length);
            }
            body = Some(length);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(AnswerError::Encoding);
            }
            is_chunked = true;
        } else if field.name.eq_ignore_ascii_case("connection") {
            let has = |token: &[u8]| {
                field
                    .value
                    .split(|&byte| byte == b',')
                    .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
            };
            closes = has(b"close") || (closes && !has(b"keep-alive"));
        }
    }
    let (body_bytes, place) = match (status, is_chunked, body) {
        (204 | 304, ..) => (0, Place::Body(0)),
        (_, true, _) => (0, Place::ChunkLine),
        (_, false, Some(length)) => (length, Place::Body(length)),
        (_, false, None) => (0, Place::UntilClose),
    };
    let closes = closes || place == Place::UntilClose;
    Ok(Some((length, Answer { status, body_bytes, closes }, place)))
}

/// RFC 9110 §8.6: digits, nothing else.
fn content_length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(bytes: &[u8], cut: usize) -> Result<Vec<(u16, u64, bool)>, AnswerError> {
        let (mut reader, mut all) = (Reader::default(), Vec::new());
        let mut done = |answer: Answer| all.push((answer.status, answer.body_bytes, answer.closes));
        for part in bytes.chunks(cut) {
            reader.read(part, &mut done)?;
        }
        reader.finish(&mut done);
        Ok(all)
    }

    const THREE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello\
        HTTP/1.1 100 Continue\r\n\r\n\
        HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n\
        HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nConnection: close\r\n\r\n";

    #[test]
    fn however_they_are_cut_the_answers_are_the_same() {
        for cut in 1..THREE.len() {
            assert_eq!(
                answers(THREE, cut),
                Ok(vec![(200, 5, false), (404, 13, false), (304, 0, true)]),
                "in parts of {cut}"
            );
        }
    }

    #[test]
    fn a_body_without_length_lasts_until_the_server_finishes() {
        let bytes = b"HTTP/1.0 200 OK\r\n\r\nall the rest";
        assert_eq!(answers(bytes, 4), Ok(vec![(200, 12, true)]));
        let mut reader = Reader::default();
        reader.read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", &mut |_| panic!()).unwrap();
        assert!(!reader.finish(&mut |_| panic!("it was cut off")));
        reader.reset();
        reader.read(b"HTTP/1.1 2", &mut |_| panic!()).unwrap();
        assert!(!reader.finish(&mut |_| panic!("it was cut off")));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (bytes, error) in [
            (&b"SSH-2.0-OpenSSH\r\n\r\n"[..], AnswerError::Head(httparse::Error::Version)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", AnswerError::Length),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", AnswerError::Length),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", AnswerError::Length),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", AnswerError::Encoding),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", AnswerError::Chunk),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd", AnswerError::Chunk),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
                AnswerError::Chunk,
            ),
        ] {
            assert_eq!(answers(bytes, bytes.len()), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 2 * MAX_HEAD_BYTES]].concat();
        assert_eq!(answers(&endless, 1000), Err(AnswerError::TooLong));
        assert_eq!(answers(&endless, endless.len()), Err(AnswerError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_memory_stays_bounded(
            parts in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                Just(b"HTTP/1.1 200 OK\r\n".to_vec()), Just(b"Content-Length: 3\r\n".to_vec()),
                Just(b"Transfer-Encoding: chunked\r\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"5\r\n".to_vec()),
            ], 0..40),
        ) {
            let mut reader = Reader::default();
            for part in parts {
                if reader.read(&part, &mut |_| {}).is_err() { break; }
                prop_assert!(reader.kept.len() <= MAX_HEAD_BYTES);
            }
            reader.finish(&mut |_| {});
        }
    }
}
