#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks on a machine with an NVIDIA GPU, in at most 8 minutes: renderer, latency, 4 bits, training.
#
#     scripts/gpu_check.sh              figures in $OUT/gpu_check.json (default ./out)
#     scripts/gpu_check.sh --dry-run    every step, small, on the CPU
#
# PYTHON: the interpreter (python3), with the package installed.
set -u
cd "$(dirname "$0")/.."
out="${OUT:-./out}"
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
device=cuda
case "${1:-}" in
  "") ;;
  --dry-run) device=cpu ;;
  *) echo "gpu_check.sh: unknown option $1 (--dry-run)" >&2; exit 2 ;;
esac
mkdir -p "$out" || exit 2
if [ "$device" = cuda ] && ! timeout 60 "$python" scripts/gpu_check.py has-gpu; then
  echo "gpu_check.sh: no NVIDIA GPU that torch can use; --dry-run runs the steps on the CPU" >&2
  exit 1
fi
rm -f "$out"/{renderer,latency,nf4,speed,training,gpu_check}.json
start=$SECONDS

# step NAME LIMIT SECONDS: a step that ends by itself after about SECONDS, and is ended after LIMIT
step() {
  timeout --kill-after=5 "$2" "$python" scripts/gpu_check.py "$1" --out "$out" --device "$device" --seconds "$3"
  local code=$?
  if [ "$code" -ge 124 ]; then
    printf '{"ok": false, "error": "ended after %s s"}\n' "$2" > "$out/$1.json"
    echo "$1: ended after $2 s" >&2
  fi
}

if [ "$device" = cpu ]; then
  for name in renderer latency nf4 speed training; do step "$name" 240 2; done
else
  step renderer 90 20
  step latency 60 20
  step nf4 60 20
  step speed 45 20
  left=$((450 - (SECONDS - start)))
  step training "$left" $((left - 30))
fi
"$python" scripts/gpu_check.py summary --out "$out"
