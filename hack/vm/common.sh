# SPDX-License-Identifier: Apache-2.0
#
# Sourced by build and run: which guest is meant, and where it is kept.

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 125; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
host_suite=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME-}")
suite=${EMBEDCRI_VM_SUITE:-${host_suite:-bookworm}}
packages=$(tr ' ' '\n' <<<"systemd systemd-sysv udev dbus dbus-user-session libpam-systemd kmod procps util-linux mount e2fsprogs
	iproute2 iputils-ping iptables nftables conntrack socat jq strace uidmap acl libseccomp2 apparmor sudo busybox-static crun
	${EMBEDCRI_VM_PACKAGES-}" | tr -d '\t' | sort -u | tr '\n' ' ')
disk_size=16G

# A guest is named after all that goes into it, so that an old one is never taken for a new one.
key=$({ cat "$here/build" "$here/init"; (cd "$here/guest" && find . -type f | LC_ALL=C sort | xargs sha256sum); echo "$suite $packages $disk_size"; } |
	sha256sum | cut -c1-16)
cache=${EMBEDCRI_VM_CACHE:-/var/cache/embedcri-vm}
vm=$cache/$suite-$key
