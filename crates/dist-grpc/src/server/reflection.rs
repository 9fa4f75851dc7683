//! Server reflection: what a socket serves, with the messages that it takes and gives.

use std::collections::HashSet;

use dist_core::{Context as _, ErrorKind, Result};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection as V1, ServerReflectionServer as V1Server};
use tonic_reflection::server::v1alpha::{
    ServerReflection as V1Alpha, ServerReflectionServer as V1AlphaServer,
};

use super::methods::{DESCRIPTORS, EVERYWHERE};

/// Both versions of the service, for the services with these names and those that are everywhere.
///
/// # Errors
/// `Internal` where the descriptors cannot be read.
pub(super) fn services(
    names: &'static [&'static str],
) -> Result<(V1Server<impl V1>, V1AlphaServer<impl V1Alpha>)> {
    let files = served(names);
    let builder = || {
        let builder = Builder::configure()
            .include_reflection_service(false)
            .register_file_descriptor_set(files.clone());
        names.iter().chain(&EVERYWHERE).fold(builder, |all, name| all.with_service_name(*name))
    };
    let what = || "describe the services".into();
    Ok((
        builder().build_v1().context(ErrorKind::Internal, what)?,
        builder().build_v1alpha().context(ErrorKind::Internal, what)?,
    ))
}

/// The files of what is served, and of messages alone: clients look up what is in an `Any`.
fn served(names: &[&str]) -> FileDescriptorSet {
    let served: HashSet<&str> = names.iter().copied().chain(EVERYWHERE).collect();
    let mut files = FileDescriptorSet::default();
    for set in DESCRIPTORS {
        // What build.rs wrote, and what other crates ship, can be read.
        files.file.extend(FileDescriptorSet::decode(set).unwrap_or_default().file);
    }
    files.file.retain(|file| {
        let mut names = file.service.iter().map(|one| format!("{}.{}", file.package(), one.name()));
        file.service.is_empty() || names.any(|name| served.contains(&*name))
    });
    files
}
