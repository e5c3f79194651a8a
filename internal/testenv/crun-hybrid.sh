#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs crun where it would refuse to: "cgroups in hybrid mode not supported, drop all controllers from cgroupv2". In a mount
# namespace of its own, in which the v2 hierarchy beside the v1 ones is not mounted. Everything else propagates as it did. The tmpfs
# in its place takes the directories that crun makes there nevertheless, which would stay in the machine's /sys/fs/cgroup, unseen.
exec unshare --mount --propagation unchanged sh -c \
	'mount --make-private /sys/fs/cgroup && umount /sys/fs/cgroup/unified && mount -t tmpfs crun /sys/fs/cgroup/unified && exec crun "$@"' crun "$@"
