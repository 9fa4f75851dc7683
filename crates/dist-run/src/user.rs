//! `Config.User` to numbers (OCI image-spec, conversion.md), with passwd(5) and group(5) as text.

use std::str::FromStr;

use dist_core::{Error, ErrorKind, Result};

use crate::User;

/// `user[:group]`, each a name or a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpec {
    user: String,
    group: Option<String>,
}

impl FromStr for UserSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group.to_owned())),
            None => (text, None),
        };
        let bad =
            user.is_empty() || group.as_ref().is_some_and(|g| g.is_empty() || g.contains(':'));
        if bad || text.chars().any(char::is_control) {
            let message = format!("read user {text:?}: it is no USER[:GROUP]");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { user: user.to_owned(), group })
    }
}

/// A line of passwd(5).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// A line of group(5).
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Finds out who `spec` is, from the text of the image's passwd and group; where there is no `spec`
/// it is root.
///
/// Numbers are taken as they are. A number without a group has the group of its account, if it has
/// one, else 0. Only a name without a group has further groups.
///
/// # Errors
/// `FailedPrecondition` for a name that neither file has.
pub fn resolve_user(spec: Option<&UserSpec>, passwd: &str, groups: &str) -> Result<User> {
    let Some(spec) = spec else { return Ok(User::default()) };
    let number = spec.user.parse::<u32>().ok();
    let account = passwd
        .lines()
        .filter_map(account)
        .find(|account| number.map_or(account.name == spec.user, |uid| account.uid == uid));
    let uid = match (number, &account) {
        (Some(uid), _) => uid,
        (None, Some(account)) => account.uid,
        (None, None) => return Err(unknown("user", &spec.user, "/etc/passwd")),
    };
    if let Some(name) = &spec.group {
        let gid = match name.parse() {
            Ok(gid) => gid,
            Err(_) => groups
                .lines()
                .filter_map(group)
                .find(|group| group.name == name)
                .map(|group| group.gid)
                .ok_or_else(|| unknown("group", name, "/etc/group"))?,
        };
        return Ok(User { uid, gid, additional_gids: Vec::new() });
    }
    let gid = account.as_ref().map_or(0, |account| account.gid);
    let mut additional_gids = Vec::new();
    if number.is_none() {
        // With its own group among them no file can shut out by group whom it lets in by user.
        additional_gids.push(gid);
        for group in groups.lines().filter_map(group) {
            let is_in = group.members.split(',').any(|member| member.trim() == spec.user);
            if is_in && !additional_gids.contains(&group.gid) {
                additional_gids.push(group.gid);
            }
        }
    }
    Ok(User { uid, gid, additional_gids })
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    let message = format!("find {what} {name:?}: the image has none in its {file}");
    Error::new(ErrorKind::FailedPrecondition, message)
}

fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

fn group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Group { name, gid: gid.parse().ok()?, members: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\n# comment\nbad:x:y:1::\n\
                          redis:x:100:101::/var/lib/redis:/bin/false\n7:x:8:9::/:\n";
    const GROUP: &str =
        "root:x:0:\nadm:x:4:syslog,redis\nredis:x:101:\ntape:x:26: redis \nother:x:27:redis2\n";

    fn of(spec: &str) -> (u32, u32, Vec<u32>) {
        let user = resolve_user(Some(&spec.parse().unwrap()), PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(of("redis"), (100, 101, vec![101, 4, 26]));
        assert_eq!(of("redis:adm"), (100, 4, vec![]));
        assert_eq!(of("redis:5000"), (100, 5000, vec![]));
        assert_eq!(of("100"), (100, 101, vec![]));
        assert_eq!(of("5000"), (5000, 0, vec![]));
        assert_eq!(of("5000:adm"), (5000, 4, vec![]));
        assert_eq!(of("5000:5001"), (5000, 5001, vec![]));
        assert_eq!(of("7"), (7, 0, vec![]), "a number is never a name");
        assert_eq!(resolve_user(None, PASSWD, GROUP).unwrap(), User::default());
    }

    #[test]
    fn who_is_not_in_the_image() {
        for spec in ["nobody", "redis:nogroup", "bad", "-1", "4294967296"] {
            let error = resolve_user(Some(&spec.parse().unwrap()), PASSWD, GROUP).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{spec}");
        }
        for spec in ["", ":", "a:", ":b", "a:b:c", "a\n"] {
            assert!(spec.parse::<UserSpec>().is_err(), "{spec:?}");
        }
    }
}
