#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that building and testing need. Does nothing, and asks no network, if they are there.
set -euo pipefail

packages=(
	gcc libc6-dev pkg-config libseccomp-dev  # runc, and small C programs in tests
	busybox-static                           # test images
	crun                                     # the second OCI runtime that containers are tested with
	docker-registry                          # a second registry implementation to pull from
	iptables nftables iproute2 util-linux    # CNI plug-ins and network tests
	clang llvm libbpf-dev                    # make bpf
	git make ca-certificates
)

[ "${1-}" != vm ] || packages+=(qemu-system-x86 mmdebstrap e2fsprogs) # make test-vm

missing=()
for p in "${packages[@]}"; do
	[ "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" = "install ok installed" ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
