//! From a request's target to the key of a file: no way leads out of the root, as there is no file system behind the
//! keys, only the files that were found below the root.

use super::head::Status;

/// Writes the key of `target` to `key`, emptied first: the path, percent-decoded, without leading slash, query, empty
/// and `.` segments; a directory's ends in `/`, that of the root is empty. Allocates only if `key` has less room than
/// `target` has bytes.
///
/// # Errors
/// 400 for escapes that are none, a NUL, a target that is no path, and `..` above the root; 404 for a segment that
/// contains an escaped `/`, which no file's name can.
pub fn key(target: &str, key: &mut Vec<u8>) -> Result<(), Status> {
    key.clear();
    let target = target.as_bytes();
    let path = match target.first() {
        Some(b'/') => target,
        _ => after_authority(target).ok_or(Status::BadRequest)?,
    };
    let path = path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let begin = key.len();
        decode(segment, key)?;
        match &key[begin..] {
            b"" => {}
            b"." => key.truncate(begin),
            b".." => {
                key.truncate(begin);
                // Without its own `/`, back to the one before.
                key.pop().ok_or(Status::BadRequest)?;
                let parent = key.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                key.truncate(parent);
            }
            _ if !is_last => key.push(b'/'),
            _ => {}
        }
    }
    Ok(())
}

/// The path of `http://authority/path` (RFC 9112 §3.2.2), which proxies are sent and servers must accept.
fn after_authority(target: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"http://";
    let begins = target.get(..SCHEME.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(SCHEME));
    let rest = begins.then(|| &target[SCHEME.len()..])?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    Some(&rest[end..])
}

/// Appends `segment` without its percent-encoding (RFC 3986 §2.1).
fn decode(segment: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
    let mut bytes = segment.iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(*digit).to_digit(16));
            let (high, low) = digit().zip(digit()).ok_or(Status::BadRequest)?;
            u8::try_from(high << 4 | low).map_err(|_| Status::BadRequest)?
        } else {
            *byte
        };
        match byte {
            0 => return Err(Status::BadRequest),
            b'/' => return Err(Status::NotFound),
            _ => out.push(byte),
        }
    }
    Ok(())
}

/// `key` as it stands in a `Location`: percent-encoded but for what RFC 3986 §2.3 leaves alone, with a leading `/`.
#[must_use]
pub fn encode(key: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("/");
    for byte in key {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            // Writing to a String does not fail.
            byte => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(target: &str) -> Result<String, Status> {
        let mut out = Vec::new();
        key(target, &mut out).map(|()| String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn targets_become_keys() {
        for (target, expected) in [
            ("/", ""),
            ("/?q", ""),
            ("/a", "a"),
            ("/a/", "a/"),
            ("//a///b", "a/b"),
            ("/a/./b/.", "a/b/"),
            ("/a/../b", "b"),
            ("/a/b/..", "a/"),
            ("/a/b/../", "a/"),
            ("/a/..", ""),
            ("/%61%20b.txt?x=/../", "a b.txt"),
            ("/a%2e%2e", "a.."),
            ("/...", "..."),
            ("http://host:80/a", "a"),
            ("HTTP://host", ""),
            ("http://host?x", ""),
        ] {
            assert_eq!(of(target).as_deref(), Ok(expected), "{target}");
        }
    }

    #[test]
    fn no_way_leads_above_the_root() {
        for target in ["/..", "/../etc/passwd", "/a/../../b", "/%2e%2e/x", "/.%2E/x", "/a/%2e./..", "/./../x"]
        {
            assert_eq!(of(target), Err(Status::BadRequest), "{target}");
        }
        assert_eq!(of("/..%2fetc"), Err(Status::NotFound));
        assert_eq!(of("/a%2F..%2f..%2fetc"), Err(Status::NotFound));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for target in ["", "*", "a", "host:443", "https://host/", "/%", "/%4", "/%zz", "/%+1", "/a%00b"] {
            assert_eq!(of(target), Err(Status::BadRequest), "{target}");
        }
    }

    proptest! {
        #[test]
        fn keys_never_have_dot_segments_or_begin_at_the_top(target in "[/.%25a0?]{0,60}") {
            if let Ok(found) = of(&target) {
                prop_assert!(!found.starts_with('/'));
                prop_assert!(found.split('/').all(|segment| segment != ".." && segment != "."), "{found}");
            }
        }

        #[test]
        fn what_is_encoded_decodes_to_itself(name in "[^/\0]{1,40}") {
            prop_assume!(name != "." && name != "..");
            let mut out = Vec::new();
            key(&encode(name.as_bytes()), &mut out).unwrap();
            prop_assert_eq!(out, name.into_bytes());
        }
    }
}
