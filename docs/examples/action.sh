#!/usr/bin/env bash
# What action.yml runs: compress, and tell later steps where record and report are. Inputs come as environment variables, so that nothing in them is run.
# Bash 3.2 (macOS) has no mapfile, and takes "${empty[@]}" for an unset variable.
set -euo pipefail
: "${MODEL:?}" "${OUTPUT:?}" "${DATA:?}" "${MIN_AGREEMENT:=0.99}" "${GITHUB_OUTPUT:=/dev/null}"
record=$OUTPUT.record.json
report=$OUTPUT.report.html
case $OUTPUT in *$'\n'*) echo "action.sh: 'output' holds a line break, which no path of a step's outputs can." >&2; exit 2 ;; esac
more=()
if [ -n "${OPTIONS:-}" ]; then
  words=$(printf '%s' "$OPTIONS" | xargs -n1 printf '%s\n') || { echo "action.sh: 'options' cannot be split into words (a quotation mark that is never closed?): $OPTIONS" >&2; exit 2; }
  while IFS= read -r word; do [ -z "$word" ] || more+=("$word"); done <<< "$words"
fi
[ -z "${PREPROCESS:-}" ] || more+=(--preprocess "$PREPROCESS")
printf 'record=%s\nreport=%s\n' "$record" "$report" >> "$GITHUB_OUTPUT"
exec graphcompress compress "$MODEL" -o "$OUTPUT" --data "$DATA" --record "$record" --report "$report" --min-agreement "$MIN_AGREEMENT" ${more[@]+"${more[@]}"}
