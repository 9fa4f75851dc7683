//! Between the store and archives that come and go over streams.

use dist::{DigestNames, ExportOptions, Exported, ImportOptions, Naming, Platforms};
use dist_core::{Cancel, Error, ErrorKind, Image, Platform, Result};

use super::progress::Reporter;
use super::{Job, bytes, pull, store};
use crate::api::containerd::types::transfer::{
    ImageExportStream, ImageImportStream, ImageReference, ImageStore,
};
use crate::daemon::blocking;

/// From a client's archive into the store.
pub(super) async fn import(job: &Job, from: &ImageImportStream, to: &ImageStore) -> Result<()> {
    let reporter = job.reporter("importing")?;
    let result = import_told(job, from, to, &reporter).await;
    reporter.end().await;
    result
}

async fn import_told(
    job: &Job,
    from: &ImageImportStream,
    to: &ImageStore,
    reporter: &Reporter,
) -> Result<()> {
    store::check(to)?;
    if from.force_compress {
        return Err(Error::new(ErrorKind::Unsupported, "compress layers: this is not built"));
    }
    let options = ImportOptions {
        namings: to.extra_references.iter().filter(|name| name.is_prefix).map(naming).collect(),
        index_names: store::optional_names(to)?,
        labels: store::labels(to),
        platforms: store::platforms(&to.platforms),
        unpacks: pull::unpackings(job, to)?,
        limits: *job.engine.limits(),
    };
    let (reader, feed) = bytes::incoming(job.stream(&from.stream)?);
    reporter.status("Importing");
    let importing = dist::import(&job.engine, Box::new(reader), &options, job.progress(reporter));
    let (images, ()) = futures_util::future::join(importing, feed).await;
    let images = images?;
    job.publish(&images);
    reporter.status("Completed import");
    for image in &images {
        reporter.image("saved", image.name.as_str(), &image.target);
    }
    Ok(())
}

fn naming(reference: &ImageReference) -> Naming {
    let digests = match (reference.add_digest, reference.skip_named_digest) {
        (false, _) => DigestNames::Never,
        (true, true) => DigestNames::Unnamed,
        (true, false) => DigestNames::Always,
    };
    Naming { prefix: reference.name.clone(), foreign: reference.allow_overwrite, digests }
}

/// From the store into a client's archive.
pub(super) async fn export(job: &Job, from: &ImageStore, to: &ImageExportStream) -> Result<()> {
    let reporter = job.reporter("exporting")?;
    let result = export_told(job, from, to, &reporter).await;
    reporter.end().await;
    result
}

async fn export_told(
    job: &Job,
    from: &ImageStore,
    to: &ImageExportStream,
    reporter: &Reporter,
) -> Result<()> {
    store::check(from)?;
    if from.extra_references.iter().any(|reference| reference.is_prefix) {
        let message = "export all images whose names begin alike: this is not built";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let platforms = match (to.all_platforms, store::platforms(&to.platforms)) {
        (true, _) => Platforms::All,
        (false, Platforms::All) => Platforms::One(Platform::host()),
        (false, named) => named,
    };
    let options = ExportOptions {
        docker_manifest: !to.skip_compatibility_manifest,
        nondistributable: !to.skip_non_distributable,
    };
    let (images, names) = (job.engine.images(), store::names(from)?);
    let targets = blocking(move || {
        let get = |name| {
            let Image { name, target, .. } = images.get(&name)?;
            Ok(Exported { name, target, platforms: platforms.clone() })
        };
        names.into_iter().map(get).collect::<Result<Vec<_>>>()
    })
    .await?;
    reporter.status("Exporting");
    let progress = reporter.progress();
    let restored = dist::restore_images(&job.engine, &targets, progress).await?;
    let (mut writer, drain) = bytes::outgoing(job.stream(&to.stream)?);
    let (cancel, _guard) = Cancel::guarded();
    let content = job.engine.content();
    let writing =
        blocking(move || dist::export(&content, &targets, &options, &mut writer, &cancel));
    drain.run(writing).await?;
    restored.end().await?;
    reporter.status("Completed export");
    Ok(())
}
