//! Names that the metadata keeps: images, namespaces.

use std::fmt;
use std::str::FromStr;

use crate::name::{name, printable, sized};
use crate::{Descriptor, Labels, NameError};

name! {
    /// The name under which an image is registered: 1 to 4096 bytes without control characters.
    ImageName, printable
}

/// A namespace: what one has does not show in another, though the files of blobs are shared.
///
/// Letters and digits, with single `.`, `_` or `-` between them, at most 76 bytes (containerd's
/// rule for identifiers).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

impl Namespace {
    const RAW: char = '@';

    /// A namespace for what another daemon keeps here and names by itself.
    ///
    /// It can't be parsed, so no user and no client can name it. It is never listed and never
    /// collected: the other daemon says what is deleted. Each `space` is one of its own.
    #[must_use]
    pub fn raw(space: &str) -> Self {
        Self(format!("{}{space}", Self::RAW).into())
    }

    /// The namespace that [`Namespace::raw`] made, from its name as it was stored.
    #[must_use]
    pub fn parse_raw(name: &str) -> Option<Self> {
        name.strip_prefix(Self::RAW).map(Self::raw)
    }

    /// Whether this is one of [`Namespace::raw`].
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.0.starts_with(Self::RAW)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        identifier(text)?;
        Ok(Self(text.into()))
    }
}

/// Fails unless a text is an identifier by containerd's rule.
pub(crate) fn identifier(text: &str) -> Result<(), NameError> {
    const LIMIT: usize = 76;
    sized(text, LIMIT)?;
    let mut separator = true;
    let mut last = ' ';
    for c in text.chars() {
        let is_separator = matches!(c, '.' | '_' | '-');
        if is_separator && separator {
            return Err(NameError::Separator(c));
        }
        if !is_separator && !c.is_ascii_alphanumeric() {
            return Err(NameError::Character(c));
        }
        separator = is_separator;
        last = c;
    }
    if separator { Err(NameError::Separator(last)) } else { Ok(()) }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A registered image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// The index or manifest it names.
    pub target: Descriptor,
    /// Its labels.
    pub labels: Labels,
    /// When it was first registered, in nanoseconds since the epoch.
    pub created_at: i64,
    /// When it last changed, in nanoseconds since the epoch.
    pub updated_at: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces() {
        for good in ["default", "k8s.io", "a-b_c.d", "1"] {
            assert_eq!(good.parse::<Namespace>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "a..b", "-a", "a-", "../x", "a b", "a\n", &"a".repeat(77)] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad}");
        }
        for space in ["", "overlayfs", "a/b c"] {
            let raw = Namespace::raw(space);
            assert!(raw.is_raw() && raw.as_str().parse::<Namespace>().is_err(), "{raw}");
            assert_eq!(Namespace::parse_raw(raw.as_str()), Some(raw));
        }
        assert!(!Namespace::default().is_raw());
        assert_eq!(Namespace::parse_raw("default"), None);
    }
}
