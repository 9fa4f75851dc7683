//! Field masks: which fields of an object an update changes.
//!
//! A mask names whole fields (`labels`) or one key of a map (`labels.KEY`, where the key may have
//! dots of its own). Without any path all fields that can change do.

use dist_core::{Error, ErrorKind, LabelChange, Labels, Result};
use prost_types::FieldMask;

/// The paths of a mask; none means every field.
pub(crate) fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.map_or_else(Vec::new, |mask| mask.paths)
}

/// What a mask changes of an object of which nothing but the labels can be changed. `object` names
/// it in errors.
///
/// # Errors
/// `InvalidArgument` for any other field.
pub(crate) fn label_change(
    labels: Labels,
    mask: Option<FieldMask>,
    object: impl FnOnce() -> String,
) -> Result<LabelChange> {
    let mut fields = MapField::new("labels", labels);
    let paths = paths(mask);
    if let Some(path) = paths.iter().find(|path| !fields.select(path)) {
        return Err(unknown(path, object()));
    }
    let all = LabelChange::Replace(fields.map.clone());
    Ok(if paths.is_empty() { all } else { fields.change().unwrap_or(all) })
}

/// The error for a path that names nothing that can be changed.
pub(crate) fn unknown(path: &str, object: impl std::fmt::Display) -> Error {
    let message = format!("cannot update {path:?} field on {object}");
    Error::new(ErrorKind::InvalidArgument, message)
}

/// A map of an object, and what of it a mask's paths have selected so far.
pub(crate) struct MapField {
    name: &'static str,
    map: Labels,
    whole: bool,
    keys: Vec<String>,
}

impl MapField {
    /// The field `name`, which has the value `map` in the request.
    pub(crate) fn new(name: &'static str, map: Labels) -> Self {
        Self { name, map, whole: false, keys: Vec::new() }
    }

    /// Selects what `path` names; `false` where that is nothing of this field.
    pub(crate) fn select(&mut self, path: &str) -> bool {
        match path.strip_prefix(self.name) {
            Some("") => self.whole = true,
            Some(rest) => match rest.strip_prefix('.') {
                Some(key) => self.keys.push(key.to_owned()),
                None => return false,
            },
            None => return false,
        }
        true
    }

    /// The change that the selection asks for; `None` where nothing was selected.
    pub(crate) fn change(self) -> Option<LabelChange> {
        let Self { mut map, whole, keys, .. } = self;
        if !whole && keys.is_empty() {
            return None;
        }
        // A key that the request does not have is emptied.
        let named = keys.into_iter().map(|key| {
            let value = map.get(&key).cloned().unwrap_or_default();
            (key, value)
        });
        let named: Labels = named.collect();
        Some(if whole {
            map.extend(named);
            LabelChange::Replace(map)
        } else {
            LabelChange::Merge(named)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn masks_select_labels() {
        let all = labels(&[("a", "1"), ("b.c/d", "2")]);
        let replace = LabelChange::Replace(all.clone());
        for (paths, expected) in [
            (&[][..], Some(replace.clone())),
            (&["labels"], Some(replace.clone())),
            (&["labels", "labels.a"], Some(replace)),
            (&["labels.b.c/d"], Some(LabelChange::Merge(labels(&[("b.c/d", "2")])))),
            (&["labels.a", "labels.x"], Some(LabelChange::Merge(labels(&[("a", "1"), ("x", "")])))),
            (&["labels."], Some(LabelChange::Merge(labels(&[("", "")])))),
            (&["labelsx"], None),
            (&["labels.a", "size"], None),
            (&[""], None),
        ] {
            let mask = FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
            match label_change(all.clone(), Some(mask), || "blob \"x\"".into()) {
                Ok(change) => assert_eq!(Some(change), expected, "{paths:?}"),
                Err(error) => {
                    assert_eq!((error.kind(), None), (ErrorKind::InvalidArgument, expected));
                    assert!(error.to_string().ends_with("field on blob \"x\""), "{error}");
                }
            }
        }
        assert_eq!(
            label_change(all.clone(), None, String::new).unwrap(),
            LabelChange::Replace(all)
        );
    }
}
