"""The parts of `benches/compare` and `benches/daemon`.  python3, stdlib only."""
