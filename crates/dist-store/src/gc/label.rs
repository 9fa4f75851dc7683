//! What labels say to a collection, parsed once, when rows are read.
//!
//! ```text
//! containerd.io/gc.root*                                      keep this
//! containerd.io/gc.ref.content|image[.NAME|/NAME]             this needs the digest or name
//! containerd.io/gc.ref.snapshot.SNAPSHOTTER[/NAME]            this needs the snapshot key
//! containerd.io/gc.bref.content|image|snapshot…               what the value names needs this
//! containerd.io/gc.cond.snapshot.SNAPSHOTTER[/NAME]           usedat<72h,…|KEY: needs it as long
//! containerd.io/gc.cond.value-usedat                          when a snapshot was used
//! containerd.io/gc.expire                                     a lease or an image ends then
//! containerd.io/gc.flat                                       a lease keeps what it holds, no more
//! ```
//!
//! A label that can't be read says nothing, as in containerd: what it was meant to keep may go,
//! what it was meant to end stays.

use std::time::Duration;

use dist_core::Resource;
use jiff::Timestamp;

const PREFIX: &str = "containerd.io/gc.";

/// The smallest text that is greater than all that begin with [`PREFIX`], and [`PREFIX`].
pub(super) const RANGE: [&str; 2] = [PREFIX, "containerd.io/gc/"];

/// What one label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Keep this.
    Root,
    /// This needs that.
    Refers(Resource),
    /// That needs this.
    ReferredBy(Resource),
    /// This needs the snapshot as long as one of the conditions holds for it.
    Conditional(Resource, Vec<Condition>),
    /// When this was used, in nanoseconds since the epoch.
    UsedAt(i64),
    /// When this ends, in nanoseconds since the epoch.
    Expires(i64),
    /// This keeps what it holds, but nothing for what those refer to.
    Flat,
}

/// How long ago a snapshot was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// More recently than that.
    Within(Duration),
    /// Longer ago than that.
    Beyond(Duration),
}

impl Condition {
    /// Whether it holds at `now` for something that was used at `used_at`.
    pub(super) fn holds(self, used_at: i64, now: i64) -> bool {
        let since = i128::from(now) - i128::from(used_at);
        let nanoseconds = |limit: Duration| i128::try_from(limit.as_nanos()).unwrap_or(i128::MAX);
        match self {
            Self::Within(limit) => since < nanoseconds(limit),
            Self::Beyond(limit) => since > nanoseconds(limit),
        }
    }

    /// When the answer changes for something that was used at `used_at`.
    pub(super) fn turns_at(self, used_at: i64) -> i64 {
        let (Self::Within(limit) | Self::Beyond(limit)) = self;
        used_at.saturating_add(i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl Meaning {
    /// Reads a label; `None` for one that says nothing to a collection.
    pub(super) fn of(name: &str, value: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?;
        if let Some(kind) = rest.strip_prefix("ref.") {
            return resource(kind, value).map(Self::Refers);
        }
        if let Some(kind) = rest.strip_prefix("bref.") {
            return resource(kind, value).map(Self::ReferredBy);
        }
        match rest {
            "expire" => parse_time(value).map(Self::Expires),
            "flat" => Some(Self::Flat),
            "cond.value-usedat" => parse_time(value).map(Self::UsedAt),
            _ if rest.starts_with("root") && !value.is_empty() => Some(Self::Root),
            _ => conditional(rest.strip_prefix("cond.snapshot")?, value),
        }
    }
}

/// The resource that a label refers to, by the rest of the label's name and its value.
fn resource(kind: &str, value: &str) -> Option<Resource> {
    if let Some(name) = kind.strip_prefix("snapshot.") {
        return snapshot(name, value);
    }
    let of = |kind_name: &str| {
        kind.strip_prefix(kind_name)
            .is_some_and(|name| name.is_empty() || name.starts_with(['.', '/']))
    };
    if of("content") {
        return value.parse().ok().map(Resource::Content);
    }
    if of("image") {
        return value.parse().ok().map(Resource::Image);
    }
    None
}

/// The snapshot `key` of the snapshotter that `name` begins with.
fn snapshot(name: &str, key: &str) -> Option<Resource> {
    let snapshotter = name.split('/').next().filter(|name| !name.is_empty())?;
    Some(Resource::Snapshot { snapshotter: snapshotter.into(), key: key.parse().ok()? })
}

/// Reads `usedat<72h,usedat>1m|KEY`; conditions that can't be read never hold.
fn conditional(name: &str, value: &str) -> Option<Meaning> {
    let (conditions, key) = value.split_once('|')?;
    let snapshot = snapshot(name.trim_start_matches(['.', '/']), key)?;
    let conditions = conditions
        .split(',')
        .filter_map(|text| {
            let rest = text.strip_prefix("usedat")?;
            if let Some(limit) = rest.strip_prefix('<') {
                parse_duration(limit).map(Condition::Within)
            } else {
                parse_duration(rest.strip_prefix('>')?).map(Condition::Beyond)
            }
        })
        .collect();
    Some(Meaning::Conditional(snapshot, conditions))
}

/// Reads a time as in RFC 3339, as strictly as containerd does.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let zoned = text.ends_with('Z')
        || matches!(text.get(text.len().checked_sub(6)?..)?, zone
        if zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':');
    if text.as_bytes().get(10) != Some(&b'T') || !zoned {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    // Before 1678 and after 2262 are "long ago" and "never".
    let nanoseconds = time.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into());
    i64::try_from(nanoseconds).ok()
}

/// Reads a duration as Go writes it: `72h`, `1h30m`, `1.5s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let length = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(length);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = tail;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn meaning(name: &str, value: &str) -> Option<Meaning> {
        Meaning::of(&format!("containerd.io/gc.{name}"), value)
    }

