//! From a registry into the store.

use dist::{Unpacking, Wanted};
use dist_core::{Context as _, Error, ErrorKind, Image, Reference, Result};

use super::progress::Reporter;
use super::{Job, registry, registry_name, store};
use crate::api::containerd::types::transfer::{ImageStore, OciRegistry};

pub(super) async fn pull(job: &Job, from: &OciRegistry, to: &ImageStore) -> Result<()> {
    let reporter = job.reporter("downloading")?;
    let result = pull_told(job, from, to, &reporter).await;
    reporter.end().await;
    result
}

async fn pull_told(
    job: &Job,
    from: &OciRegistry,
    to: &ImageStore,
    reporter: &Reporter,
) -> Result<()> {
    let reference = &from.reference;
    Reference::parse(reference)
        .context(ErrorKind::InvalidArgument, || format!("read reference {reference:?}"))?;
    let wanted = wanted(job, to)?;
    let options = registry::options(&job.daemon, &job.namespace, from)?;
    let engine = job.engine.with_registry(options);
    let name = registry_name(from);
    reporter.status(format!("Resolving from {name}"));
    reporter.expect(format!("Pulling from {name}"), reference);
    let jobs = dist::default_jobs();
    let pulled = dist::pull_as(&engine, reference, &wanted, jobs, job.progress(reporter)).await?;
    let images: Vec<Image> = std::iter::once(pulled.image).chain(pulled.others).collect();
    job.publish(&images);
    // Clients draw when something is told that has a name, so that comes last.
    reporter.status(format!("Completed pull from {name}"));
    for image in &images {
        reporter.image("saved", image.name.as_str(), &image.target);
    }
    Ok(())
}

/// What of the image is brought, and what becomes of it.
fn wanted(job: &Job, to: &ImageStore) -> Result<Wanted> {
    store::check(to)?;
    if to.extra_references.iter().any(|reference| reference.add_digest && !reference.is_prefix) {
        let message = "name a pulled image by its digest: this is not built";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(Wanted {
        platforms: store::platforms(&to.platforms),
        metadata: to.all_metadata,
        unpacks: unpackings(job, to)?,
        names: store::names(to)?,
        labels: store::labels(to),
    })
}

/// What is to be unpacked.
///
/// # Errors
/// `InvalidArgument` where there is no such snapshotter.
pub(super) fn unpackings(job: &Job, to: &ImageStore) -> Result<Vec<Unpacking>> {
    let default = job.engine.snapshotter_name();
    let unpack = |unpack: store::Unpack| {
        let snapshotter = match unpack.snapshotter.as_str() {
            "" => default.to_owned(),
            name => dist_snapshot::known(name)
                .context(ErrorKind::InvalidArgument, || format!("unpack {}", unpack.platform))?
                .to_owned(),
        };
        Ok(Unpacking { platform: unpack.platform, snapshotter })
    };
    store::unpacks(to).into_iter().map(unpack).collect()
}
