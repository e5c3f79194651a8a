// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/containerd/containerd/v2/pkg/cap"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// capMask is a set of capabilities as /proc/<pid>/status writes it, as far as this machine has them to give.
func capMask(b *bed, names ...string) string {
	held, err := cap.Current()
	if err != nil {
		b.t.Fatal(err)
	}
	var m uint64
	for i, n := range cap.Known() {
		if slices.Contains(held, n) && (slices.Contains(names, n) || slices.Contains(names, "ALL")) {
			m |= 1 << i
		}
	}
	return fmt.Sprintf("%016x", m)
}

// kubeMasked and kubeReadonly are what a kubelet sends for procMount Default, in part.
var (
	kubeMasked   = []string{"/proc/kcore", "/proc/timer_list", "/sys/firmware"}
	kubeReadonly = []string{"/proc/sys", "/proc/sysrq-trigger"}
)

// securityFeatures: what the process may do.
var securityFeatures = []feature{
	{"capabilities", func(b *bed) {
		defaults := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
			"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
		none, all, admin := capMask(b), capMask(b, "ALL"), capMask(b, "CAP_NET_ADMIN")
		for _, tt := range []struct {
			name                    string
			asked                   *runtimeapi.Capability
			uid                     int64
			inh, prm, eff, bnd, amb string
		}{
			{"default", nil, 0, none, capMask(b, defaults...), capMask(b, defaults...), capMask(b, defaults...), none},
			{"drop ALL, add one", &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}, 0, none, admin, admin, admin, none},
			{"the same, as a user", &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}, 1000, none, none, none, admin, none},
			{"ambient, as a user", &runtimeapi.Capability{AddAmbientCapabilities: []string{"CAP_NET_ADMIN"}, DropCapabilities: []string{"ALL"}}, 1000, admin, admin, admin, admin, admin},
			{"add ALL", &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}, 0, none, all, all, all, none},
			{"drop one", &runtimeapi.Capability{DropCapabilities: defaults[1:]}, 0, none, capMask(b, defaults[0]), capMask(b, defaults[0]), capMask(b, defaults[0]), none},
		} {
			b.sc().Capabilities = tt.asked
			b.sc().RunAsUser = &runtimeapi.Int64Value{Value: tt.uid}
			b.says(`grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status`,
				"CapInh:\t"+tt.inh, "CapPrm:\t"+tt.prm, "CapEff:\t"+tt.eff, "CapBnd:\t"+tt.bnd, "CapAmb:\t"+tt.amb)
		}
		b.sc().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NO_SUCH"}}
		b.refused(codes.InvalidArgument, "add_capabilities[0]")
	}},
	{"seccomp", func(b *bed) {
		const script = `grep Seccomp: /proc/self/status; unshare -u true 2>/dev/null && echo unshared; mkdir /tmp/$$ 2>/dev/null && echo made`
		sysAdmin := &runtimeapi.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
		b.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		b.sc().Capabilities = sysAdmin
		b.says(script+"\nunshare -U true 2>/dev/null || echo refused", "Seccomp:\t2", "made", "refused")
		b.sc().SeccompProfilePath = "runtime/default" //nolint:staticcheck // deprecated, still part of the API
		b.says(script, "Seccomp:\t2", "made")
		for _, p := range []*runtimeapi.SecurityProfile{nil, {ProfileType: runtimeapi.SecurityProfile_Unconfined}} {
			b.sc().Seccomp = p
			b.sc().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
			b.says(script, "Seccomp:\t0", "unshared", "made")
		}
		profile := b.write("seccomp.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}`, 0o600)
		b.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}
		b.says(`mkdir /tmp/x; touch /tmp/y && echo touched`, "mkdir: can't create directory '/tmp/x': No space left on device", "touched")
		b.sc().SeccompProfilePath = "localhost/" + profile //nolint:staticcheck // deprecated, still part of the API
		b.says(`mkdir /tmp/x`, "mkdir: can't create directory '/tmp/x': No space left on device")
	}},
	{"seccomp profile that is none", func(b *bed) {
		if err := os.Symlink("/etc/passwd", b.dir+"/link"); err != nil {
			b.t.Fatal(err)
		}
		for _, ref := range []string{b.dir + "/none", b.dir, b.dir + "/link", "/dev/zero", b.write("typo.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscals":[]}`, 0o600), "relative"} {
			b.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
			b.refused(codes.InvalidArgument, "localhost_ref")
		}
	}},
	{"AppArmor", func(b *bed) {
		if !apparmor.HostSupports() {
			for _, p := range []*runtimeapi.SecurityProfile{{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, {ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "x"}} {
				b.sc().Apparmor = p
				b.refused(codes.FailedPrecondition, "apparmor")
			}
			return
		}
		const script = `cat /proc/self/attr/current; cat /sys/kernel/uevent_seqnum >/dev/null && echo sysfs; touch /tmp/denied$$`
		for _, p := range []*runtimeapi.SecurityProfile{nil, {ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}} { // no profile means the default one
			b.sc().Apparmor = p
			b.says(script, "cri-embedcri.apparmor.d (enforce)", "sysfs")
		}
		b.sc().Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		b.says("cat /proc/self/attr/current", "unconfined")
		name := "embedcri-test-" + b.handler
		profile := b.write("profile", "profile "+name+" flags=(attach_disconnected) { file, capability, signal, deny /tmp/denied* w, }\n", 0o600)
		load := func(how string) {
			if out, err := exec.Command("apparmor_parser", how, profile).CombinedOutput(); err != nil {
				b.t.Fatalf("apparmor_parser: %v %s", err, out)
			}
		}
		load("-Kr")
		b.t.Cleanup(func() { load("-R") })
		b.sc().Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
		b.says(`cat /proc/self/attr/current; touch /tmp/denied`, name+" (enforce)", "touch: /tmp/denied: Permission denied")
		b.sc().ApparmorProfile = "localhost/" + name //nolint:staticcheck // deprecated, still part of the API
		b.says(`cat /proc/self/attr/current`, name+" (enforce)")
	}},
	{"SELinux", func(b *bed) {
		options := &runtimeapi.SELinuxOption{Type: "container_t", Level: "s0:c1,c2"}
		// The kubelet passes a pod's seLinuxOptions on everywhere, and asks for relabelling too.
		b.sc().SelinuxOptions = options
		b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: b.mkdir("v"), SelinuxRelabel: true}}
		if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
			b.says("touch /v/x && echo written", "written")
		} else {
			b.says(`tr -d '\0' < /proc/self/attr/current | cut -d: -f3-; echo; touch /v/x && echo written; stat -c %C /v /etc/hosts /bin /dev/shm | cut -d: -f3-`,
				"container_t:s0:c1,c2", "written", "container_file_t:s0:c1,c2", "container_file_t:s0", "container_file_t:s0:c1,c2", "container_file_t:s0:c1,c2")
		}
		b.sc().SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1 c2"}
		b.refused(codes.InvalidArgument, "selinux_options.level")
	}},
	{"paths of /proc and /sys", func(b *bed) {
		const script = `head -c1 /proc/timer_list | wc -c; ls /sys/firmware | wc -l; (echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo frozen
			(echo 1 > /sys/kernel/mm/transparent_hugepage/enabled) 2>/dev/null || echo sysfs is read-only`
		b.sc().MaskedPaths, b.sc().ReadonlyPaths = kubeMasked, kubeReadonly
		b.says(script, "0", "0", "frozen", "sysfs is read-only")
		// Unmasked, as the kubelet says it. The host's name would really be changed, so this one only looks.
		b.says(`head -c1 /proc/timer_list | wc -c; grep -c ' /proc/sys ' /proc/self/mountinfo`, "1", "0")
	}},
	{"no security context", func(b *bed) {
		// A client that has not thought about it gets the defaults, in a pod that shares its pid namespace: an unset mode is POD.
		b.pc.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		b.cfg.Linux.SecurityContext, b.cfg.Command = nil, []string{"true"}
		b.runPod()
		id, err := b.Runtime.CreateContainer(b.Ctx(), b.pod, b.cfg, b.pc)
		if err != nil {
			b.t.Fatal(err)
		}
		if got := b.spec(id).Linux; len(got.MaskedPaths) < 10 || len(got.ReadonlyPaths) < 5 {
			b.t.Errorf("without a security context: masked %q, read-only %q", got.MaskedPaths, got.ReadonlyPaths)
		}
	}},
	{"read-only root", func(b *bed) {
		b.sc().ReadonlyRootfs = true
		b.says(`touch /x; touch /etc/hosts; touch /dev/shm/x && echo shm`, "touch: /x: Read-only file system", "touch: /etc/hosts: Read-only file system", "shm")
	}},
	{"privileged", func(b *bed) {
		b.pc.Linux.SecurityContext.Privileged = true
		b.sc().Privileged = true
		b.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		b.sc().MaskedPaths, b.sc().ReadonlyPaths = kubeMasked, kubeReadonly
		b.says(`grep -E 'CapEff|Seccomp:' /proc/self/status; (: < /dev/kmsg) && echo device; mknod /tmp/lc c 10 237 && (: < /tmp/lc) && echo any device
			grep ' /sys ' /proc/self/mountinfo | grep -c ' rw,'; grep ' /sys/fs/cgroup ' /proc/self/mountinfo | grep -c ' ro,'; head -c1 /proc/timer_list | wc -c; rm /tmp/lc`,
			"CapEff:\t"+capMask(b, "ALL"), "Seccomp:\t0", "device", "any device", "1", "0", "1")
	}},
	{"privileged in a pod that is not", func(b *bed) {
		b.sc().Privileged = true
		b.refused(codes.InvalidArgument, "privileged")
		b.says(`mknod /tmp/lc c 10 237 && (: < /tmp/lc); rm /tmp/lc; ls /dev/kmsg`,
			"sh: can't open /tmp/lc: Operation not permitted", "ls: /dev/kmsg: No such file or directory")
	}},
}

// handlerOptions: a runtime handler has its own options, whatever those of another handler with the same binary are.
func handlerOptions(b *bed) {
	b.pc.Linux.SecurityContext.Privileged = true
	b.pc.Annotations = map[string]string{"pod.example.com/a": "1"}
	id := b.says("grep Seccomp: /proc/self/status; [ $(ulimit -Hn) = 1024 ] && echo limited; true", "Seccomp:\t2") // no profile is named
	if a := b.spec(id).Annotations["pod.example.com/a"]; a != "" {
		b.t.Errorf("annotation %q has passed", a)
	}
	b.sc().Privileged = true
	b.says("grep -E 'CapEff|Seccomp:' /proc/self/status; ls /dev/kmsg; mknod /tmp/kmsg c 1 11 && (: < /tmp/kmsg); rm /tmp/kmsg",
		"CapEff:\t"+capMask(b, "ALL"), "Seccomp:\t0", "ls: /dev/kmsg: No such file or directory", "sh: can't open /tmp/kmsg: Operation not permitted")
}
