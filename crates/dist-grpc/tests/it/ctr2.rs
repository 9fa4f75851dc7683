//! A real 2.x `ctr`, which the environment variable `CTR2` named when the tests were built.

use std::ffi::OsStr;

use dist_testutil::{Image, Registry, run};

use crate::support::Served;

#[tokio::test(flavor = "multi_thread")]
async fn ctr_2_moves_images_through_transfers() {
    let (first, second) = (Registry::start(), Registry::start());
    let image = Image::random(1, &[300_000, 500]);
    image.push(&first, "team/app", "1");
    let served = Served::new("overlayfs");
    let socket = served.path("socket");
    let ctr = |arguments: &[&str]| {
        let address = ["--address".as_ref(), socket.as_os_str()];
        let all: Vec<&OsStr> =
            address.into_iter().chain(arguments.iter().map(OsStr::new)).collect();
        tokio::task::block_in_place(|| run(env!("CTR2"), &all))
    };
    let (name, copy) = (first.reference("team/app:1"), second.reference("copy:2"));
    ctr(&["images", "pull", &name]);
    assert!(ctr(&["images", "ls"]).contains(&image.digest()));
    served.engine.snapshotter().unwrap().stat(&image.chain_id().into()).unwrap();
    ctr(&["images", "tag", &name, &copy]);
    ctr(&["images", "push", &copy]);
    let archive = served.path("archive.tar");
    let archive = archive.to_str().unwrap();
    ctr(&["images", "export", archive, &name]);
    ctr(&["images", "rm", "--sync", &name, &copy]);
    assert!(served.engine.content().list().unwrap().is_empty());
    ctr(&["images", "import", archive]);
    assert!(ctr(&["images", "ls", "-q"]).lines().any(|line| line == name));
    ctr(&["images", "pull", &copy]);
}
