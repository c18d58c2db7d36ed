#!/usr/bin/env bash
# What action.yml runs: compress, and tell later steps where record and report are. Inputs come as environment variables, so that nothing in them is run.
set -euo pipefail
: "${MODEL:?}" "${OUTPUT:?}" "${DATA:?}" "${MIN_AGREEMENT:=0.99}" "${GITHUB_OUTPUT:=/dev/null}"
record=$OUTPUT.record.json
report=$OUTPUT.report.html
read -r -a more <<< "${OPTIONS:-}"
[ -z "${PREPROCESS:-}" ] || more+=(--preprocess "$PREPROCESS")
printf 'record=%s\nreport=%s\n' "$record" "$report" >> "$GITHUB_OUTPUT"
exec graphcompress compress "$MODEL" -o "$OUTPUT" --data "$DATA" --record "$record" --report "$report" --min-agreement "$MIN_AGREEMENT" "${more[@]}"
