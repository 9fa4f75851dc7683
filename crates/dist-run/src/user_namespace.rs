//! The user namespace of this process, where that is not the machine's own: which ids exist in it.

use std::ops::Range;

use dist_core::{Error, ErrorKind, Result};

use crate::User;

/// A user namespace in which not everything can be done that root can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    uids: Vec<Range<u64>>,
    gids: Vec<Range<u64>>,
}

impl UserNamespace {
    /// That of this process; `None` for the machine's own.
    #[must_use]
    pub fn current() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/uid_map"), &read("/proc/self/gid_map"))
    }

    /// Reads what `/proc/PID/uid_map` and `gid_map` say.
    pub(crate) fn parse(uid_map: &str, gid_map: &str) -> Option<Self> {
        let is_whole = |map: &str| {
            let words: Vec<_> = map.split_whitespace().collect();
            words.is_empty() || words == ["0", "0", "4294967295"]
        };
        (!is_whole(uid_map)).then(|| Self { uids: ranges(uid_map), gids: ranges(gid_map) })
    }

    /// Whether there is that user.
    #[must_use]
    pub fn has_user(&self, uid: u32) -> bool {
        self.uids.iter().any(|range| range.contains(&uid.into()))
    }

    /// Whether there is that group.
    #[must_use]
    pub fn has_group(&self, gid: u32) -> bool {
        self.gids.iter().any(|range| range.contains(&gid.into()))
    }
}

impl User {
    /// Makes sure that it is there in a user namespace.
    ///
    /// # Errors
    /// `FailedPrecondition`.
    pub fn check(&self, namespace: Option<&UserNamespace>) -> Result<()> {
        let Some(namespace) = namespace else { return Ok(()) };
        let is_missing = |gid: &u32| !namespace.has_group(*gid);
        let group = [self.gid].into_iter().chain(self.additional_gids.clone()).find(is_missing);
        let missing = match (namespace.has_user(self.uid), group) {
            (true, None) => return Ok(()),
            (true, Some(gid)) => format!("group {gid}"),
            (false, _) => format!("user {}", self.uid),
        };
        let message = format!(
            "run as {missing}: this user namespace has none; ranges in /etc/subuid and /etc/subgid, \
             and newuidmap, give it more ids"
        );
        Err(Error::new(ErrorKind::FailedPrecondition, message))
    }
}

fn ranges(map: &str) -> Vec<Range<u64>> {
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (words.next()?.ok()?, words.next()?, words.next()?.ok()?);
        Some(first..first.saturating_add(count))
    };
    map.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_there() {
        let machine = "         0          0 4294967295\n";
        assert_eq!(UserNamespace::parse(machine, machine), None);
        assert_eq!(UserNamespace::parse("", ""), None);
        let one = UserNamespace::parse("0 1000 1\n", "0 1000 1\n").unwrap();
        assert!(one.has_user(0) && one.has_group(0) && !one.has_user(1) && !one.has_group(5));
        let map = "         0       1000          1\n         1     100000      65535\n";
        let range = UserNamespace::parse(map, "0 7 1\n").unwrap();
        assert!(range.has_user(999) && range.has_user(65535) && !range.has_user(65536));
        assert!(!range.has_group(1));
        let user = |uid, gid, more: &[u32]| User { uid, gid, additional_gids: more.to_vec() };
        for (user, missing) in [
            (user(0, 0, &[]), None),
            (user(999, 0, &[0]), None),
            (user(999, 999, &[]), Some("group 999")),
            (user(0, 0, &[0, 4]), Some("group 4")),
            (user(70_000, 5, &[]), Some("user 70000")),
        ] {
            let checked = user.check(Some(&range));
            assert!(user.check(None).is_ok());
            match missing {
                None => checked.unwrap(),
                Some(part) => assert!(checked.unwrap_err().to_string().contains(part)),
            }
        }
    }
}
