//! Unpacks one gzip layer file: `bench_layer FILE DIR`.
use dist_core::{Applier, Cancel, Compression, Descriptor, Digest, LayerForm, MediaType, Mount};
use dist_layer::{ApplyOptions, LayerApplier};
use std::fs::File;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let form = if args.get(3).is_some() {
        LayerForm::Merged
    } else {
        LayerForm::Stacked { user_xattr: false }
    };
    let kind = match args.get(4).map(String::as_str) {
        Some("tar") => Compression::None,
        Some("zstd") => Compression::Zstd,
        _ => Compression::Gzip,
    };
    let desc = Descriptor::new(MediaType::Layer(kind), Digest::sha256(b""), 0);
    std::fs::create_dir_all(&args[2]).unwrap();
    let mount = Mount {
        fstype: "bind".into(),
        source: args[2].clone().into(),
        target: None,
        options: vec![],
    };
    let t = std::time::Instant::now();
    let mut f = File::open(&args[1]).unwrap();
    let a = LayerApplier::new(ApplyOptions::new(form))
        .apply(&desc, &mut f, &[mount], &Cancel::default())
        .unwrap();
    println!(
        "{:?} {} bytes, {} implicit, {:?} {}",
        t.elapsed(),
        a.size,
        a.implicit_dirs.len(),
        a.warnings,
        a.diff_id
    );
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", s.lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
