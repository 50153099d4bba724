# Short targets; what they do stands in the scripts that they call.
PREFIX ?= /usr/local

.PHONY: demo test bench soak install uninstall

# A first try: one instance in a temporary directory, one job with a secret, left running.
demo:
	tests/demo.sh

# Everything, the systemd suite included.
test:
	tests/needs.sh
	cargo build --workspace
	cargo nextest run --workspace

# The figures of docs/performance.md, against the machine's own limits in the same run.
bench:
	tests/bench/run.sh

soak:
	tests/soak/run.sh

# PREFIX=DIR; USER_UNITS=1 for the calling user's own units.
install:
	cargo build --release --workspace --exclude tests
	PREFIX="$(PREFIX)" systemd/install.sh

uninstall:
	PREFIX="$(PREFIX)" systemd/uninstall.sh
