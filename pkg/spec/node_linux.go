// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/contrib/apparmor"
	hostapparmor "github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/containerd/containerd/v2/pkg/cap"
	hostseccomp "github.com/containerd/containerd/v2/pkg/seccomp"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// AppArmorDefaultProfile is the name under which LoadAppArmor puts the profile that stands for RuntimeDefault into the kernel.
const AppArmorDefaultProfile = "cri-embedcri.apparmor.d"

// DetectNode asks the machine what Container must know about it. The daemon calls it once, at start: none of this changes
// while a kernel runs, but for the device nodes, which privileged containers are given as of then; call HostDevices again for
// fresher ones. It changes nothing, and does not load the AppArmor profile (LoadAppArmor).
func DetectNode() (Node, error) {
	n := Node{
		Seccomp:         hostseccomp.IsEnabled(),
		NoX32:           noX32(),
		AppArmor:        hostapparmor.HostSupports(),
		AppArmorProfile: AppArmorDefaultProfile,
		SELinux:         selinux.GetEnabled(),
		MountSetattr:    mountSetattr(),
		CgroupV2:        cgroups.Mode() == cgroups.Unified,
	}
	var errs [4]error
	n.Capabilities, errs[0] = cap.Current()
	n.OOMScoreAdjMin, errs[1] = oomScoreAdjMin(n.Capabilities)
	n.HugepageSizes, errs[2] = hugepageSizes()
	n.Devices, errs[3] = HostDevices()
	if err := errors.Join(errs[:]...); err != nil {
		return Node{}, fmt.Errorf("find out what this node can do: %w", err)
	}
	if n.CgroupV2 {
		n.Swap = swapV2(cgroupRoot)
		n.Hugetlb = hasWord(filepath.Join(cgroupRoot, "cgroup.controllers"), "hugetlb")
		n.CgroupMountOpts = cgroupMountOpts()
	} else {
		n.Swap = exists(filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes"))
		n.Hugetlb = exists(filepath.Join(cgroupRoot, "hugetlb"))
	}
	return n, nil
}

// LoadAppArmor loads the default profile into the kernel, if the node has AppArmor and the profile is not there yet. The
// daemon calls it once, at start.
func LoadAppArmor(n Node) error {
	if !n.AppArmor {
		return nil
	}
	if err := apparmor.LoadDefaultProfile(n.AppArmorProfile); err != nil {
		return fmt.Errorf("load AppArmor profile %s: %w", n.AppArmorProfile, err)
	}
	return nil
}

// oomScoreAdjMin is the lowest oom_score_adj that the daemon may give. The kernel's floor for a process without
// CAP_SYS_RESOURCE is not readable (signal->oom_score_adj_min), but never above what the process has now. The capability counts
// only in the initial user namespace (kernel: fs/proc/base.c, __set_oom_adj, capable()).
func oomScoreAdjMin(caps []string) (int, error) {
	idMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 0, err
	}
	initial := slices.Equal(strings.Fields(string(idMap)), []string{"0", "0", "4294967295"})
	if initial && slices.Contains(caps, "CAP_SYS_RESOURCE") {
		return -1000, nil
	}
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(bytes.TrimSpace(own)))
}

// hugepageSizes lists the kernel's sizes in the words of the hugetlb controller: hugepages-2048kB is 2MB.
func hugepageSizes() ([]string, error) {
	dirs, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without huge pages
	}
	var out []string
	for _, d := range dirs {
		s, ok := hugepageSize(d.Name())
		if ok {
			out = append(out, s)
		}
	}
	return out, err
}

// hugepageSize does as the kernel does to name the controller's files (mm/hugetlb_cgroup.c, mem_fmt).
func hugepageSize(dir string) (string, bool) {
	kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(dir, "hugepages-"), "kB"), 10, 44)
	switch {
	case err != nil || kb == 0:
		return "", false
	case kb >= 1<<20:
		return fmt.Sprintf("%dGB", kb>>20), true
	case kb >= 1<<10:
		return fmt.Sprintf("%dMB", kb>>10), true
	}
	return fmt.Sprintf("%dKB", kb), true
}

// mountSetattr tries the system call on nothing: only a kernel without it answers ENOSYS.
func mountSetattr() bool {
	return !errors.Is(unix.MountSetattr(-1, "", 0, &unix.MountAttr{}), unix.ENOSYS)
}

// swapV2 looks for the file in the cgroups below the root, which has none itself. One whose parent does not delegate the memory
// controller lacks it too, so all are tried.
func swapV2(root string) bool {
	found, err := filepath.Glob(filepath.Join(root, "*", "memory.swap.max"))
	return err == nil && len(found) > 0
}

// cgroupMountOpts returns the options of the host's cgroup2 mount that a second mount of it would reset.
func cgroupMountOpts() []string {
	ms, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(cgroupRoot))
	if err != nil || len(ms) == 0 {
		return nil
	}
	return slices.DeleteFunc(strings.Split(ms[0].VFSOptions, ","), func(o string) bool {
		return o != "nsdelegate" && o != "memory_recursiveprot"
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func hasWord(file, word string) bool {
	b, err := os.ReadFile(file)
	return err == nil && slices.Contains(strings.Fields(string(b)), word)
}
