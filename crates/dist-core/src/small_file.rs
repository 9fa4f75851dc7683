//! Files that people write: they are small, and what is not is none of them.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// The most bytes of a key, a certificate or a file of settings.
pub const MOST_OF_A_FILE: u64 = 4 << 20;

/// Reads all of a file, which may be a pipe.
///
/// # Errors
/// What the operating system says; `FileTooLarge` for more than `limit` bytes.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it has more than {limit} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Reads all of a file of text, of at most [`MOST_OF_A_FILE`] bytes.
///
/// # Errors
/// As [`read_small`]; `InvalidData` for what is not UTF-8.
pub fn read_small_text(path: &Path) -> Result<String> {
    let invalid = |_| Error::new(ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(read_small(path, MOST_OF_A_FILE)?).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read_to_it() {
        let error = read_small_text(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read_small(&path, 4).unwrap(), b"four");
        assert_eq!(read_small(&path, 3).unwrap_err().kind(), ErrorKind::FileTooLarge);
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_small_text(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        let missing = read_small_text(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
