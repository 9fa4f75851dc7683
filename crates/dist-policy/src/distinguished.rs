//! Distinguished names: whom a certificate is for.
//!
//! ```text
//! Name = SEQUENCE OF SET OF SEQUENCE { OBJECT IDENTIFIER, string }      (X.501, in DER)
//! C=US, ST=WA, O=Example                                                (as policies write it)
//! ```

use std::collections::BTreeMap;
use std::fmt;

/// The attributes that have names; others are written as their numbers.
const NAMES: [(&str, &[u8]); 8] = [
    ("CN", &[0x55, 4, 3]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
];

/// Some attributes of a name, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject(BTreeMap<String, String>);

impl Subject {
    /// Reads `C=US, ST=WA, O=Example`, with `x509.subject:` before it or not. A `\` takes away the
    /// meaning of what follows.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("x509.subject:").unwrap_or(text);
        let mut found = BTreeMap::new();
        let mut rest = text.chars();
        loop {
            let (mut part, mut ended) = (String::new(), true);
            while let Some(next) = rest.next() {
                match next {
                    '\\' => part.push(rest.next()?),
                    ',' => {
                        ended = false;
                        break;
                    }
                    '+' | ';' | '"' => return None,
                    next => part.push(next),
                }
            }
            let (key, value) = part.trim().split_once('=')?;
            let (key, value) = (key.trim().to_ascii_uppercase(), value.trim().to_owned());
            let key = if key == "S" { "ST".to_owned() } else { key };
            let known = NAMES.iter().any(|(name, _)| *name == key);
            if !known || value.is_empty() || found.insert(key, value).is_some() {
                return None;
            }
            if ended {
                return Some(Self(found));
            }
        }
    }

    /// Reads the contents of a name in DER; `None` where an attribute comes twice, or is no text.
    pub(crate) fn from_der(mut der: &[u8]) -> Option<Self> {
        let mut found = BTreeMap::new();
        while !der.is_empty() {
            let (set, rest) = element(der, 0x31)?;
            der = rest;
            let (pair, more) = element(set, 0x30)?;
            let (oid, value) = element(pair, 0x06)?;
            let tag = *value.first()?;
            let (text, end) = element(value, tag)?;
            let is_text = matches!(tag, 0x0c | 0x13 | 0x16);
            if !more.is_empty() || !end.is_empty() || !is_text {
                return None;
            }
            let text = std::str::from_utf8(text).ok()?.to_owned();
            let name = NAMES.iter().find(|(_, known)| *known == oid);
            let name = name.map_or_else(|| format!("{oid:02x?}"), |(name, _)| (*name).to_owned());
            if found.insert(name, text).is_some() {
                return None;
            }
        }
        Some(Self(found))
    }

    /// Whether `other` has all these attributes, with these values.
    pub(crate) fn is_part_of(&self, other: &Self) -> bool {
        self.0.iter().all(|(key, value)| other.0.get(key) == Some(value))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&pairs.join(", "))
    }
}

/// The contents of the first element of `der`, which has this tag, and what follows it.
pub(crate) fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (first == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let wanted = Subject::parse("x509.subject: C=US, ST=WA,O=Acme\\, Inc.").unwrap();
        assert_eq!(wanted.to_string(), "C=US, O=Acme, Inc., ST=WA");
        for text in ["", "x", "C=", "C=US, C=DE", "C=US,", "C=US+O=x", "1.2.3=x", "C=US\\"] {
            assert_eq!(Subject::parse(text), None, "{text:?}");
        }
        let der = [
            0x31, 0x0b, 0x30, 0x09, 6, 3, 0x55, 4, 6, 0x13, 2, b'U', b'S', 0x31, 0x0c, 0x30, 0x0a,
            6, 3, 0x55, 4, 3, 0x0c, 3, b'a', b'b', b'c',
        ];
        let name = Subject::from_der(&der).unwrap();
        assert_eq!(name.to_string(), "C=US, CN=abc");
        assert!(Subject::parse("C=US").unwrap().is_part_of(&name));
        assert!(!Subject::parse("C=US, O=x").unwrap().is_part_of(&name));
        assert!(!Subject::parse("CN=abcd").unwrap().is_part_of(&name));
        for end in 1..der.len() {
            let whole = Subject::from_der(&der[..end]);
            assert!(whole.is_none() || end == 13, "{end}");
        }
    }
}
