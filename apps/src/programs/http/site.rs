//! What is served: an immutable table from keys to files in memory.
//!
//! The loop only reads it. A changed site is a new table, handed over whole (see [`super::librarian`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::content_type::content_type;
use super::head::http_date;

/// A file as it was read, with the lines of a head that belong to it.
#[derive(Debug)]
pub struct File {
    /// Its bytes.
    pub body: Box<[u8]>,
    /// `Content-Type`, `ETag`, `Last-Modified`, `Accept-Ranges`, each with its line end.
    pub lines: Box<[u8]>,
    /// Its entity tag with the quotes; empty if it has none.
    pub etag: Box<str>,
    /// When it was last changed, to the second, as dates name it.
    pub modified: Option<SystemTime>,
}

impl File {
    /// A file called `name`, last changed at `modified`.
    #[must_use]
    pub fn new(name: &[u8], body: Box<[u8]>, modified: SystemTime) -> File {
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let etag = format!("\"{:x}-{:x}\"", since.as_nanos(), body.len());
        let date = http_date(modified);
        let lines = format!(
            "Content-Type: {}\r\nETag: {etag}\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\n",
            content_type(name)
        );
        let modified = httpdate::parse_http_date(&date).ok();
        File { body, lines: lines.into_bytes().into(), etag: etag.into(), modified }
    }

    /// A text that is no file: it has neither entity tag nor date.
    #[must_use]
    pub fn text(body: &str) -> File {
        let lines = b"Content-Type: text/plain; charset=utf-8\r\n"[..].into();
        File { body: body.as_bytes().into(), lines, etag: "".into(), modified: None }
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.body.len() as u64
    }
}

/// What a key stands for.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A file.
    File(Arc<File>),
    /// A directory without the `/` at its end: the `Location` with it.
    Directory(Box<str>),
    /// A file that is there and not in memory: too large, beyond the limits, or not readable just now.
    NotLoaded,
}

/// Everything that is served.
#[derive(Debug, Default)]
pub struct Site {
    entries: HashMap<Box<[u8]>, Entry>,
    everywhere: Option<Entry>,
}

impl Site {
    /// One answer to every target.
    #[must_use]
    pub fn fixed(body: &str) -> Site {
        Site { everywhere: Some(Entry::File(Arc::new(File::text(body)))), ..Site::default() }
    }

    /// Adds what `key` (see [`super::target::key`]) stands for.
    pub fn add(&mut self, key: &[u8], entry: Entry) {
        self.entries.insert(key.into(), entry);
    }

    /// What `key` stands for.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<&Entry> {
        self.everywhere.as_ref().or_else(|| self.entries.get(key))
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn files_carry_the_lines_of_their_heads() {
        let modified = SystemTime::UNIX_EPOCH + Duration::new(784_111_777, 500_000_000);
        let file = File::new(b"a.html", b"<p>"[..].into(), modified);
        assert_eq!(
            std::str::from_utf8(&file.lines).unwrap(),
            "Content-Type: text/html; charset=utf-8\r\nETag: \"ae1b981da166f00-3\"\r\n\
             Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nAccept-Ranges: bytes\r\n"
        );
        assert_eq!(file.modified, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));
        let touched = File::new(b"a.html", b"<p>"[..].into(), modified + Duration::from_nanos(1));
        assert_ne!(file.etag, touched.etag);
    }

    #[test]
    fn a_fixed_site_has_one_answer_for_all() {
        let site = Site::fixed("hello");
        for key in [&b""[..], b"a", b"a/b/"] {
            let Some(Entry::File(file)) = site.find(key) else { panic!("{key:?}") };
            assert_eq!(&*file.body, b"hello");
        }
        assert!(Site::default().find(b"").is_none());
    }
}
