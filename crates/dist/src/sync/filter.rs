//! Which tags of a repository are wanted.
//!
//! A tag is a version where it is one to three numbers, perhaps behind a `v`, and what follows `-`
//! as in semantic versions: `7`, `v7.2`, `7.2.4-rc1`. Numbers that are left out count as 0.

use std::cmp::Reverse;

use dist_core::{Context as _, Error, ErrorKind, Result};
use regex_lite::Regex;
use semver::{BuildMetadata, Prerelease, Version, VersionReq};

/// What a person says of tags. All that is said must be so.
#[derive(Clone, Debug, Default)]
pub struct TagRules {
    /// Names, and patterns with `*` and `?`: any of them.
    pub tags: Vec<String>,
    /// Names and patterns that are left out.
    pub exclude: Vec<String>,
    /// What the whole tag must match.
    pub regex: Option<String>,
    /// A range of versions, as in `>=7.0, <8`.
    pub semver: Option<String>,
    /// How tags end behind their version, as in `-alpine`; others are no versions.
    pub suffix: Option<String>,
    /// Whether versions such as `7.2.0-rc1` count.
    pub prereleases: bool,
    /// How many are taken at most: those with the highest versions.
    pub newest: Option<usize>,
}

/// [`TagRules`], read.
#[derive(Clone, Debug)]
pub struct TagFilter {
    tags: Vec<String>,
    exclude: Vec<String>,
    regex: Option<Regex>,
    semver: Option<VersionReq>,
    suffix: String,
    prereleases: bool,
    newest: Option<usize>,
}

