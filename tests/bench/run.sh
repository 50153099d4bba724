#!/usr/bin/env bash
# run.sh [PART...]: what `make bench` does. Release programs, one run on one machine, the machine's
# own limit beside the product's figures; a figure of another run or machine is not compared with it.
# Parts: start units idle sync drained http spawn admission workers finished queued; all without any.
# BENCH_FINISHED and BENCH_QUEUED: rows of the last two, in the place of 1,000,000 and 100,000.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cargo build --release --workspace --bins
exec cargo bench -p tests --bench figures -- "$@"
