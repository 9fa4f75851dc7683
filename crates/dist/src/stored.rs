//! Images of stores as remotes to copy from.

use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    Context as _, Digest, Error, ErrorKind, Fetcher, ImageName, Pusher, Reference, Resolved,
    Resolver, Result,
};

use crate::blocking::blocking;
use crate::plain::stored_fetcher;
use crate::{Host, Scheme};

type Find = dyn Fn(&str) -> Result<(Arc<dyn Host>, String)> + Send + Sync;

/// Images that are registered in a store: of this process, or of a daemon.
///
/// Which store a name is about, and the image's name in it, is said by a function of the text behind the
/// scheme. The image's name is the end of that text.
#[derive(Clone)]
pub struct StoredImages {
    find: Arc<Find>,
    judged: bool,
}

impl StoredImages {
    /// Makes the remote; opens nothing.
    #[must_use]
    pub fn new(
        find: impl Fn(&str) -> Result<(Arc<dyn Host>, String)> + Send + Sync + 'static,
    ) -> Self {
        Self { find: Arc::new(find), judged: false }
    }

    /// Has the images judged by a policy as those of their names: the store is somebody else's. What is
    /// in a store of one's own was judged when it came.
    #[must_use]
    pub fn judged(self) -> Self {
        Self { judged: true, ..self }
    }

    fn find(&self, name: &str) -> Result<(Arc<dyn Host>, String)> {
        let (_, rest) = name.split_once(':').unwrap_or(("", name));
        (self.find)(rest)
    }
}

fn full(name: &str) -> Result<Reference> {
    Reference::parse_familiar(name)
        .context(ErrorKind::InvalidArgument, || format!("parse reference {name:?}"))
}

#[async_trait]
impl Resolver for StoredImages {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let (find, text) = (self.clone(), name.to_owned());
        blocking(move || {
            let (host, image) = find.find(&text)?;
            let what = || format!("find image {image}");
            // Images that were pulled from elsewhere than registries have other names.
            let named = full(&image).map_or_else(|_| image.clone(), |full| full.to_string());
            let image: ImageName = named.parse().context(ErrorKind::InvalidArgument, what)?;
            let target = host.images().get(&image)?.target;
            Ok(Resolved { name: text, target })
        })
        .await
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let (host, _) = self.find(name)?;
        Ok(stored_fetcher(host.contents()))
    }

    fn pusher(&self, name: &str, _root: &Digest) -> Result<Arc<dyn Pusher>> {
        let message = format!("push {name}: a store is only copied from");
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

impl Scheme for StoredImages {
    fn beside(&self, name: &str, tag: &str) -> Result<String> {
        let (_, image) = self.find(name)?;
        let place = name.strip_suffix(&*image).unwrap_or_default();
        Ok(format!("{place}{}:{tag}", full(&image)?.locator()))
    }

    fn has_tags(&self, name: &str) -> bool {
        self.find(name).is_ok_and(|(_, image)| full(&image).is_ok())
    }

    fn judged_as(&self, name: &str) -> Option<String> {
        if !self.judged {
            return None;
        }
        let full = self.find(name).and_then(|(_, image)| full(&image));
        Some(full.map_or_else(|_| name.to_owned(), |full| full.to_string()))
    }
}
