//! Sizes, durations and ages: as people write them and as people read them.

use std::time::Duration;

/// Reads a size in bytes: `4096`, `8MiB`, `64GiB`, `1.5GB`.
///
/// `k`, `M`, `G`, `T` with `B` or without are powers of 1000, with `iB` powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let fault = || format!("{text:?} is no size; write for instance 512KiB, 8MiB or 64GiB");
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000_u64.pow(2),
        "g" | "gb" => 1000_u64.pow(3),
        "t" | "tb" => 1000_u64.pow(4),
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return Err(fault()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') {
        return Err(fault());
    }
    let whole: u64 = whole.parse().map_err(|_| fault())?;
    let bytes = whole.checked_mul(factor).ok_or_else(fault)?;
    if fraction.is_empty() {
        return Ok(bytes);
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| fault())?);
    let part: u128 = fraction.parse().map_err(|_| fault())?;
    let part = u64::try_from(part * u128::from(factor) / scale).map_err(|_| fault())?;
    bytes.checked_add(part).ok_or_else(fault)
}

/// Reads a size of memory as docker and podman do: `512m` and `512MB` are 512 MiB, too.
pub(crate) fn parse_memory(text: &str) -> Result<u64, String> {
    let bare = text.strip_suffix(['b', 'B']).unwrap_or(text);
    match bare.ends_with(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']) {
        true => parse_size(&format!("{bare}i"))
            .map_err(|_| format!("{text:?} is no size of memory; write for instance 512m or 2g")),
        false => parse_size(text),
    }
}

/// Reads a duration: `500ms`, `30s`, `2m`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is no duration; write for instance 500ms, 30s or 2m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration: jiff::SignedDuration = text.parse().map_err(|_| fault())?;
    Duration::try_from(duration).map_err(|_| fault())
}

/// Reads a duration that is not 0: in no time nothing comes.
pub(crate) fn parse_some_time(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.is_zero() { Err("it has to be more than 0".into()) } else { Ok(duration) }
}

/// Reads how long something may take: a duration, or a number of seconds.
pub(crate) fn parse_patience(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if !text.starts_with('+') => Ok(Duration::from_secs(seconds)),
        _ => parse_duration(text),
    }
}

/// Prints a size in binary units: `512 B`, `1.5 KiB`, `113.2 MiB`.
#[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.95 and more would print as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} {}", UNITS[0]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Writes a size as [`parse_size`] reads it, to the byte: `8MiB`, `4097`.
pub(crate) fn exact_size(bytes: u64) -> String {
    let units = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1_u64 << 10)];
    match units.into_iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Writes a duration as [`parse_duration`] reads it, to the nanosecond: `10s`, `1h30m`, `0s`.
pub(crate) fn exact_duration(time: Duration) -> String {
    let (seconds, nanoseconds) = (time.as_secs(), u64::from(time.subsec_nanos()));
    let text: String = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (nanoseconds / 1_000_000, "ms"),
        (nanoseconds / 1000 % 1000, "us"),
        (nanoseconds % 1000, "ns"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, unit)| format!("{count}{unit}"))
    .collect();
    if text.is_empty() { "0s".into() } else { text }
}

/// Prints how long ago something was, in the largest unit that fits: `3 minutes`.
pub(crate) fn age(since: Duration) -> String {
    let seconds = since.as_secs();
    let (count, unit) = match seconds {
        0 => return "now".into(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// The time between `nanoseconds` since the epoch and now; zero where that is in the future.
pub(crate) fn since(nanoseconds: i64) -> Duration {
    between(nanoseconds, now())
}

/// The time between two times in nanoseconds since the epoch; zero where the first is later.
pub(crate) fn between(from: i64, to: i64) -> Duration {
    let nanoseconds = i128::from(to) - i128::from(from);
    u64::try_from(nanoseconds).map_or(Duration::ZERO, Duration::from_nanos)
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Prints nanoseconds since the epoch as RFC 3339 in UTC.
pub(crate) fn rfc3339(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_or_else(|_| nanoseconds.to_string(), |time| time.to_string())
}

/// Prints a duration of seconds to minutes: `0.4s`, `12.0s`, `3m05s`, `1h02m`.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("8MiB", 8 << 20),
            ("64GiB", 64 << 30),
            ("64gib", 64 << 30),
            ("1k", 1000),
            ("1.5GB", 1_500_000_000),
            ("0.5KiB", 512),
            ("2 MB", 2_000_000),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in
            ["", "MiB", "-1", "1x", "1.", ".5", "1.2.3", "99999999999999999999", "16777216TiB"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_in_powers_of_1024() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("1.5GB", 3 << 29),
            ("64MiB", 64 << 20),
            ("4096", 4096),
            ("4096b", 4096),
        ] {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for bad in ["m", "1x", "1ib"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patience_is_in_seconds() {
        for (text, milliseconds) in [("3", 3000), ("0", 0), ("1m", 60_000), ("500ms", 500)] {
            assert_eq!(parse_patience(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "-1", "+1", "1.5", "x"] {
            assert!(parse_patience(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in
            [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h30m", 5_400_000), ("0", 0)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
        }
        for bad in ["", "30", "-3s", "s", "3 parsecs"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn printed_sizes() {
        assert_eq!(binary_size(0), "0 B");
        assert_eq!(binary_size(1023), "1023 B");
        assert_eq!(binary_size(1536), "1.5 KiB");
        assert_eq!(binary_size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(binary_size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn exact_ones() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (1024, "1KiB"),
            (8 << 20, "8MiB"),
            ((8 << 20) + 1, "8388609"),
        ] {
            assert_eq!(exact_size(bytes), text);
        }
        for (milliseconds, text) in [
            (0, "0s"),
            (200, "200ms"),
            (10_000, "10s"),
            (90_500, "1m30s500ms"),
            (5_400_000, "1h30m"),
        ] {
            assert_eq!(exact_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "now"),
            (1, "1 second"),
            (59, "59 seconds"),
            (119, "1 minute"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (63_072_000, "2 years"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn clocks() {
        assert_eq!(clock(Duration::from_millis(440)), "0.4s");
        assert_eq!(clock(Duration::from_secs(185)), "3m05s");
        assert_eq!(clock(Duration::from_secs(3725)), "1h02m");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,24}") {
            drop(parse_size(&text));
            drop(parse_duration(&text));
        }

        #[test]
        fn what_is_written_is_read(bytes: u64, seconds in 0_u64..1 << 32, nanoseconds in 0_u32..1_000_000_000) {
            prop_assert_eq!(parse_size(&exact_size(bytes)), Ok(bytes));
            let time = Duration::new(seconds, nanoseconds);
            prop_assert_eq!(parse_duration(&exact_duration(time)), Ok(time));
        }

        #[test]
        fn whole_sizes(count in 0_u64..1 << 20) {
            prop_assert_eq!(parse_size(&format!("{count}MiB")).unwrap(), count << 20);
        }
    }
}
