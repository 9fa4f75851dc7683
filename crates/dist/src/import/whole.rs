//! Whether all of an image was in the archive.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use dist_core::{
    Cancel, ContentMismatch, Descriptor, Digest, Error, ErrorKind, MAX_DEPTH, Result, children,
};

use super::contents::Archived;
use crate::Contents;
use crate::fetch::Platforms;
use crate::references::{Belongings, is_of_content};

/// What was looked at. Everything is looked at once, however often it is named.
pub(super) struct Whole {
    content: Arc<dyn Contents>,
    cancel: Cancel,
    /// Whether it is whole, by digest, size and media type.
    known: RefCell<BTreeMap<(Digest, u64, String), bool>>,
}

impl Whole {
    pub(super) fn new(contents: &Archived) -> Self {
        let (content, cancel) = (contents.content.clone(), contents.cancel.clone());
        Self { content, cancel, known: RefCell::default() }
    }

    /// Checks that all of an image is there: of an index, all of at least one of its images.
    pub(super) fn check(&self, desc: &Descriptor) -> Result<()> {
        self.check_at(desc, 0)
    }

    /// What belongs to an image. Of an index, the whole images for `platforms`, and all where that
    /// leaves a platform without one: nothing that was asked for is left to a collection.
    pub(super) fn belongings(
        &self,
        image: &Descriptor,
        platforms: &Platforms,
    ) -> Result<Belongings> {
        let choose = |below: Vec<Descriptor>| {
            if matches!(platforms, Platforms::All) {
                return Ok(below);
            }
            let mut whole = Vec::new();
            for child in &below {
                match self.check(child) {
                    Ok(()) => whole.push(child.clone()),
                    Err(error) if is_of_content(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            match platforms.choose(whole) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(below),
                chosen => chosen,
            }
        };
        Belongings::walk(&*self.content, image, &choose, false)
    }

    fn check_at(&self, desc: &Descriptor, depth: usize) -> Result<()> {
        self.cancel.check()?;
        let key = (desc.digest, desc.size, desc.media_type.as_str().to_owned());
        let known = self.known.borrow().get(&key).copied();
        match known {
            Some(true) => return Ok(()),
            Some(false) => {
                let message = format!("find all of {} in the archive", desc.digest);
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            None => {}
        }
        let checked = self.look(desc, depth);
        match &checked {
            Err(error) if !is_of_content(error) => {}
            other => drop(self.known.borrow_mut().insert(key, other.is_ok())),
        }
        checked
    }

    fn look(&self, desc: &Descriptor, depth: usize) -> Result<()> {
        if depth == MAX_DEPTH {
            let message = format!("walk {}: indexes are nested too deep", desc.digest);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let blob = self.content.info(&desc.digest).map_err(|error| missing(desc, error))?;
        if blob.size != desc.size {
            let source = ContentMismatch::Size { expected: desc.size, got: blob.size };
            let message = format!("verify {} {}", desc.media_type.noun(), desc.digest);
            return Err(Error::new(ErrorKind::Corrupt, message).with_source(source));
        }
        let below = children(&*self.content, desc)?;
        if !desc.media_type.is_index() {
            return self.check_parts(desc, &below, depth);
        }
        let mut first = None;
        for child in &below {
            match self.check_at(child, depth + 1) {
                Ok(()) => return Ok(()),
                Err(error) if is_of_content(&error) => first = first.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("read index {}: it is empty", desc.digest))
        }))
    }

    /// Checks the config and the layers of a manifest.
    fn check_parts(&self, manifest: &Descriptor, parts: &[Descriptor], depth: usize) -> Result<()> {
        for part in parts.iter().filter(|part| !part.media_type.is_foreign()) {
            if part.media_type.is_index() || part.media_type.is_manifest() {
                let noun = part.media_type.noun();
                let message = format!("read manifest {}: it holds a {noun}", manifest.digest);
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            self.check_at(part, depth + 1)?;
        }
        Ok(())
    }
}

fn missing(desc: &Descriptor, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let message = format!("find {} {} in the archive", desc.media_type.noun(), desc.digest);
    Error::new(ErrorKind::Corrupt, message).with_source(error)
}