impl TagFilter {
    /// Reads the rules.
    ///
    /// # Errors
    /// `InvalidArgument` for a pattern, an expression or a range that is none.
    pub fn new(rules: TagRules) -> Result<Self> {
        for pattern in rules.tags.iter().chain(&rules.exclude) {
            let known = |c: char| c.is_ascii_alphanumeric() || "_.-*?".contains(c);
            if pattern.is_empty() || !pattern.chars().all(known) {
                let message =
                    format!("read tag {pattern:?}: it is no tag, with * and ? or without");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        let regex = |text: &String| {
            Regex::new(&format!("^(?:{text})$"))
                .context(ErrorKind::InvalidArgument, || format!("read expression {text:?}"))
        };
        let range = |text: &String| {
            VersionReq::parse(text)
                .context(ErrorKind::InvalidArgument, || format!("read range of versions {text:?}"))
        };
        Ok(Self {
            regex: rules.regex.as_ref().map(regex).transpose()?,
            semver: rules.semver.as_ref().map(range).transpose()?,
            tags: rules.tags,
            exclude: rules.exclude,
            suffix: rules.suffix.unwrap_or_default(),
            prereleases: rules.prereleases,
            newest: rules.newest,
        })
    }

    /// The tags where nobody has to be asked which there are.
    pub(super) fn exact(&self) -> Option<Vec<String>> {
        let plain = |tag: &String| !tag.contains(['*', '?']);
        let exact = !self.tags.is_empty()
            && self.tags.iter().all(plain)
            && self.regex.is_none()
            && !self.wants_versions();
        exact.then(|| self.choose(self.tags.clone()))
    }

    /// What is wanted of the tags that there are, in their order, each once.
    pub(super) fn choose(&self, there: Vec<String>) -> Vec<String> {
        let mut wanted: Vec<(String, Option<Version>)> = Vec::new();
        for tag in there {
            let version = self.version(&tag);
            let known = wanted.iter().any(|(other, _)| *other == tag);
            if !known && self.takes(&tag, version.as_ref()) {
                wanted.push((tag, version));
            }
        }
        if let Some(newest) = self.newest {
            wanted.sort_by_key(|(_, version)| Reverse(version.clone()));
            wanted.truncate(newest);
        }
        wanted.into_iter().map(|(tag, _)| tag).collect()
    }

    fn takes(&self, tag: &str, version: Option<&Version>) -> bool {
        let any = |patterns: &[String]| {
            patterns.iter().any(|pattern| matches(pattern.as_bytes(), tag.as_bytes()))
        };
        (self.tags.is_empty() || any(&self.tags))
            && !any(&self.exclude)
            && self.regex.as_ref().is_none_or(|regex| regex.is_match(tag))
            && (!self.wants_versions() || version.is_some_and(|version| self.in_range(version)))
    }

    fn wants_versions(&self) -> bool {
        self.semver.is_some() || self.newest.is_some() || !self.suffix.is_empty()
    }

    fn in_range(&self, version: &Version) -> bool {
        let release = Version::new(version.major, version.minor, version.patch);
        let in_range = |version| self.semver.as_ref().is_none_or(|range| range.matches(version));
        match version.pre.is_empty() {
            true => in_range(version),
            false => self.prereleases && (in_range(version) || in_range(&release)),
        }
    }

    fn version(&self, tag: &str) -> Option<Version> {
        let text = tag.strip_suffix(&self.suffix)?;
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (numbers, pre) = text.split_at(end);
        let numbers: Vec<u64> =
            numbers.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let number = |at| numbers.get(at).copied().unwrap_or(0);
        let pre = pre.strip_prefix('-').unwrap_or(pre);
        let build = BuildMetadata::EMPTY;
        let pre = Prerelease::new(pre).ok()?;
        (numbers.len() <= 3).then(|| Version {
            pre,
            build,
            ..Version::new(number(0), number(1), number(2))
        })
    }
}

/// Whether a text is what a pattern with `*` and `?` says.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where the last `*` was, and how much it stands for so far.
    let mut star = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(c) if *c == b'?' || *c == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => match star {
                None => return false,
                Some((before, taken)) => {
                    star = Some((before, taken + 1));
                    (at, seen) = (before + 1, taken + 1);
                }
            },
        }
    }
    pattern[at..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: &[&str] = &[
        "latest",
        "7",
        "7.2",
        "7.2.4",
        "7.10.0",
        "v7.3.1",
        "8.0.0",
        "8.0.0-rc1",
        "7.2.4-alpine",
        "7.10.0-alpine",
        "6.0.1",
        "20240101",
        "1.2.3.4",
        "nightly-7.2",
    ];

    fn choose(rules: TagRules) -> Vec<String> {
        let filter = TagFilter::new(rules).unwrap();
        filter.choose(TAGS.iter().map(ToString::to_string).collect())
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_choose() {
        let none = TagRules::default;
        let some = |text: &str| Some(text.to_owned());
        for (rules, expected) in [
            (none(), TAGS),
            (
                TagRules { tags: texts(&["7.2*", "latest"]), ..none() },
                &["latest", "7.2", "7.2.4", "7.2.4-alpine"],
            ),
            (
                TagRules { tags: texts(&["7.2*"]), exclude: texts(&["*-alpine"]), ..none() },
                &["7.2", "7.2.4"],
            ),
            (TagRules { tags: texts(&["?"]), ..none() }, &["7"]),
            (TagRules { regex: some("7|8"), ..none() }, &["7"]),
            (
                TagRules { regex: some(r"\d+\.\d+\.\d+"), semver: some(">=7.2.4, <8"), ..none() },
                &["7.2.4", "7.10.0"],
            ),
            (TagRules { semver: some("^7.2"), ..none() }, &["7.2", "7.2.4", "7.10.0", "v7.3.1"]),
            (TagRules { semver: some("8"), prereleases: true, ..none() }, &["8.0.0", "8.0.0-rc1"]),
            (TagRules { semver: some("7.*"), newest: Some(2), ..none() }, &["7.10.0", "v7.3.1"]),
            (TagRules { suffix: some("-alpine"), newest: Some(1), ..none() }, &["7.10.0-alpine"]),
            (TagRules { newest: Some(2), ..none() }, &["20240101", "8.0.0"]),
            (TagRules { newest: Some(0), ..none() }, &[]),
        ] {
            assert_eq!(choose(rules.clone()), expected, "{rules:?}");
        }
    }

    #[test]
    fn names_alone_need_no_list() {
        let filter = |rules| TagFilter::new(rules).unwrap();
        let rules = TagRules { tags: texts(&["1", "2", "1"]), ..TagRules::default() };
        assert_eq!(filter(rules.clone()).exact(), Some(texts(&["1", "2"])));
        assert_eq!(filter(TagRules { newest: Some(1), ..rules.clone() }).exact(), None);
        assert_eq!(filter(TagRules { tags: texts(&["1*"]), ..rules }).exact(), None);
        assert_eq!(filter(TagRules::default()).exact(), None);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let bad = |text: &str| Some(text.to_owned());
        for rules in [
            TagRules { tags: texts(&["a/b"]), ..TagRules::default() },
            TagRules { exclude: texts(&[""]), ..TagRules::default() },
            TagRules { regex: bad("("), ..TagRules::default() },
            TagRules { semver: bad("newer"), ..TagRules::default() },
        ] {
            let error = TagFilter::new(rules).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("?", "", false),
            ("a", "aa", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
