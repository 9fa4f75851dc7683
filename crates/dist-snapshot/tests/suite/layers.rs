//! Many layers.

use crate::support::{Bench, Detail, for_each_snapshotter, mkdir, tree, write};

for_each_snapshotter!(a_hundred_and_twenty_eight_layers);

fn a_hundred_and_twenty_eight_layers(bench: &Bench) {
    let flat = bench.dir.path().join("flat");
    mkdir(&flat, 0o755);
    let mut parent: Option<String> = None;
    for layer in 0..128 {
        let name = format!("layer {layer}");
        let change = |root: &std::path::Path| {
            write(&root.join("overwriteme"), &format!("{layer} WAS HERE!\n"));
            mkdir(&root.join("addhere"), 0o755);
            write(&root.join(format!("addhere/file-{layer}")), "same\n");
            if layer > 0 {
                std::fs::remove_dir_all(root.join("onlyme")).unwrap();
            }
            mkdir(&root.join("onlyme"), 0o755);
            write(&root.join(format!("onlyme/file-{layer}")), "only me!\n");
        };
        change(&flat);
        bench.layer(&name, parent.as_deref(), change);
        parent = Some(name);
    }
    let top = parent.unwrap();
    assert_eq!(bench.tree(&top, Detail::Content), tree(&flat, Detail::Content));
    let mounted = bench.mount(&bench.prepare("active", Some(&top)));
    assert_eq!(tree(&mounted.target, Detail::Content), tree(&flat, Detail::Content));
}
