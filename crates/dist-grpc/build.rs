//! Compiles `proto/` without `protoc`: messages, servers, clients, and the descriptors that server
//! reflection gives out.

use std::path::{Path, PathBuf};
use std::{env, error, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    // The tests with a real 2.x client are there where one is named.
    println!("cargo:rerun-if-env-changed=CTR2");
    println!("cargo:rustc-check-cfg=cfg(ctr2)");
    if env::var_os("CTR2").is_some() {
        println!("cargo:rustc-cfg=ctr2");
    }
    let mut files = Vec::new();
    for dir in ["proto/services", "proto/events", "proto/types"] {
        find(Path::new(dir), &mut files)?;
    }
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("there is no OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .bytes(".containerd.services.content.v1")
        .bytes(".containerd.types.transfer")
        .include_file("api.rs")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn error::Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
