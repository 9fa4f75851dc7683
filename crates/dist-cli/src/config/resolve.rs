//! Which of several sources counts, and a note of it for `dist config show`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tracing::level_filters::LevelFilter;

use crate::units::{exact_duration, exact_size};

/// One setting in force.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its key in the config file.
    pub(crate) key: &'static str,
    /// Its value; null where it has none.
    pub(crate) value: Value,
    /// Where it comes from: `flag`, the name of a variable, the path of the file, or `default`.
    pub(crate) from: String,
}

/// Takes settings from the first source that has them: flag, environment, file, default.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    pub(super) file: Option<PathBuf>,
    pub(super) rows: Vec<Row>,
}

/// The sources of one setting before its default.
#[derive(Debug)]
pub(super) struct Sources<T> {
    pub(super) flag: Option<T>,
    /// The variable and what it says.
    pub(super) variable: Option<(&'static str, T)>,
    pub(super) file: Option<T>,
}

impl<T> Sources<T> {
    /// A setting that has no variable.
    pub(super) fn new(flag: Option<T>, file: Option<T>) -> Self {
        Self { flag, variable: None, file }
    }

    /// A setting that only the file has.
    pub(super) fn file(file: Option<T>) -> Self {
        Self::new(None, file)
    }

    /// Adds the variable `name`.
    pub(super) fn or_variable(mut self, name: &'static str, value: Option<T>) -> Self {
        self.variable = value.map(|value| (name, value));
        self
    }
}

impl Resolver {
    /// Settles a setting that has a default.
    pub(super) fn take<T: Shown>(
        &mut self,
        key: &'static str,
        sources: Sources<T>,
        default: T,
    ) -> T {
        let (value, from) = self.first(sources).unwrap_or_else(|| (default, "default".into()));
        self.rows.push(Row { key, value: value.shown(), from });
        value
    }

    /// Settles a setting that may be without a value, or whose default may be.
    pub(super) fn take_optional<T: Shown>(
        &mut self,
        key: &'static str,
        sources: Sources<T>,
        default: Option<T>,
    ) -> Option<T> {
        let (value, from) = match self.first(sources) {
            Some((value, from)) => (Some(value), from),
            None => (default, "default".into()),
        };
        let shown = value.as_ref().map_or(Value::Null, Shown::shown);
        self.rows.push(Row { key, value: shown, from });
        value
    }

    fn first<T>(&self, sources: Sources<T>) -> Option<(T, String)> {
        if let Some(value) = sources.flag {
            return Some((value, "flag".into()));
        }
        if let Some((name, value)) = sources.variable {
            return Some((value, name.into()));
        }
        let path = self.file.as_deref().unwrap_or(Path::new("file"));
        sources.file.map(|value| (value, path.display().to_string()))
    }
}

/// How a value is written in the file.
pub(super) trait Shown {
    fn shown(&self) -> Value;
}

macro_rules! shown {
    ($($kind:ty => |$value:ident| $shown:expr;)*) => {$(
        impl Shown for $kind {
            fn shown(&self) -> Value {
                let $value = self;
                Value::from($shown)
            }
        }
    )*};
}

shown! {
    String => |text| text.as_str();
    bool => |flag| *flag;
    u16 => |number| *number;
    u64 => |number| *number;
    f64 => |number| *number;
    super::Size => |size| exact_size(size.0);
    PathBuf => |path| path.to_string_lossy();
    Vec<PathBuf> => |paths| paths.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>();
    Vec<String> => |texts| texts.clone();
    Duration => |time| exact_duration(*time);
    LevelFilter => |level| level.to_string();
    dist_store::Sharing => |sharing| sharing.to_string();
    dist_core::Namespace => |name| name.as_str();
    crate::args::DurabilityArg => |durability| format!("{durability:?}").to_lowercase();
    crate::args::LogFormat => |format| format!("{format:?}").to_lowercase();
    super::Mode => |mode| format!("{:04o}", mode.0);
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Value {
        self.as_ref().map_or(Value::from(""), Shown::shown)
    }
}
