//! 388 hostile or broken images, and a registry that misbehaves in every way.

use std::ffi::OsStr;

use dist_testutil::{scratch, timed};

use crate::support::{QUICK, project, script};

#[test]
fn every_hostile_image_is_refused_or_contained() {
    let _timed = timed("adversarial");
    let dir = scratch();
    let (corpus, canary) = (dir.path().join("corpus"), dir.path().join("work/canary"));
    let here = project().join("tests/adversarial");
    script(
        "python3",
        &[
            here.join("gen_adversarial.py").as_os_str(),
            corpus.as_os_str(),
            OsStr::new("--canary"),
            canary.as_os_str(),
        ],
    );
    let command = format!(
        "{} --root {{work}}/target/store unpack oci:{{layout}}:t {{target}}/r",
        env!("CARGO_BIN_EXE_dist")
    );
    let said = script(
        "python3",
        &[
            here.join("run_adversarial.py").as_os_str(),
            corpus.as_os_str(),
            OsStr::new("--cmd"),
            OsStr::new(&command),
            OsStr::new("--rootfs"),
            OsStr::new("{target}/r"),
            OsStr::new("--ops"),
            OsStr::new("read,unpack"),
        ],
    );
    assert!(said.contains("388 cases {'PASS': 388, 'WEAK': 0, 'FAIL': 0}"), "{said}");
}

#[test]
fn every_fault_of_a_registry_has_its_answer() {
    let _timed = timed("adversarial");
    let runner = project().join("tests/adversarial/run_bad_registry.py");
    let mut args: Vec<&OsStr> = vec![
        OsStr::new("--net"),
        OsStr::new("python3"),
        runner.as_os_str(),
        OsStr::new("--dist"),
        OsStr::new(env!("CARGO_BIN_EXE_dist")),
        OsStr::new("--"),
    ];
    args.extend(QUICK.iter().map(OsStr::new));
    let said = script("unshare", &args);
    assert!(said.contains(", 0 failed"), "{said}");
}
