//! Names as they are asked for.

use super::ResolveError;

/// Longest name in dotted form, without the root's dot: 255 bytes on the wire (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// The name in lower case without a final dot, if it can be asked for.
///
/// Lower case because smoltcp compares the names of an answer byte for byte, and servers repeat what was asked.
pub(super) fn checked(name: &str) -> Result<String, ResolveError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_NAME_BYTES {
        return Err(ResolveError::NameTooLong { len: name.len() });
    }
    let well_formed = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL_BYTES
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    match name.split('.').position(|label| !well_formed(label)) {
        Some(index) => Err(ResolveError::Malformed { label: index + 1 }),
        None => Ok(name.to_ascii_lowercase()),
    }
}
