#!/usr/bin/env bash
# run.sh: what `make soak` does. The kill tests over and over, each time in a fresh unit set, until
# the time is over or one fails.
#
#   SOAK_MINUTES=60
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cargo build --workspace
end=$((SECONDS + ${SOAK_MINUTES:-60} * 60)) rounds=0
while ((SECONDS < end)); do
    cargo nextest run -p tests -E 'test(kill::)'
    rounds=$((rounds + 1))
    echo "soak: $rounds rounds"
done
