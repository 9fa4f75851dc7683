//! An image in a file, mounted.
//!
//! Linux mounts EROFS from the file itself since 6.12, where it was built so. Else the file needs a
//! loop device, which mount(8) of util-linux sets up: it finds a free one while others do so too, and
//! the kernel takes it back with the last unmount, also where the one who mounted was killed. What
//! it would take to do that here is `ioctl`, which is unsafe code.

use std::path::Path;
use std::process::{Command, Stdio};

use dist_core::{Context as _, Error, ErrorKind, Mount, Result};
use rustix::io::Errno;

use super::attach::AttachError;

/// How a file becomes a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// As the kernel can.
    Any,
    /// By a loop device, whatever the kernel can.
    #[cfg(test)]
    Loop,
}

/// Mounts the image `file` of the file system `fstype` on `target`, read-only.
///
/// # Errors
/// As [`super::mount`]; `Unsupported` where a loop device is needed and there is no mount(8).
pub(crate) fn mount_image(fstype: &str, file: &Path, target: &Path, via: Via) -> Result<()> {
    if via != Via::Any {
        return by_loop(fstype, file, target);
    }
    let mount = Mount {
        fstype: fstype.into(),
        source: file.to_owned(),
        target: None,
        options: vec!["ro".into()],
    };
    match super::mount(&[mount], target) {
        Err(error) if needs_device(&error) => by_loop(fstype, file, target),
        result => result,
    }
}

fn needs_device(error: &Error) -> bool {
    error.find::<AttachError>().is_some_and(|error| error.errno() == Errno::NOTBLK)
}

fn by_loop(fstype: &str, file: &Path, target: &Path) -> Result<()> {
    let what = || format!("mount {fstype} on {} by a loop device", target.display());
    let output = Command::new("mount")
        .args(["-n", "-t", fstype, "-o", "ro,loop", "--"])
        .args([file, target])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("{}: util-linux' mount is needed for that", what());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        output => output.context(ErrorKind::Storage, what)?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = format!("{}: {}", what(), said.trim().escape_debug());
    Err(Error::new(ErrorKind::Storage, message))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use dist_core::Cancel;
    use dist_layer::{new_image_path, write_erofs_dir};

    use super::*;
    use crate::erofs::{Images, attach};
    use crate::layout::Layout as _;

    /// The images below a directory that loop devices have.
    fn attached(below: &Path) -> Vec<PathBuf> {
        let devices = std::fs::read_dir("/sys/block").unwrap();
        let files = devices.filter_map(|device| {
            let path = device.unwrap().path().join("loop/backing_file");
            std::fs::read_to_string(path).ok()
        });
        files
            .map(|file| PathBuf::from(file.trim_end()))
            .filter(|file| file.starts_with(below))
            .collect()
    }

    /// Waits until the kernel has taken back all devices: it does so behind the unmount.
    fn none_left(below: &Path) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !attached(below).is_empty() {
            assert!(std::time::Instant::now() < until, "attached: {:?}", attached(below));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_hundred_layers_by_loop_devices() {
        assert!(rustix::process::geteuid().is_root(), "mounting takes root");
        let temp = tempfile::tempdir().unwrap();
        let mut dirs = Vec::new();
        for layer in 0..100 {
            let dir = temp.path().join(format!("{layer}/fs"));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("file-{layer}")), vec![b'x'; layer * 100]).unwrap();
            std::fs::write(dir.join("all"), layer.to_string()).unwrap();
            write_erofs_dir(&dir, &Cancel::default()).unwrap();
            let mounted = attach(&dir, Via::Loop).unwrap();
            // There already, so nothing more is mounted.
            assert_eq!(attach(&dir, Via::Loop).unwrap(), mounted);
            dirs.push((dir, mounted));
        }
        assert_eq!(attached(temp.path()).len(), 100);
        let lower: Vec<String> =
            dirs.iter().rev().map(|(_, dir)| dir.display().to_string()).collect();
        let stack = Mount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            target: None,
            options: vec![format!("lowerdir={}", lower.join(":"))],
        };
        let target = temp.path().join("stack");
        std::fs::create_dir(&target).unwrap();
        super::super::mount(&[stack], &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("all")).unwrap(), "99");
        for layer in 0..100 {
            let file = std::fs::read(target.join(format!("file-{layer}"))).unwrap();
            assert_eq!(file, vec![b'x'; layer * 100]);
        }
        super::super::unmount(&target).unwrap();
        dirs.iter().for_each(|(dir, mounted)| {
            Images.detach(dir).unwrap();
            assert!(!mounted.exists());
        });
        none_left(temp.path());
    }

    #[test]
    fn what_is_no_image_leaves_no_device() {
        assert!(rustix::process::geteuid().is_root(), "mounting takes root");
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("1/fs");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(new_image_path(&dir), vec![0; 8192]).unwrap();
        let error = attach(&dir, Via::Loop).unwrap_err();
        assert!(error.to_string().contains("loop device"), "{error}");
        none_left(temp.path());
    }
}
