#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs crun where it would refuse to: "cgroups in hybrid mode not supported, drop all controllers from cgroupv2". In a mount
# namespace of its own, in which the v2 hierarchy beside the v1 ones is not mounted. Everything else propagates as it did.
exec unshare --mount --propagation unchanged sh -c \
	'mount --make-private /sys/fs/cgroup && umount /sys/fs/cgroup/unified && exec crun "$@"' crun "$@"
