//! The backend socket: what a containerd that keeps its data here counts on.

use tonic::Code;

use crate::snapshots::{Client, fails};
use crate::support::{Served, refused};

#[tokio::test]
async fn a_backend_needs_no_namespace_and_takes_every_snapshotter_name() {
    let served = Served::new("overlayfs");
    let (one, two) = (Client::raw(&served, "one"), Client::raw(&served, "a name/with a slash"));
    let key = "default/3/extract-1 sha256:aa";
    one.layer("default/1/sha256:aa", "").await;
    one.prepare(key, "default/1/sha256:aa", &[]).await.unwrap();
    let [mount] = &one.mounts(key).await.unwrap()[..] else { panic!() };
    assert_eq!(mount.r#type, "overlay");
    assert_eq!(one.list(&[]).await.unwrap().0, ["default/1/sha256:aa", key]);
    // Each name is a key space of its own.
    fails(two.stat(key).await, Code::NotFound);
    two.prepare(key, "", &[]).await.unwrap();
    two.remove(key).await.unwrap();
    one.stat(key).await.unwrap();
    fails(Client::raw(&served, "").stat(key).await, Code::InvalidArgument);
    one.cleanup().await.unwrap();
    one.remove(key).await.unwrap();
    refused(one.remove(key).await, Code::NotFound);
    one.remove("default/1/sha256:aa").await.unwrap();
    assert_eq!(served.engine.store().namespaces().list().unwrap(), []);
}
