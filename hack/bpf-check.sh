#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Compiles the BPF programs again and compares the result with what is committed.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=pkg/exitbpf
before=$(sha256sum $dir/*_bpf*.go $dir/*_bpf*.o)
saved=$(mktemp -d)
trap 'rm -rf "$saved"' EXIT
cp $dir/*_bpf*.go $dir/*_bpf*.o "$saved"
(cd $dir && go generate .)
after=$(sha256sum $dir/*_bpf*.go $dir/*_bpf*.o)
cp "$saved"/* $dir/
if [ "$before" != "$after" ]; then
	echo "the committed BPF objects are not up to date: run 'make bpf' with $(clang --version | head -1)" >&2
	diff <(echo "$before") <(echo "$after") >&2 || true
	exit 1
fi
echo "BPF objects are up to date"
