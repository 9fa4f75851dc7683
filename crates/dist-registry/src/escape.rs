//! Text from servers, made fit for a message: bounded, nothing that a terminal would obey, no
//! secrets.

use url::Url;

/// The most bytes of a server's text that a message shows.
const SHOWN: usize = 200;

/// Escapes control and invisible characters and cuts after 200 bytes.
pub(crate) fn text(text: &str) -> String {
    let mut shown = String::new();
    for c in text.trim().chars() {
        if shown.len() >= SHOWN {
            shown.push('…');
            break;
        }
        match c {
            '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// As [`text`], for bytes that need not be UTF-8.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    text(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]))
}

/// The address without user, password, query and fragment.
pub(crate) fn url(url: &Url) -> String {
    let mut redacted = url.clone();
    redacted.set_query(None);
    redacted.set_fragment(None);
    let _ = redacted.set_username(""); // only fails where there can be no user
    let _ = redacted.set_password(None);
    let full = redacted.as_str();
    match full.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &full[..end]),
        None => full.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_raw_remains() {
        assert_eq!(text("\u{1b}[31mno\u{7}\r\n"), "\\u{1b}[31mno\\u{7}");
        assert_eq!(text("a\u{202e}b \"c\""), "a\\u{202e}b \"c\"");
        assert!(text(&"\u{0}".repeat(10_000)).len() < 210);
        assert_eq!(bytes(b"\xff\xfe ok"), "\u{fffd}\u{fffd} ok");
    }

    #[test]
    fn urls_lose_their_secrets() {
        let full = Url::parse("https://u:p@h:1/a/b?X-Amz-Signature=s#f").unwrap();
        assert_eq!(url(&full), "https://h:1/a/b");
    }
}
