//! What is copied, and what before what.

use std::collections::{HashMap, HashSet};

use dist_core::{Descriptor, Digest, Error, ErrorKind, MAX_DEPTH, Pusher, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::documents::Documents;

/// What is to be pushed.
#[derive(Default)]
pub(super) struct Plan {
    /// What names nothing else.
    pub(super) blobs: Vec<Descriptor>,
    /// Manifests and indexes, each after all that it names.
    pub(super) documents: Vec<Descriptor>,
    /// What each document names that is not there yet.
    pub(super) parents: Vec<(Descriptor, Vec<Descriptor>)>,
    /// What each document names; `None` for a manifest that the destination has.
    below: HashMap<Digest, Option<Vec<Descriptor>>>,
    ordered: HashSet<Digest>,
}

impl Plan {
    /// Whether the destination has a manifest, and so all that it names.
    pub(super) fn is_there(&self, desc: &Descriptor) -> bool {
        matches!(self.below.get(&desc.digest), Some(None))
    }

    /// Puts `desc` behind everything below it.
    fn order(&mut self, desc: &Descriptor) {
        if !self.ordered.insert(desc.digest) {
            return;
        }
        if !is_document(desc) {
            self.blobs.push(desc.clone());
            return;
        }
        if let Some(Some(children)) = self.below.get(&desc.digest).cloned() {
            children.iter().for_each(|child| self.order(child));
            self.parents.push((desc.clone(), children));
        }
        self.documents.push(desc.clone());
    }
}

/// Finds out what is below a document.
pub(super) struct Walk<'a> {
    pub(super) documents: &'a Documents,
    pub(super) pusher: &'a dyn Pusher,
    pub(super) jobs: usize,
}

impl Walk<'_> {
    /// Adds `root` and everything below it. What is below a manifest that the destination has is
    /// there: registries take no manifest without it. Of an index that can't be said.
    pub(super) async fn add(&self, plan: &mut Plan, root: &Descriptor) -> Result<()> {
        let mut level = vec![root.clone()];
        for _ in 0..MAX_DEPTH {
            level.retain(|desc| is_document(desc) && !plan.below.contains_key(&desc.digest));
            let looks: Vec<_> = level.into_iter().map(|desc| self.look(desc)).collect();
            let looks = futures_util::stream::iter(looks).buffered(self.jobs.max(8));
            let found: Vec<(Descriptor, Option<Vec<Descriptor>>)> = looks.try_collect().await?;
            level = Vec::new();
            for (desc, children) in found {
                level.extend(children.iter().flatten().cloned());
                plan.below.insert(desc.digest, children);
            }
            if !level.iter().any(is_document) {
                plan.order(root);
                return Ok(());
            }
        }
        let message = format!("walk {}: its indexes are nested too deep", root.digest);
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    async fn look(&self, desc: Descriptor) -> Result<(Descriptor, Option<Vec<Descriptor>>)> {
        if desc.media_type.is_manifest() && self.pusher.has(&desc).await? {
            return Ok((desc, None));
        }
        let children = self.documents.children(&desc).await?;
        Ok((desc, Some(children)))
    }
}

pub(super) fn is_document(desc: &Descriptor) -> bool {
    desc.media_type.is_manifest() || desc.media_type.is_index()
}
