// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// decided says for each field of the messages that this package translates what becomes of it. A field that a new version of
// the CRI adds is missing here, and fails TestFields until somebody has decided; one that it drops fails as well.
var decided = map[proto.Message]map[string]string{
	&runtimeapi.LinuxContainerSecurityContext{}: {
		"capabilities":               "process.capabilities (capabilities.go)",
		"privileged":                 "all capabilities, host devices, no confinement (privileged.go)",
		"namespace_options":          "linux.namespaces (namespaces.go)",
		"selinux_options":            "process.selinuxLabel, linux.mountLabel (selinux.go)",
		"run_as_user":                "process.user.uid (user.go)",
		"run_as_group":               "process.user.gid (user.go)",
		"run_as_username":            "process.user.uid, by /etc/passwd (user.go)",
		"readonly_rootfs":            "root.readonly (container.go)",
		"supplemental_groups":        "process.user.additionalGids (user.go)",
		"supplemental_groups_policy": "process.user.additionalGids (user.go)",
		"no_new_privs":               "process.noNewPrivileges (process.go)",
		"masked_paths":               "linux.maskedPaths (paths.go)",
		"readonly_paths":             "linux.readonlyPaths (paths.go)",
		"seccomp":                    "linux.seccomp (seccomp.go)",
		"apparmor":                   "process.apparmorProfile (apparmor.go)",
		"apparmor_profile":           "process.apparmorProfile, deprecated form (apparmor.go)",
		"seccomp_profile_path":       "linux.seccomp, deprecated form (seccomp.go)",
	},
	&runtimeapi.LinuxContainerResources{}: {
		"cpu_period":                 "linux.resources.cpu.period (resources.go)",
		"cpu_quota":                  "linux.resources.cpu.quota (resources.go)",
		"cpu_shares":                 "linux.resources.cpu.shares (resources.go)",
		"memory_limit_in_bytes":      "linux.resources.memory.limit (resources.go)",
		"oom_score_adj":              "process.oomScoreAdj (resources.go)",
		"cpuset_cpus":                "linux.resources.cpu.cpus (resources.go)",
		"cpuset_mems":                "linux.resources.cpu.mems (resources.go)",
		"hugepage_limits":            "linux.resources.hugepageLimits (resources.go)",
		"unified":                    "linux.resources.unified (resources.go)",
		"memory_swap_limit_in_bytes": "linux.resources.memory.swap (resources.go)",
	},
	&runtimeapi.Mount{}: {
		"container_path":      "mounts[].destination (mounts.go)",
		"host_path":           "mounts[].source (mounts_linux.go)",
		"readonly":            "option ro (mounts.go)",
		"selinux_relabel":     "not in the specification: relabelVolumes in pkg/sandbox, by Relabel (selinux_linux.go)",
		"propagation":         "options rprivate, rslave, rshared; linux.rootfsPropagation (mounts.go)",
		"uidMappings":         "mounts[].uidMappings (mounts.go)",
		"gidMappings":         "mounts[].gidMappings (mounts.go)",
		"recursive_read_only": "option rro (mounts.go)",
		"image":               "mounts[].source, mounted by the caller; always ro (mounts.go)",
		"image_sub_path":      "mounts[].source, resolved by the caller",
		"mount_options":       "options noexec, nodev, nosuid (mounts.go)",
	},
	&runtimeapi.Device{}: {
		"container_path": "linux.devices[].path (devices.go)",
		"host_path":      "linux.devices[] numbers and mode (devices_linux.go)",
		"permissions":    "linux.resources.devices[].access (devices.go)",
	},
	&runtimeapi.Capability{}: {
		"add_capabilities":         "bounding, effective, permitted (capabilities.go)",
		"drop_capabilities":        "taken from all sets (capabilities.go)",
		"add_ambient_capabilities": "all sets (capabilities.go)",
	},
	&runtimeapi.NamespaceOption{}: {
		"network":        "network and UTS namespace (namespaces.go)",
		"pid":            "pid namespace (namespaces.go)",
		"ipc":            "IPC namespace, /dev/shm (namespaces.go, mounts.go)",
		"target_id":      "pid namespace, looked up by the caller (namespaces.go)",
		"userns_options": "user namespace (namespaces.go)",
	},
	&runtimeapi.SecurityProfile{}: {
		"profile_type":  "seccomp.go, apparmor.go",
		"localhost_ref": "seccomp.go, apparmor.go",
	},
	&runtimeapi.ContainerConfig{}: {
		"metadata":    "annotation with the name (annotations.go)",
		"image":       "resolved by the caller",
		"command":     "process.args (process.go)",
		"args":        "process.args (process.go)",
		"working_dir": "process.cwd (process.go)",
		"envs":        "process.env (process.go)",
		"mounts":      "mounts (mounts.go)",
		"devices":     "linux.devices (devices.go)",
		"labels":      "not in the specification: kept by the caller",
		"annotations": "annotations, by allow-list (annotations.go); CDI devices (cdi.go)",
		"log_path":    "not in the specification: pkg/ioattach",
		"stdin":       "not in the specification: pkg/ioattach",
		"stdin_once":  "not in the specification: pkg/ioattach",
		"tty":         "process.terminal (process.go)",
		"linux":       "see its messages",
		"windows":     "not served",
		"CDI_devices": "CDI edits (cdi.go)",
		"stop_signal": "StopSignal (stopsignal.go)",
	},
}

// TestFieldsAreTried checks that every field that ends up in the specification is set in at least one golden request.
func TestFieldsAreTried(t *testing.T) {
	tried := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.Message)
	walk = func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			tried[f.FullName()] = true
			switch {
			case f.IsMap() || f.Message() == nil:
			case f.IsList():
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
			default:
				walk(v.Message())
			}
			return true
		})
	}
	for _, g := range golden {
		in := plain()
		g.edit(&in)
		walk(in.Container.ProtoReflect())
	}
	for m, fields := range decided {
		d := m.ProtoReflect().Descriptor()
		for name, fate := range fields {
			elsewhere := strings.HasPrefix(fate, "not ") || strings.HasPrefix(fate, "resolved by") || m.ProtoReflect().Descriptor().Name() == "ContainerConfig"
			if full := d.FullName().Append(protoreflect.Name(name)); !tried[full] && !elsewhere {
				t.Errorf("no golden request sets %s", full)
			}
		}
	}
}

func TestFields(t *testing.T) {
	for m, fields := range decided {
		d := m.ProtoReflect().Descriptor()
		for i := range d.Fields().Len() {
			if name := string(d.Fields().Get(i).Name()); fields[name] == "" {
				t.Errorf("nobody has decided what becomes of %s.%s (cri-api changed?)", d.Name(), name)
			}
		}
		for name := range fields {
			if d.Fields().ByName(protoreflect.Name(name)) == nil {
				t.Errorf("%s.%s is gone from the CRI", d.Name(), name)
			}
		}
	}
}
