//! Names of entries: as paths beneath the root, and as text for people.

use std::fmt::Write as _;

use dist_core::{Error, ErrorKind, Result};

use crate::limits::exceeded;

/// Bytes that a path may have; twice the kernel's own limit for one call.
const PATH_LIMIT: usize = 8192;

/// Bytes of a name that messages show.
const SHOWN: usize = 256;

/// Brings a path to the form `a/b/c`, relative to the root; the root itself is empty.
///
/// # Errors
/// `UnsafeLayer` where a component is `..`.
pub(crate) fn normalize(raw: &[u8]) -> Result<Vec<u8>> {
    if raw.len() > PATH_LIMIT {
        let message = format!("resolve path {}: it has {} bytes", escape(raw), raw.len());
        return Err(exceeded("path-length", PATH_LIMIT as u64, message));
    }
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                let message =
                    format!("resolve path {}: it leaves its directory by ..", escape(raw));
                return Err(Error::new(ErrorKind::UnsafeLayer, message));
            }
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(path)
}

/// Splits a path into its directory (empty for the root) and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Appends a component to a path.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Shows a name in quotes and in one line: control, formatting and invalid characters are escaped,
/// a long name is cut.
pub(crate) fn escape(name: &[u8]) -> String {
    format!("\"{}\"", show(name))
}

/// As [`escape`], without the quotes.
pub(crate) fn show(name: &[u8]) -> String {
    let mut text = String::new();
    let (shown, cut) = if name.len() > SHOWN { (&name[..SHOWN], true) } else { (name, false) };
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            let bidi = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            if c.is_control() || bidi || matches!(c, '"' | '\\') {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // writing to a String cannot fail
        }
    }
    if cut {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (raw, path) in [
            ("a", "a"),
            ("/a//b/./c/", "a/b/c"),
            ("./", ""),
            (".", ""),
            ("/", ""),
            ("...", "..."),
            ("C:\\x", "C:\\x"),
        ] {
            assert_eq!(normalize(raw.as_bytes()).unwrap(), path.as_bytes(), "{raw}");
        }
        for raw in ["..", "../a", "a/..", "a/../b", "/.."] {
            let error = normalize(raw.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnsafeLayer, "{raw}");
        }
        assert_eq!(normalize(&[b'a'; 8193]).unwrap_err().kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn escapes() {
        assert_eq!(escape(b"a\nb\x1b[31m"), "\"a\\nb\\u{1b}[31m\"");
        assert_eq!(escape(b"\xff\xfe"), "\"\\xff\\xfe\"");
        assert_eq!(escape("\u{e9}\u{202e}".as_bytes()), "\"\u{e9}\\u{202e}\"");
        assert!(escape(&[b'x'; 1000]).len() < 300);
    }
}
