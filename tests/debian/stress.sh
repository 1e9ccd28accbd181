# stress-ng with its results checked: processor, vectors, memory. $1 is for how
# many seconds.
set -eu

cd /tmp
echo "== $(stress-ng --version)"
stress-ng --verify --timeout "$1" --metrics-brief --no-rand-seed --temp-path /tmp \
    --cpu 1 --cpu-method all \
    --matrix 1 --fp 1 --vecmath 1 --vecwide 1 --vecfp 1 --vecshuf 1 \
    --vm 1 --vm-bytes 64M --vm-method all --mmap 1 --mmap-bytes 32M --memcpy 1 --qsort 1 2>&1 | tee said
# Its status went to tee; what it says is what counts.
if grep -E ' (fail|error): ' said; then
    exit 1
fi
grep -q 'successful run completed' said
