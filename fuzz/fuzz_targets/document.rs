//! Manifests, indexes and configs: one document is never two things.
#![no_main]

use dist_core::{Document, ImageConfig, MediaType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let index = Document::parse(&MediaType::Index, bytes);
    let manifest = Document::parse(&MediaType::Manifest, bytes);
    assert!(index.is_err() || manifest.is_err());
    let _ = ImageConfig::parse(bytes);
});
