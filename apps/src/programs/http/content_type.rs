//! What a file's name says of its content.

/// The media type of a file called `name`, by its extension; bytes without further meaning if that says nothing.
#[must_use]
pub fn content_type(name: &[u8]) -> &'static str {
    let extension = name.rsplit(|byte| *byte == b'.').next().filter(|found| found.len() < name.len());
    let is = |wanted: &str| extension.is_some_and(|found| found.eq_ignore_ascii_case(wanted.as_bytes()));
    let found = TYPES.iter().find(|(extensions, _)| extensions.iter().any(|wanted| is(wanted)));
    found.map_or("application/octet-stream", |(_, content_type)| content_type)
}

/// Extensions, and the type registered for them (IANA media types). Text is UTF-8, as everybody writes it.
const TYPES: [(&[&str], &str); 26] = [
    (&["html", "htm"], "text/html; charset=utf-8"),
    (&["css"], "text/css; charset=utf-8"),
    (&["js", "mjs"], "text/javascript; charset=utf-8"),
    (&["json", "map"], "application/json"),
    (&["txt", "text", "log", "toml", "rs", "sh"], "text/plain; charset=utf-8"),
    (&["md"], "text/markdown; charset=utf-8"),
    (&["csv"], "text/csv; charset=utf-8"),
    (&["xml"], "application/xml"),
    (&["svg"], "image/svg+xml"),
    (&["png"], "image/png"),
    (&["jpg", "jpeg"], "image/jpeg"),
    (&["gif"], "image/gif"),
    (&["webp"], "image/webp"),
    (&["avif"], "image/avif"),
    (&["ico"], "image/vnd.microsoft.icon"),
    (&["woff2"], "font/woff2"),
    (&["woff"], "font/woff"),
    (&["ttf"], "font/ttf"),
    (&["wasm"], "application/wasm"),
    (&["pdf"], "application/pdf"),
    (&["zip"], "application/zip"),
    (&["gz", "tgz"], "application/gzip"),
    (&["mp3"], "audio/mpeg"),
    (&["mp4"], "video/mp4"),
    (&["webm"], "video/webm"),
    (&["yaml", "yml"], "application/yaml"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_extension_counts_whatever_its_case() {
        assert_eq!(content_type(b"index.html"), "text/html; charset=utf-8");
        assert_eq!(content_type(b"a.b.PNG"), "image/png");
        assert_eq!(content_type(b"x.tar.gz"), "application/gzip");
        for unknown in [&b"html"[..], b"", b"x.", b"x.unheard-of", b"\xff\xfe"] {
            assert_eq!(content_type(unknown), "application/octet-stream", "{unknown:?}");
        }
    }
}
