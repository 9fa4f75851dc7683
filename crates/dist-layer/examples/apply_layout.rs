//! Unpacks an OCI layout into a directory: `apply_layout LAYOUT DIR [stacked]`.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use dist_core::{
    Applier, Cancel, Descriptor, Document, Hasher, ImageConfig, LayerForm, MediaType, Mount,
};
use dist_layer::{ApplyOptions, LayerApplier};

struct Hashed<R>(R, Option<Hasher>, u64);
impl<R: std::io::Read> std::io::Read for Hashed<R> {
    fn read(&mut self, b: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(b)?;
        self.1.as_mut().unwrap().update(&b[..n]);
        self.2 += n as u64;
        Ok(n)
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let layout = Path::new(&args[1]);
    let target = Path::new(&args[2]);
    std::fs::create_dir_all(target)?;
    let blob = |desc: &Descriptor| {
        layout.join("blobs").join(desc.digest.algorithm()).join(desc.digest.hex())
    };
    let index = std::fs::read(layout.join("index.json"))?;
    let Document::Index(index) = Document::parse(&MediaType::Index, &index)? else {
        return Err("no index".into());
    };
    let desc = &index.manifests[0];
    let Document::Manifest(manifest) =
        Document::parse(&desc.media_type, &std::fs::read(blob(desc))?)?
    else {
        return Err("no manifest".into());
    };
    let config = ImageConfig::parse(&std::fs::read(blob(&manifest.config))?)?;
    if config.diff_ids.len() != manifest.layers.len() {
        return Err("diff ids".into());
    }
    let stacked = args.get(3).is_some();
    let form = if stacked { LayerForm::Stacked { user_xattr: false } } else { LayerForm::Merged };
    let applier = LayerApplier::new(ApplyOptions::new(form));
    for (at, (layer, diff_id)) in manifest.layers.iter().zip(&config.diff_ids).enumerate() {
        let target = if stacked { target.join(at.to_string()) } else { target.to_owned() };
        std::fs::create_dir_all(&target)?;
        let mount = Mount {
            fstype: "bind".into(),
            source: target.clone(),
            target: None,
            options: vec!["rw".into()],
        };
        let mut input = Hashed(File::open(blob(layer))?, Some(layer.digest.hasher()), 0);
        let applied = applier.apply(layer, &mut input, &[mount], &Cancel::default())?;
        let digest = input.1.take().unwrap().finish();
        if digest != layer.digest || input.2 != layer.size {
            return Err("blob digest".into());
        }
        if applied.diff_id != *diff_id {
            return Err("diff id".into());
        }
        for w in applied.warnings {
            eprintln!("warning: {} ({}, first {})", w.what, w.count, w.first)
        }
        if stacked && at > 0 {
            let parents: Vec<_> =
                (0..at).rev().map(|at| Path::new(&args[2]).join(at.to_string())).collect();
            dist_layer::inherit_dirs(&target, &parents, &applied.implicit_dirs)?;
        }
    }
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        eprint!("error: {error}");
        let mut next = error.source();
        while let Some(e) = next {
            eprint!(": {e}");
            next = e.source();
        }
        eprintln!();
        std::process::exit(1);
    }
}
