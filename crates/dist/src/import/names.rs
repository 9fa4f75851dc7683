//! What images of an archive are called: its annotations, and what the user wants.

use dist_core::{Context as _, Descriptor, ErrorKind, ImageName, Reference, Result};

/// A whole name, written by clients that know whole names.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

/// A tag by the letter of OCI; many write a whole name.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Whether an entry of an archive's index is attached to an image, by its tag: a signature, a list of
/// referrers.
pub(crate) fn is_attached(entry: &Descriptor) -> bool {
    let name = entry.annotations.get(REF_NAME).map(String::as_str).unwrap_or_default();
    let tag = match Reference::parse_familiar(name) {
        Ok(reference) if name.contains(['/', ':']) => reference.tag().map(str::to_owned),
        _ => Some(name.to_owned()),
    };
    tag.is_some_and(|tag| dist_registry::is_attachment_tag(&tag))
}

/// One rule by which images get names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// What comes before a tag.
    pub prefix: String,
    /// Whether whole names that begin otherwise are taken as they are; else such images get no name.
    pub foreign: bool,
    /// Whether an image is also named by `prefix@digest`, and if so, whether one with a name is, too.
    pub digests: DigestNames,
}

/// Which images are named by their digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestNames {
    /// None.
    #[default]
    Never,
    /// Those without another name.
    Unnamed,
    /// All.
    Always,
}

/// The names for `image`, each once.
pub(super) fn of(image: &Descriptor, namings: &[Naming]) -> Result<Vec<ImageName>> {
    let mut names: Vec<ImageName> = Vec::new();
    for naming in namings {
        let name = naming.name(image);
        let by_digest = match naming.digests {
            DigestNames::Never => false,
            DigestNames::Unnamed => name.is_none(),
            DigestNames::Always => true,
        };
        let digest = by_digest.then(|| format!("{}@{}", naming.prefix, image.digest));
        for name in name.into_iter().chain(digest) {
            let name = name
                .parse()
                .context(ErrorKind::InvalidArgument, || format!("parse image name {name:?}"))?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

impl Naming {
    fn name(&self, image: &Descriptor) -> Option<String> {
        let given = |key| image.annotations.get(key).filter(|name| !name.is_empty());
        match given(IMAGE_NAME) {
            // A whole name is that or nothing.
            Some(whole) => self.translate(whole).filter(|name| name == whole),
            None => self.translate(given(REF_NAME)?),
        }
    }

    fn translate(&self, name: &str) -> Option<String> {
        if !name.contains(['/', ':', '@']) {
            return (!self.prefix.is_empty()).then(|| format!("{}:{name}", self.prefix));
        }
        (self.foreign || self.is_prefix_of(name)).then(|| name.to_owned())
    }

    fn is_prefix_of(&self, name: &str) -> bool {
        let rest = name.strip_prefix(self.prefix.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
    }
}

#[cfg(test)]
mod tests {
    use dist_core::{Digest, MediaType};

    use super::*;

    #[test]
    fn what_is_attached_has_such_a_tag() {
        let digest = Digest::sha256(b"x");
        let tag = format!("sha256-{}", digest.hex());
        for (name, attached) in [
            (tag.clone(), true),
            (format!("{tag}.sig"), true),
            (format!("a/b:{tag}.att"), true),
            (format!("localhost:5000/b:{tag}"), true),
            (format!("a/{tag}"), false),
            ("1".to_owned(), false),
            ("a/b:1".to_owned(), false),
            (String::new(), false),
        ] {
            let mut entry = Descriptor::new(MediaType::Manifest, digest, 1);
            entry.annotations.insert(REF_NAME.to_owned(), name.clone());
            assert_eq!(is_attached(&entry), attached, "{name}");
        }
    }

    #[test]
    fn names_follow_annotations_and_rules() {
        let digest = Digest::sha256(b"x");
        let pinned = format!("base/x@{digest}");
        let rule = |foreign, digests| Naming { prefix: "base/x".into(), foreign, digests };
        let (own, all) = (rule(false, DigestNames::Never), rule(true, DigestNames::Never));
        for (annotations, naming, expected) in [
            (&[(REF_NAME, "1")][..], &own, &["base/x:1"][..]),
            (&[(REF_NAME, "base/x:2")], &own, &["base/x:2"]),
            (&[(REF_NAME, "base/xy:2")], &own, &[]),
            (&[(REF_NAME, "other/y:2")], &all, &["other/y:2"]),
            (&[(REF_NAME, "1"), (IMAGE_NAME, "docker.io/library/a:1")], &own, &[]),
            (
                &[(REF_NAME, "1"), (IMAGE_NAME, "docker.io/library/a:1")],
                &all,
                &["docker.io/library/a:1"],
            ),
            (&[(IMAGE_NAME, "bare")], &all, &[]),
            (&[], &own, &[]),
            (&[], &rule(false, DigestNames::Unnamed), &[&pinned]),
            (&[(REF_NAME, "1")], &rule(false, DigestNames::Unnamed), &["base/x:1"]),
            (&[(REF_NAME, "1")], &rule(false, DigestNames::Always), &["base/x:1", &pinned]),
        ] {
            let mut image = Descriptor::new(MediaType::Manifest, digest, 1);
            image.annotations =
                annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            let names = of(&image, std::slice::from_ref(naming)).unwrap();
            let names: Vec<_> = names.iter().map(ImageName::as_str).collect();
            assert_eq!(names, expected, "{annotations:?} {naming:?}");
        }
    }
}
