//! What tells one version of a file on a server from another (RFC 9110, "Validators").

use dist_core::ErrorKind;
use http::header::{CONTENT_ENCODING, ETAG, LAST_MODIFIED};

use crate::escape;
use crate::failure::Failed;
use crate::transport::Answer;

/// The version that an answer is about. One without a tag and a time may be any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    tag: Option<String>,
    modified: Option<String>,
    /// How it is encoded, which makes another file of it.
    encoding: Option<String>,
    /// Whether an encoding is taken as a part of the file.
    pub(crate) may_be_encoded: bool,
}

impl Version {
    pub(crate) fn of(answer: &Answer) -> Self {
        let header = |name| answer.header(name).map(|text| text.trim().to_owned());
        let encoding = header(CONTENT_ENCODING);
        Self {
            tag: header(ETAG),
            modified: header(LAST_MODIFIED),
            encoding: encoding.filter(|name| !name.eq_ignore_ascii_case("identity")),
            may_be_encoded: false,
        }
    }

    /// The condition for a part of this version: a strong tag, or else the time.
    pub(crate) fn condition(&self) -> Option<String> {
        match &self.tag {
            Some(tag) => Some(tag.clone()).filter(|tag| !tag.starts_with("W/")),
            None => self.modified.clone(),
        }
    }

    /// Checks that an answer of version `now` is of this one, which is learned where nothing is
    /// known of it.
    pub(crate) fn check(&mut self, now: &Self, answer: &Answer) -> Result<(), Box<Failed>> {
        if !self.may_be_encoded {
            now.check_plain(answer)?;
        }
        if self.tag.is_none() && self.modified.is_none() {
            *self = Self { may_be_encoded: self.may_be_encoded, ..now.clone() };
            return Ok(());
        }
        let changed = match (&self.tag, &now.tag) {
            (Some(before), Some(now)) => before != now,
            _ => {
                matches!((&self.modified, &now.modified), (Some(before), Some(now)) if before != now)
            }
        };
        if changed || self.encoding != now.encoding {
            let problem = "the file was changed while it was read";
            return Err(answer.failed(ErrorKind::Unavailable, problem));
        }
        Ok(())
    }

    /// Checks that nothing was encoded for the way.
    pub(crate) fn check_plain(&self, answer: &Answer) -> Result<(), Box<Failed>> {
        let Some(encoding) = &self.encoding else { return Ok(()) };
        let encoding = escape::text(encoding);
        let problem = format!("the answer is encoded as {encoding:?}, which was not asked for");
        Err(answer.failed(ErrorKind::Corrupt, problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_sure_is_a_condition() {
        let version = |tag: Option<&str>, modified: Option<&str>| Version {
            tag: tag.map(str::to_owned),
            modified: modified.map(str::to_owned),
            ..Version::default()
        };
        let condition = |tag, modified| version(tag, modified).condition();
        assert_eq!(condition(Some("\"a\""), Some("t")).as_deref(), Some("\"a\""));
        assert_eq!(condition(Some("W/\"a\""), Some("t")), None);
        assert_eq!(condition(None, Some("t")).as_deref(), Some("t"));
        assert_eq!(condition(None, None), None);
    }
}
