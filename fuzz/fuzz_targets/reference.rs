//! References, digests, platforms, names: an error or a value that prints as it can be read again.
#![no_main]

use dist_core::{Digest, ImageName, Namespace, Platform, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for parse in [Reference::parse, Reference::parse_familiar] {
        match parse(text) {
            Ok(reference) => assert_eq!(Reference::parse(&reference.to_string()), Ok(reference)),
            Err(error) => assert!(error.at <= text.len()),
        }
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.rank(&platform), Some(0));
    }
    let _ = (text.parse::<ImageName>(), text.parse::<Namespace>());
});
