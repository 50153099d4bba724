#!/usr/bin/env bash
# run.sh: what `make soak` does. First thousands of kills of one executor under load, and the walks
# over every step of a job; then the kill tests over and over, each time in a fresh unit set, until
# the time is over or one fails.
#
#   SOAK_KILLS=5000     kills under load, drawn from
#   SOAK_SEED=N         this seed; a failure names its own
#   SOAK_MINUTES=60     of the kill tests; 0 for none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cargo build --workspace
DUCTILE_CRASH_KILLS="${SOAK_KILLS:-5000}" DUCTILE_CRASH_SEED="${SOAK_SEED:-$RANDOM$RANDOM}" \
    cargo nextest run --profile soak -p tests -E 'test(crash::)'
end=$((SECONDS + ${SOAK_MINUTES:-60} * 60)) rounds=0
while ((SECONDS < end)); do
    cargo nextest run -p tests -E 'test(kill::)'
    rounds=$((rounds + 1))
    echo "soak: $rounds rounds"
done
