//! Labels: what clients write on blobs, images, snapshots, leases and namespaces.

use std::collections::BTreeMap;

use crate::{Error, ErrorKind, Result};

/// Labels of an image, a blob, a snapshot, a lease or a namespace.
pub type Labels = BTreeMap<String, String>;

/// Keeps a blob or a snapshot, and all it refers to, until the label is removed; the value says
/// since when, any text but the empty one counts.
pub const GC_ROOT: &str = "containerd.io/gc.root";

/// When a lease or an image stops to keep anything: a time as in RFC 3339.
pub const GC_EXPIRE: &str = "containerd.io/gc.expire";

/// The digest of a layer after decompression.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// What begins the labels of a blob that refer to other blobs; what follows a dot is free.
pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";

/// What begins the labels that refer to snapshots, by a snapshotter whose name follows.
pub const GC_REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// What begins the labels that say in which repositories of a registry, whose name follows, a blob
/// is known to be.
pub const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";

/// What begins the labels of a snapshot that stands for blobs which were discarded; a digest follows.
pub const DISCARDED: &str = "dist.discarded/";

/// Of a snapshot in the making: the committed one that it is to become.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

/// The bytes that a label may have, key and value together.
const LIMIT: usize = 4096;

/// How labels are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelChange {
    /// These and no others; those with an empty value are not kept.
    Replace(Labels),
    /// These; others stay. An empty value removes a label.
    Merge(Labels),
}

impl LabelChange {
    /// What the change names.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        match self {
            Self::Replace(labels) | Self::Merge(labels) => labels,
        }
    }

    /// Changes `labels`; what is given an empty value is not among them afterwards.
    pub fn apply(&self, labels: &mut Labels) {
        if let Self::Replace(_) = self {
            labels.clear();
        }
        labels.extend(self.labels().clone());
        labels.retain(|_, value| !value.is_empty());
    }
}

/// Refuses labels without a key or too long: key and value may have 4096 bytes together.
///
/// # Errors
/// `InvalidArgument`, with the beginning of the first key that is too long.
pub fn check_labels(labels: &Labels) -> Result<()> {
    if labels.contains_key("") {
        return Err(Error::new(ErrorKind::InvalidArgument, "a label needs a key"));
    }
    let Some((key, _)) = labels.iter().find(|(key, value)| key.len() + value.len() > LIMIT) else {
        return Ok(());
    };
    let start: String = key.chars().take(10).collect();
    let message =
        format!("label key and value greater than maximum size ({LIMIT} bytes), key: {start}");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> Labels {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_label_has_at_most_4096_bytes() {
        for (key, value, fits) in [(1, 4095, true), (4096, 0, true), (1, 4096, false)] {
            let labels = labels(&[("a", "b"), (&"k".repeat(key), &"v".repeat(value))]);
            match check_labels(&labels) {
                Ok(()) => assert!(fits, "{key} + {value}"),
                Err(error) => {
                    assert!(!fits, "{key} + {value}");
                    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                }
            }
        }
    }

    #[test]
    fn a_label_has_a_key() {
        let error = check_labels(&labels(&[("", "value")])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn an_empty_value_removes_a_label() {
        let change = labels(&[("a", ""), ("b", "2")]);
        for (change, expected) in [
            (LabelChange::Merge(change.clone()), labels(&[("b", "2"), ("c", "3")])),
            (LabelChange::Replace(change.clone()), labels(&[("b", "2")])),
        ] {
            let mut now = labels(&[("a", "1"), ("c", "3")]);
            change.apply(&mut now);
            assert_eq!(now, expected);
        }
    }
}