    fn snapshot(snapshotter: &str, key: &str) -> Resource {
        Resource::Snapshot { snapshotter: snapshotter.into(), key: key.parse().unwrap() }
    }

    #[test]
    fn references() {
        let content = || Resource::Content(DIGEST.parse().unwrap());
        for name in ["content", "content.0", "content.m.12", "content.config", "content/x"] {
            assert_eq!(
                meaning(&format!("ref.{name}"), DIGEST),
                Some(Meaning::Refers(content())),
                "{name}"
            );
            assert_eq!(
                meaning(&format!("bref.{name}"), DIGEST),
                Some(Meaning::ReferredBy(content())),
                "{name}"
            );
        }
        let image = || Resource::Image("a:b".parse().unwrap());
        assert_eq!(meaning("ref.image", "a:b"), Some(Meaning::Refers(image())));
        assert_eq!(meaning("bref.image.x", "a:b"), Some(Meaning::ReferredBy(image())));
        for (name, snapshotter) in
            [("overlayfs", "overlayfs"), ("overlayfs/x", "overlayfs"), ("a.b", "a.b")]
        {
            assert_eq!(
                meaning(&format!("ref.snapshot.{name}"), "k/1"),
                Some(Meaning::Refers(snapshot(snapshotter, "k/1")))
            );
        }
    }

    #[test]
    fn what_says_nothing() {
        for (name, value) in [
            ("ref.content", "sha256:short"),
            ("ref.contents", DIGEST),
            ("ref.content-x", DIGEST),
            ("ref.snapshot", "k"),
            ("ref.snapshot.", "k"),
            ("ref.snapshot.overlayfs", ""),
            ("ref.image", ""),
            ("ref.lease", "x"),
            ("bref.container", "x"),
            ("root", ""),
            ("expire", "tomorrow"),
            ("expire", "2024-02-30T00:00:00Z"),
            ("cond.snapshot.overlayfs", "usedat<72h"),
            ("cond.value-usedat", "1"),
        ] {
            assert_eq!(meaning(name, value), None, "{name}={value}");
        }
        assert_eq!(Meaning::of("containerd.io/uncompressed", DIGEST), None);
        assert_eq!(Meaning::of("gc.root", "1"), None);
    }

    #[test]
    fn roots_and_ends() {
        for name in ["root", "root.x", "root/x"] {
            assert_eq!(meaning(name, "x"), Some(Meaning::Root));
        }
        assert_eq!(meaning("flat", "2024"), Some(Meaning::Flat));
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", Some(1_000_000_000)),
            ("1970-01-01T01:00:00.000000001+01:00", Some(1)),
            ("0001-01-01T00:00:00Z", Some(i64::MIN)),
            ("2300-01-01T00:00:00Z", Some(i64::MAX)),
            ("1970-01-01 00:00:01Z", None),
            ("1970-01-01T00:00:01", None),
            ("1970-01-01", None),
            ("", None),
            ("ÄÄÄÄÄ", None),
        ] {
            assert_eq!(meaning("expire", text), expected.map(Meaning::Expires), "{text}");
        }
    }

    #[test]
    fn conditions() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(
            meaning("cond.snapshot.overlayfs/x", "usedat<72h,usedat>1m30s,usedat=1h,size<3|k|1"),
            Some(Meaning::Conditional(
                snapshot("overlayfs", "k|1"),
                vec![Condition::Within(hours(72)), Condition::Beyond(Duration::from_secs(90))]
            ))
        );
        let day = 24 * 3600 * 1_000_000_000;
        for (condition, ago, holds) in [
            (Condition::Within(hours(24)), day - 1, true),
            (Condition::Within(hours(24)), day, false),
            (Condition::Beyond(hours(24)), day, false),
            (Condition::Beyond(hours(24)), day + 1, true),
        ] {
            assert_eq!(condition.holds(5, 5 + ago), holds, "{condition:?} {ago}");
            assert_eq!(condition.turns_at(5), 5 + day);
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("72h", Some(Duration::from_secs(72 * 3600))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("250ms", Some(Duration::from_millis(250))),
            ("", None),
            ("5", None),
            ("-1h", None),
            ("1d", None),
            ("h", None),
            ("1e9h", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
