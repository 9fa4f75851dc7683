//! A bundle into a registry.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use dist_core::{
    Context as _, Digest, Error, ErrorKind, Progress, Reference, Resolver as _, Result,
};

use super::{Bundle, LeftOut, Reading, SCHEME, write};
use crate::Remotes;
use crate::copy::{Copied, CopyOptions, Route, Turns, copy_along};

/// What was loaded into a registry.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Each image, by its name there.
    pub images: Vec<Copied>,
}

/// Copies all images of a bundle, a file or one at an address, with what refers to them, below `place`:
/// a registry, or one with the beginning of a path. Each keeps its repository and its tag.
///
/// # Errors
/// Those of the registry; `FailedPrecondition` where something is left out that the registry does not
/// have; `Corrupt` for a bundle that is not what it says.
pub async fn load_bundle(
    path: &Path,
    (to, place): (&Remotes, &str),
    jobs: usize,
    progress: Arc<dyn Progress>,
) -> Result<Loaded> {
    let bundle = Bundle::find(path, to).await?;
    let names = bundle.images();
    let left_out: HashSet<Digest> = bundle.left_out.iter().map(|blob| blob.digest).collect();
    let turns = supposed(&bundle.left_out, to, place)?;
    let reading = Reading(Arc::new(bundle.archive));
    let from = to.with_options(to.options().clone()).with_scheme(SCHEME, Arc::new(reading));
    let options = CopyOptions { jobs, ..CopyOptions::default() };
    let mut images = Vec::new();
    for name in names {
        let reference = Reference::parse_familiar(&name)
            .context(ErrorKind::Corrupt, || format!("read name {name:?} of the bundle"))?;
        let destination = below(place, &reference);
        let resolved = from.resolve(&write::name(&name)).await?;
        let turns = Some(&turns);
        let route = Route { from: &from, resolved, to, destination: &destination, turns };
        let copied = copy_along(route, &options, Arc::clone(&progress)).await;
        images.push(copied.map_err(|error| explain(error, &left_out))?);
    }
    Ok(Loaded { images })
}

/// The name below `place` for one in another registry.
fn below(place: &str, name: &Reference) -> String {
    let object = name.to_string();
    let object = object.strip_prefix(name.hostname()).unwrap_or(&object);
    format!("{}{object}", place.trim_end_matches('/'))
}

/// Where what is left out may be in the registry that is loaded into.
fn supposed(left_out: &[LeftOut], to: &Remotes, place: &str) -> Result<Turns> {
    let mut turns = Turns::default();
    for blob in left_out {
        for repository in &blob.repositories {
            let Ok(name) = Reference::parse_familiar(repository) else { continue };
            let name = to.canonical(&below(place, &name))?;
            let there = Reference::parse_familiar(&name)
                .context(ErrorKind::InvalidArgument, || format!("read name {name:?}"))?;
            turns.suppose(there.hostname(), &blob.digest, there.repository().to_owned());
        }
    }
    Ok(turns)
}

/// Says what is missing where it was left out.
fn explain(error: Error, left_out: &HashSet<Digest>) -> Error {
    if error.kind() != ErrorKind::NotFound || left_out.is_empty() {
        return error;
    }
    Error::new(ErrorKind::FailedPrecondition, "load what the bundle leaves out").with_source(error)
}
