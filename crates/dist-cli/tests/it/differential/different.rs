//! Where the daemon answers otherwise than containerd 1.6.20, and why.

/// A call, containerd's answer and ours.
pub(crate) type Difference = (&'static str, &'static str, &'static str);

/// The differences, by their reasons.
pub(crate) const DIFFERENT: &[(&str, &[Difference])] = &[
    (
        "it ends containerd as a process: the sub-message is absent, or the event in it",
        &[
            ("absent: diff.Apply", "no such call", "InvalidArgument: invalid argument"),
            ("absent: events.Forward", "no such call", "InvalidArgument: invalid argument"),
            ("absent: events.Publish", "no such call", "InvalidArgument: invalid argument"),
            ("absent: the event to forward", "no such call", "InvalidArgument: invalid argument"),
        ],
    ),
    (
        "what replaces all extensions replaces all; containerd answers so, and keeps the others",
        &[("extensions after they were replaced", "ok 3", "ok 1")],
    ),
    (
        "what is absent is refused as such, and named",
        &[
            (
                "absent: leases.AddResource",
                "Unimplemented: not implemented",
                "InvalidArgument: invalid argument",
            ),
            (
                "absent: leases.DeleteResource",
                "Unimplemented: not implemented",
                "InvalidArgument: invalid argument",
            ),
            ("absent: namespaces.Update", "ok", "InvalidArgument: invalid argument"),
        ],
    ),
    (
        "containerd has no code for what went wrong, or has lost it",
        &[
            ("diff.Apply: an unknown media type", "Unknown: …", "Unimplemented: not implemented"),
            (
                "events.Subscribe, filter that is none",
                "Unknown: invalid argument",
                "InvalidArgument: invalid argument",
            ),
            ("labels: an empty key", "Unknown: …", "InvalidArgument: invalid argument"),
            (
                "leases.AddResource \"snapshots/\" \"a snapshot\"",
                "Unknown: …",
                "InvalidArgument: invalid argument",
            ),
            (
                "namespaces.Update \"\" [\"labels.x\"] 1 labels",
                "Unknown: …",
                "InvalidArgument: invalid argument",
            ),
            (
                "namespaces.Update \"made\" [\"labels.k\"] 1 labels",
                "Unknown: invalid argument",
                "InvalidArgument: invalid argument",
            ),
            ("native: commit of a view", "Unknown: …", "FailedPrecondition: failed precondition"),
            ("native: commit, no name", "Unknown: …", "InvalidArgument: invalid argument"),
            (
                "native: list [\"kind=committed\"]",
                "Unknown: invalid argument",
                "InvalidArgument: invalid argument",
            ),
            (
                "native: list [\"name==\"]",
                "Unknown: invalid argument",
                "InvalidArgument: invalid argument",
            ),
            ("native: prepare, no key", "Unknown: …", "InvalidArgument: invalid argument"),
            ("overlayfs: commit, no name", "Unknown: …", "InvalidArgument: invalid argument"),
            (
                "overlayfs: list [\"kind=committed\"]",
                "Unknown: invalid argument",
                "InvalidArgument: invalid argument",
            ),
            (
                "overlayfs: list [\"name==\"]",
                "Unknown: invalid argument",
                "InvalidArgument: invalid argument",
            ),
            ("overlayfs: prepare, no key", "Unknown: …", "InvalidArgument: invalid argument"),
        ],
    ),
    (
        "containerd makes the change, and then has no namespace to publish it in",
        &[
            ("namespaces.Create without a namespace", "Unknown: failed precondition", "ok"),
            ("namespaces.Update without a namespace", "Unknown: failed precondition", "ok"),
        ],
    ),
    (
        "containerd answers an update of a namespace with nothing",
        &[
            ("namespaces.Update \"made\" [\"labels.x\"] 1 labels", "ok", "ok a=b"),
            ("namespaces.Update \"made\" [\"labels.x\"] 2 labels", "ok", "ok a=b x=1"),
            ("namespaces.Update \"made\" [] 1 labels", "ok", "ok z=3"),
            ("namespaces.Update \"unmade\" [\"labels.x\"] 1 labels", "ok", "ok x=1"),
        ],
    ),
    (
        "newer containerds have a target in the message, and this one does not read it",
        &[
            ("images.Delete \"name\", target false", "NotFound: not found", "ok"),
            ("images.Delete \"name\", target true", "ok", "NotFound: not found"),
        ],
    ),
    (
        "leases hold images since containerd 1.7, those with an end by themselves",
        &[
            (
                "lease: holds the images",
                "ok content sha256:c20dea4d876b5b8fb0a1814b43017030cea6d4ac30b2d9ae71b404d2faba49b5, ingests open",
                "ok content sha256:c20dea4d876b5b8fb0a1814b43017030cea6d4ac30b2d9ae71b404d2faba49b5, images expires, ingests open",
            ),
            (
                "leases.AddResource \"images\" \"\"",
                "Unimplemented: not implemented",
                "InvalidArgument: invalid argument",
            ),
            ("leases.AddResource \"images\" \"an image\"", "Unimplemented: not implemented", "ok"),
            (
                "leases.DeleteResource, not held, \"images\" \"\"",
                "Unimplemented: not implemented",
                "InvalidArgument: invalid argument",
            ),
            (
                "leases.DeleteResource, not held, \"images\" \"an image\"",
                "Unimplemented: not implemented",
                "ok",
            ),
            (
                "leases.ListResources \"one\"",
                "ok content sha256:34a04005bcaf206eec990bd9637d9fdb6725e0a0c0d4aebf003f17f4c956eb5c, ingests an ingest, snapshots/none a snapshot, snapshots/overlayfs a snapshot",
                "ok content sha256:34a04005bcaf206eec990bd9637d9fdb6725e0a0c0d4aebf003f17f4c956eb5c, images an image, ingests an ingest, snapshots/none a snapshot, snapshots/overlayfs a snapshot",
            ),
            ("unknown lease: image, unknown-expires", "ok", "NotFound: not found"),
        ],
    ),
    (
        "newer containerds put a snapshot that is there into the lease, as a blob that is there is put",
        &[
            (
                "native: leased: holds after the removal",
                "ok snapshots/native leased-done",
                "ok snapshots/native child, snapshots/native leased-done",
            ),
            (
                "native: leased: holds what was there",
                "ok snapshots/native leased-done, snapshots/native leased-view",
                "ok snapshots/native child, snapshots/native leased-done, snapshots/native leased-view",
            ),
            (
                "overlayfs: leased: holds after the removal",
                "ok snapshots/overlayfs leased-done",
                "ok snapshots/overlayfs child, snapshots/overlayfs leased-done",
            ),
            (
                "overlayfs: leased: holds what was there",
                "ok snapshots/overlayfs leased-done, snapshots/overlayfs leased-view",
                "ok snapshots/overlayfs child, snapshots/overlayfs leased-done, snapshots/overlayfs leased-view",
            ),
        ],
    ),
    (
        "labels of leases are as long as all others",
        &[
            ("leases.Create, long label", "ok", "InvalidArgument: invalid argument"),
            ("leases.Delete, long label", "ok", "NotFound: not found"),
        ],
    ),
    (
        "no snapshotter has an empty name",
        &[(
            "leases.DeleteResource, not held, \"snapshots/\" \"a snapshot\"",
            "ok",
            "InvalidArgument: invalid argument",
        )],
    ),
    (
        "nothing is unpacked where there is no mount, so nobody looks into the layer",
        &[("diff.Apply: what is no layer", "Unknown: …", "ok")],
    ),
    (
        "a malformed digest is refused as such everywhere",
        &[("diff.Apply: a bad digest", "NotFound: not found", "InvalidArgument: invalid argument")],
    ),
    (
        "there is no negative offset",
        &[(
            "write: negative offset",
            "ok offset 1 total 0 digest sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
            "OutOfRange: out of range",
        )],
    ),
    (
        "there is no such action",
        &[(
            "write: unknown action",
            "ok offset 0 total 0 digest",
            "InvalidArgument: invalid argument",
        )],
    ),
    (
        "the total that the client said is said back",
        &[(
            "commit: right at last",
            "ok offset 6 total 0 digest sha256:5d28a90f4498a81461efbaf6f628a19d9778390bb5c81a393dd936181cc3d826",
            "ok offset 6 total 6 digest sha256:5d28a90f4498a81461efbaf6f628a19d9778390bb5c81a393dd936181cc3d826",
        )],
    ),
    (
        "an abort ends the stream that writes; containerd goes on writing to what is removed",
        &[
            (
                "abort: a question",
                "ok offset 5 digest sha256:5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5",
                "Aborted: aborted",
            ),
            (
                "abort: more bytes",
                "ok offset 10 digest sha256:c775e7b757ede630cd0aa1113bd102661ab38829ca52a6422ab782862f268646",
                "Aborted: aborted",
            ),
            ("abort: the end", "Unknown: …", "Aborted: aborted"),
        ],
    ),
    (
        "newer containerds give a snapshot without a parent the one that its commit names, where the \
         snapshotter can do that; this one does not read it",
        &[
            ("native: parent at commit: a ghost", "ok", "FailedPrecondition: failed precondition"),
            ("native: parent at commit: a ghost, then", BARE, "NotFound: not found"),
            (
                "native: parent at commit: it has none",
                "ok",
                "FailedPrecondition: failed precondition",
            ),
            ("native: parent at commit: it has none, then", BARE, "NotFound: not found"),
            ("overlayfs: parent at commit: a ghost", "ok", "NotFound: not found"),
            ("overlayfs: parent at commit: a ghost, then", BARE, "NotFound: not found"),
            (
                "overlayfs: parent at commit: it has none, then",
                BARE,
                "ok kind 3 of \"two\" with 0 labels",
            ),
        ],
    ),
];

/// A committed snapshot without a parent.
const BARE: &str = "ok kind 3 of \"\" with 0 labels";
