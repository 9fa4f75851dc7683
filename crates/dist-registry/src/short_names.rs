//! Short names: what `redis` stands for, by containers' `registries.conf`.

use std::path::PathBuf;

use dist_core::{Context, ErrorKind, Reference, Result};

use crate::registries_conf::{Registries, is_short};
use crate::{RegistryOptions, ShortNameMode};

/// What a name without a registry may stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// The names, in the order in which they are tried; at least one.
    pub names: Vec<Reference>,
    /// What is to be done where there are several.
    pub mode: ShortNameMode,
    /// The file that says so.
    pub source: Option<PathBuf>,
}

impl RegistryOptions {
    /// What `text` stands for: itself where it says its registry; what an alias says, with the tag
    /// or digest of `text`; else the name in each of `unqualified-search-registries`; and where there
    /// are none, the name in docker's registry. Reads files.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that is no name, with a [`dist_core::ReferenceError`], and as
    /// [`RegistryOptions::hosts`].
    pub fn meant(&self, text: &str) -> Result<Meant> {
        let parse = |text: &str| {
            Reference::parse_familiar(text)
                .context(ErrorKind::InvalidArgument, || format!("parse reference {text:?}"))
        };
        let own = parse(text)?;
        let alone =
            |name, source| Meant { names: vec![name], mode: ShortNameMode::Disabled, source };
        if !is_short(text) {
            return Ok(alone(own, None));
        }
        let conf = Registries::read(&self.registries_conf)?;
        let end = text.find([':', '@']).unwrap_or(text.len());
        if let Some((full, source)) = conf.alias(&text[..end]) {
            return Ok(alone(parse(&format!("{full}{}", &text[end..]))?, Some(source.clone())));
        }
        let (search, source) = &conf.search;
        if search.is_empty() {
            return Ok(alone(own, None));
        }
        let names = search.iter().map(|registry| parse(&format!("{registry}/{text}")));
        let names = names.collect::<Result<_>>()?;
        Ok(Meant { names, mode: conf.mode, source: source.clone() })
    }
}
