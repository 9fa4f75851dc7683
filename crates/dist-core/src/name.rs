//! What the names of things have in common: texts that are checked once, when they are parsed.

/// Why a text cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("a name may not be empty")]
    Empty,
    /// It is longer than the limit.
    #[error("a name may have at most {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// It has a character that is not allowed.
    #[error("a name may not contain {0:?}")]
    Character(char),
    /// It has a separator where none is allowed.
    #[error("a name has {0:?} only between letters and digits, one at a time")]
    Separator(char),
}

/// Fails for an empty text and for one of more than `limit` bytes.
pub(crate) fn sized(text: &str, limit: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        length if length > limit => Err(NameError::TooLong { limit }),
        _ => Ok(()),
    }
}

/// Fails unless a text has 1 to 4096 bytes.
pub(crate) fn opaque(text: &str) -> Result<(), NameError> {
    sized(text, 4096)
}

/// Fails unless a text has 1 to 4096 bytes and no control characters.
pub(crate) fn printable(text: &str) -> Result<(), NameError> {
    opaque(text)?;
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

/// Defines a type of names: a text that passes a check, here [`opaque`] or [`printable`].
macro_rules! name {
    ($(#[$attribute:meta])* $name:ident, $check:path) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::NameError;

            fn from_str(text: &str) -> Result<Self, $crate::NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use name;
