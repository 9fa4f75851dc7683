//! Filters: which objects of a listing are wanted.
//!
//! The grammar and its meaning are containerd's, so that every client's filters work:
//!
//! ```text
//! selectors := selector ("," selector)*
//! selector  := field ("." field)* [operator value]
//! field     := quoted | [A-Za-z0-9_]+
//! operator  := "==" | "!=" | "~="
//! value     := quoted | [^\s,]+
//! quoted    := a Go string in "", and behind ~= also between // or ||
//! ```
//!
//! A comma means *and*, several filters mean *or*, and no filter as well as an empty one match
//! everything. A field alone asks whether it is there. `!=` is true for a field that is absent.

mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use regex_lite::{Regex, RegexBuilder};

use crate::{Context, ErrorKind, Result};

/// What a filter can ask an object for.
pub trait Fields {
    /// Returns the field at `path`, `None` where there is none. `path` has at least one element.
    ///
    /// Keys of a map are a path joined with dots: see [`label`].
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// Finds the label that the rest of a path names: `labels.a.b` is the label `a.b`.
#[must_use]
pub fn label<'a>(labels: &'a crate::Labels, path: &[&str]) -> Option<Cow<'a, str>> {
    labels.get(&path.join(".")).map(|value| Cow::Borrowed(value.as_str()))
}

/// Why a text is no filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (at byte {at})")]
pub struct FilterError {
    /// The offset in bytes of what is wrong.
    pub at: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// A list of filters of which any may match.
///
/// ```
/// use std::borrow::Cow;
/// use dist_core::{Fields, Filter};
///
/// struct Named(&'static str);
/// impl Fields for Named {
///     fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
///         (path == ["name"]).then(|| self.0.into())
///     }
/// }
/// let filter = Filter::parse(&["name==redis".to_owned(), "name~=/^my/".to_owned()])?;
/// assert!(filter.matches(&Named("redis")) && filter.matches(&Named("mysql")));
/// assert!(!filter.matches(&Named("nginx")));
/// # Ok::<(), dist_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these, of which each wants all of its selectors; empty matches everything.
    any: Vec<Vec<Selector>>,
}

impl Filter {
    /// Reads filters of which any may match.
    ///
    /// A regular expression that is none is no error: it matches nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that is no filter; its cause is a [`FilterError`].
    pub fn parse(texts: &[String]) -> Result<Self> {
        let mut any = Vec::with_capacity(texts.len());
        for text in texts {
            let selectors = parse::selectors(text)
                .context(ErrorKind::InvalidArgument, || format!("read filter {text:?}"))?;
            any.push(selectors);
        }
        Ok(Self { any })
    }

    /// Whether an object is wanted.
    #[must_use]
    pub fn matches(&self, fields: &dyn Fields) -> bool {
        self.any.is_empty()
            || self.any.iter().any(|all| all.iter().all(|selector| selector.matches(fields)))
    }
}

/// One condition.
#[derive(Clone, Debug)]
struct Selector {
    /// `None` where escapes spell something that is not UTF-8 and therefore names no field.
    path: Option<Vec<String>>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    /// Bytes, because escapes can spell what is not UTF-8 and equals nothing.
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    /// `None` where it is no regular expression.
    Matches(Option<Regex>),
}

impl Test {
    /// Compiles a regular expression: what is not one, or too large a one, matches nothing.
    fn regex(text: &[u8]) -> Self {
        const LIMIT: usize = 1 << 20;
        let compile = |text| RegexBuilder::new(text).size_limit(LIMIT).build().ok();
        Self::Matches(std::str::from_utf8(text).ok().and_then(compile))
    }
}

impl Selector {
    fn matches(&self, fields: &dyn Fields) -> bool {
        let value = self.path.as_ref().and_then(|path| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            fields.field(&path)
        });
        // What is absent is compared as if it were empty, but never equal.
        let text = value.as_deref().unwrap_or_default();
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some() && text.as_bytes() == wanted,
            Test::NotEqual(unwanted) => text.as_bytes() != unwanted,
            Test::Matches(regex) => regex.as_ref().is_some_and(|regex| regex.is_match(text)),
        }
    }
}
