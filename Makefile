# make demo      a real image, pulled from a real registry, run from its root
# make test      every test (root; some minutes); with CTR2=/path/to/ctr also those with a 2.x ctr
# make bench     against ctr, podman, skopeo and umoci; writes docs/reports/ (root; half an hour)
# make check     format, lints, documentation
# make check-all the above, and what needs cargo-deny and a network
# make fuzz      libFuzzer on names, documents, layers, images and deflate streams
# make torture   the long sweeps that `make test` only samples
SHELL = /bin/bash
CARGO ?= cargo
export DIST_IMAGES ?= /var/tmp/dist-images
# Whatever the tests mount is in a mount namespace of theirs and ends with it.
PRIVATE = unshare --mount --propagation slave --

.PHONY: all demo test torture bench check check-all fuzz images setup clean

all:
	$(CARGO) build --workspace --release --locked

setup:
	tests/setup demo test

images: setup
	tests/images/build-images

demo: images
	$(CARGO) build --release --locked --bin dist
	tests/demo target/release/dist

test: images
	$(PRIVATE) $(CARGO) test --workspace --locked --no-fail-fast

torture: images
	DIST_TORTURE=1 $(PRIVATE) $(CARGO) test --workspace --locked --no-fail-fast

# Further options and peers: make bench BENCH='--images redis:7' BENCH_PEERS=NAME=DIRECTORY
bench: images
	tests/setup bench
	$(CARGO) build --release --locked --bin dist
	$(CARGO) build --release --locked -p dist-layer -p dist-testutil --example floor --example shape
	benches/compare --dist target/release/dist $(BENCH)
	benches/daemon --dist target/release/dist $(BENCH_DAEMON)
	benches/run --dist target/release/dist
	benches/copy --dist target/release/dist

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

check-all: check
	$(CARGO) build --workspace --all-features --locked
	command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check bans licenses sources

# libFuzzer wants flags that stable compilers hide; SECONDS_EACH for each target.
fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	for target in reference document layer erofs inflate; do \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir fuzz $$target -- \
	    -max_total_time=$(or $(SECONDS_EACH),60) -max_len=65536 || exit 1; \
	done

clean:
	$(CARGO) clean
