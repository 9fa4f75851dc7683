//! From the store into a registry.

use dist::PushOptions;
use dist_core::{Context as _, ErrorKind, Reference, Result};

use super::progress::Reporter;
use super::{Job, registry, registry_name, store};
use crate::api::containerd::types::transfer::{ImageStore, OciRegistry};
use crate::daemon::blocking;

pub(super) async fn push(job: &Job, from: &ImageStore, to: &OciRegistry) -> Result<()> {
    let reporter = job.reporter("uploading")?;
    let result = push_told(job, from, to, &reporter).await;
    reporter.end().await;
    result
}

async fn push_told(
    job: &Job,
    from: &ImageStore,
    to: &OciRegistry,
    reporter: &Reporter,
) -> Result<()> {
    let reference = &to.reference;
    Reference::parse(reference)
        .context(ErrorKind::InvalidArgument, || format!("read reference {reference:?}"))?;
    let (images, name) = (job.engine.images(), store::parse(&from.name)?);
    let image = blocking(move || images.get(&name)).await?;
    let options = registry::options(&job.daemon, &job.namespace, to)?;
    let engine = job.engine.with_registry(options);
    let name = registry_name(to);
    reporter.status(format!("Pushing to {name}"));
    reporter.image("pushing content", image.name.as_str(), &image.target);
    let options =
        PushOptions { platforms: store::platforms(&from.platforms), ..PushOptions::default() };
    let pushed =
        dist::push(&engine, &image.target, reference, &options, reporter.progress()).await?;
    reporter.completed(format!("Completed push to {name}"), &pushed);
    reporter.image("pushed content", image.name.as_str(), &pushed);
    Ok(())
}
