//! Small filesystems to fill and mount points to undo.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::process::{Scratch, run, scratch};

/// Something mounted at a path, unmounted on drop.
#[derive(Debug)]
pub struct Bound {
    target: PathBuf,
}

impl Bound {
    /// Runs the mount commands that `dist` printed; the last one's target is `target`.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn by_commands(commands: &str, target: &Path) -> Self {
        run("sh", &["-ec", commands].map(OsStr::new));
        Self { target: target.to_owned() }
    }

    /// Takes charge of what is mounted at `target`.
    pub fn adopt(target: &Path) -> Self {
        Self { target: target.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.target
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.target).status();
    }
}

/// A filesystem of its own, of a given size.
#[derive(Debug)]
pub struct Filesystem {
    mounted: Bound,
    _dir: Scratch,
}

impl Filesystem {
    fn mount(args: &[&OsStr], dir: Scratch) -> Self {
        let target = dir.path().join("mnt");
        let mut all = args.to_vec();
        all.push(target.as_os_str());
        run("mount", &all);
        Self { mounted: Bound { target }, _dir: dir }
    }

    /// A journaled ext4 of `mib` MiB on a loop device, which goes with the mount.
    ///
    /// # Panics
    /// Without root or loop devices.
    pub fn ext4(mib: u64) -> Self {
        let dir = scratch();
        let image = dir.path().join("image");
        let file = fs_err::File::create(&image).expect("create the image");
        file.set_len(mib << 20).expect("size the image");
        fs_err::create_dir(dir.path().join("mnt")).expect("make the mount point");
        run("mkfs.ext4", &[OsStr::new("-q"), OsStr::new("-F"), image.as_os_str()]);
        Self::mount(&[OsStr::new("-o"), OsStr::new("loop"), image.as_os_str()], dir)
    }

    /// A tmpfs with options such as `size=16m,nr_inodes=64`.
    ///
    /// # Panics
    /// Without root.
    pub fn tmpfs(options: &str) -> Self {
        let dir = scratch();
        fs_err::create_dir(dir.path().join("mnt")).expect("make the mount point");
        Self::mount(&["-t", "tmpfs", "-o", options, "tmpfs"].map(OsStr::new), dir)
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }
}
