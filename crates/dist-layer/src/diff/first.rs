//! Reads back the first entry of the tar that a comparison writes.

use std::io::{self, Write};

use super::archive::{BLOCK, NAME};
use crate::name::{join, split};

/// Takes the headers of a tar up to the first entry that is no directory on the way to the next
/// one, and nothing more.
#[derive(Default)]
pub(super) struct First {
    /// What was written since the last entry.
    headers: Vec<u8>,
    path: Option<Vec<u8>>,
    done: bool,
}

impl First {
    /// The path in the tree, or the start of a long one; `None` for a tar without entries.
    pub(super) fn path(&self) -> Option<&[u8]> {
        self.path.as_deref()
    }

    /// Takes an entry whose headers are whole.
    fn entry(&mut self, name: &[u8], is_dir: bool) {
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let inside = match self.path.as_deref() {
            None | Some(b".") => true,
            Some(dir) => name.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/")),
        };
        self.done = !(is_dir && inside);
        if inside && !name.is_empty() {
            // What is missing has a mark in place of its name.
            let (dir, base) = split(name);
            self.path = Some(join(dir, base.strip_prefix(b".wh.").unwrap_or(base)));
        }
        self.headers.clear();
    }
}

impl Write for First {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.done {
            return Err(io::Error::other("there is a difference"));
        }
        self.headers.extend_from_slice(bytes);
        let headers = std::mem::take(&mut self.headers);
        match whole(&headers) {
            Some((name, is_dir)) => self.entry(name, is_dir),
            None => self.headers = headers,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The name of the entry that these headers are of, and whether it is a directory's; `None` where
/// more of them is to come.
fn whole(headers: &[u8]) -> Option<(&[u8], bool)> {
    let flag = |header: &[u8]| header.get(156).copied();
    let short = |header| Some(until_nul(<[u8]>::get(header, ..NAME)?));
    if flag(headers.get(..BLOCK)?)? != b'x' {
        return Some((short(headers)?, flag(headers)? == b'5'));
    }
    let size = std::str::from_utf8(headers.get(124..135)?).ok()?;
    let size = usize::from_str_radix(size, 8).ok()?;
    let records = headers.get(BLOCK..BLOCK + size)?;
    let header = headers.get(BLOCK + size.next_multiple_of(BLOCK)..)?.get(..BLOCK)?;
    Some((path_record(records).or_else(|| short(header))?, flag(header)? == b'5'))
}

/// The value of the record `path` among those of an extended header: `LENGTH KEY=VALUE\n`.
fn path_record(mut records: &[u8]) -> Option<&[u8]> {
    while let Some(blank) = records.iter().position(|&byte| byte == b' ') {
        let length: usize = std::str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
        let record = records.get(blank + 1..length)?;
        if let Some(path) = record.strip_prefix(b"path=") {
            return path.strip_suffix(b"\n");
        }
        records = &records[length..];
    }
    None
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use dist_core::Cancel;

    use crate::first_difference;

    /// What differs after `change` was made to one of two equal trees.
    fn difference(change: impl Fn(&Path)) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let trees = [dir.path().join("one"), dir.path().join("other")];
        for tree in &trees {
            let deep = tree.join("a/b").join("d".repeat(120));
            std::fs::create_dir_all(&deep).unwrap();
            std::fs::create_dir(tree.join("c")).unwrap();
            // A time that no plain header holds; equal in both trees, those of directories too.
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(5, 7);
            for file in [deep.join("file"), tree.join("a/b/file"), tree.join("c/file")] {
                std::fs::write(&file, b"x").unwrap();
                let file = std::fs::File::options().write(true).open(&file).unwrap();
                file.set_modified(time).unwrap();
            }
            for dir in [deep, tree.join("a/b"), tree.join("a"), tree.join("c")] {
                std::fs::File::open(dir).unwrap().set_modified(time).unwrap();
            }
        }
        change(&trees[1]);
        first_difference(&trees[0], &trees[1], &Cancel::default()).unwrap()
    }

    #[test]
    fn a_difference_is_told_by_its_path_in_the_tree() {
        let long = format!("a/b/{}/file", "d".repeat(120));
        type Change<'a> = &'a dyn Fn(&Path);
        let changes: [(Option<&str>, Change<'_>); 7] = [
            (None, &|_| ()),
            (Some("a/b/file"), &|tree| std::fs::write(tree.join("a/b/file"), b"y").unwrap()),
            (Some("c/file"), &|tree| std::fs::remove_file(tree.join("c/file")).unwrap()),
            (Some("c/link"), &|tree| symlink("file", tree.join("c/link")).unwrap()),
            (Some("c/empty"), &|tree| std::fs::create_dir(tree.join("c/empty")).unwrap()),
            (Some(&long), &|tree| std::fs::write(tree.join(&long), b"y").unwrap()),
            (Some("c"), &|tree| {
                std::fs::set_permissions(tree.join("c"), PermissionsExt::from_mode(0o711)).unwrap();
            }),
        ];
        for (path, change) in changes {
            let quoted = path.map(|path| format!("{path:?}"));
            assert_eq!(difference(change), quoted, "{path:?}");
        }
    }
}
