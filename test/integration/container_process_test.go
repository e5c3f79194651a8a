// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// processFeatures: what runs, and with what around it.
var processFeatures = []feature{
	{"command line", func(b *bed) {
		// The image: entrypoint /bin/sh -c, cmd "echo $GREETING", GREETING=hello, /work/dir, user app.
		for _, tt := range []struct {
			command, args []string
			want          string
		}{
			{nil, nil, "hello"},
			{nil, []string{"echo $GREETING $(id -un) $PWD"}, "hello app /work/dir"},
			{[]string{"echo", "a  b"}, nil, "a  b"},
			{[]string{"echo", "$GREETING"}, []string{"", "x"}, "$GREETING  x"},
		} {
			b.cfg = b.ContainerConfig(registry.Ref(b.t, "config:1"), tt.command...)
			b.cfg.Args = tt.args
			if got := b.ran(); len(got) != 1 || got[0] != tt.want {
				b.t.Errorf("command %q args %q: %q, want %q", tt.command, tt.args, got, tt.want)
			}
		}
	}},
	{"environment and directory", func(b *bed) {
		b.cfg = b.ContainerConfig(registry.Ref(b.t, "config:1"))
		b.cfg.WorkingDir = "/etc/../tmp"
		b.cfg.Envs = []*runtimeapi.KeyValue{
			{Key: "GREETING", Value: []byte("a=b 'c' \"d\" ü")}, {Key: "EMPTY"}, {Key: "TWICE", Value: []byte("1")}, {Key: "TWICE", Value: []byte("2")},
		}
		b.says(`pwd; env | grep -E '^(GREETING|EMPTY|TWICE|PATH)=' | sort`,
			"/tmp", "EMPTY=", "GREETING=a=b 'c' \"d\" ü", "PATH=/bin", "TWICE=2")
	}},
	{"terminal", func(b *bed) {
		b.cfg.Tty, b.cfg.Stdin = true, true
		b.cfg.Command = []string{"sh", "-c", "tty; echo $TERM; [ -t 0 ] && [ -t 2 ] && echo terminal"}
		b.equal("container", b.ran(), []string{"/dev/pts/0\r", "xterm\r", "terminal\r"})
	}},
	{"descriptors", func(b *bed) {
		// Nothing of the daemon's or the runtime's leaks (CVE-2024-21626). The fourth is the directory that ls itself reads.
		const script = `ls -l /proc/self/fd 2>/dev/null | grep -v ' /proc/[0-9]*/fd$' | grep -o '[0-9]* ->' | tr -d '\n'; echo`
		const three = "0 ->1 ->2 ->"
		b.says(script, three)
		b.cfg.Stdin = true
		b.says(script, three)
		b.cfg.Tty, b.cfg.Command = true, []string{"sh", "-c", script}
		b.equal("container with a terminal", b.ran(), []string{three + "\r"})
		b.cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/proc-of-host", HostPath: "/proc", Readonly: true}}
		b.says(script, three)
	}},
	{"signals", func(b *bed) {
		// The daemon of this bed was started by a process that ignores SIGHUP, as nohup does.
		b.says("grep -E 'Sig(Blk|Ign)' /proc/self/status", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000")
	}},
	{"limits of the process", func(b *bed) {
		// What a daemon with CAP_SYS_RESOURCE could lower is here only raised: some machines lack it.
		b.cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 789}
		b.sc().NoNewPrivs = true
		// Of an exec, crun leaves the last to the daemon, which comes a moment after its start.
		b.says(`i=0; until [ "$(cat /proc/$$/oom_score_adj)" = 789 ] || [ $i = 200 ]; do i=$((i+1)); sleep 0.02; done
			ulimit -Sn; ulimit -Hn; ulimit -Hc; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status`,
			"512", "1024", "0", "789", "NoNewPrivs:\t1")
		b.says("grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0")
	}},
	{"stop signal", func(b *bed) {
		const script = "trap 'echo got TERM; exit' TERM; trap 'echo got USR1; exit' USR1; trap 'echo got HUP; exit' HUP; echo ready; while :; do sleep 0.02; done"
		for _, tt := range []struct {
			image  string
			signal runtimeapi.Signal
			want   string
			status runtimeapi.Signal
		}{
			{"busybox:1", 0, "TERM", runtimeapi.Signal_SIGNAL_SIGTERM},
			{"config:1", 0, "USR1", runtimeapi.Signal_SIGNAL_SIGUSR1},
			{"config:1", runtimeapi.Signal_SIGNAL_SIGHUP, "HUP", runtimeapi.Signal_SIGNAL_SIGHUP},
		} {
			b.cfg = b.ContainerConfig(registry.Ref(b.t, tt.image), "sh", "-c", script)
			b.cfg.StopSignal = tt.signal
			id := b.start()
			b.Eventually("traps are set", func() error {
				if got := b.text(id); len(got) == 0 {
					return fmt.Errorf("log %q", got)
				}
				return nil
			})
			if got := b.Status(id).StopSignal; got != tt.status {
				b.t.Errorf("%s: status says %v, want %v", tt.image, got, tt.status)
			}
			if err := b.Runtime.StopContainer(b.Ctx(), id, 30); err != nil {
				b.t.Error(err)
			}
			if got := b.text(id); got[len(got)-1] != "got "+tt.want {
				b.t.Errorf("%s, %v: %q", tt.image, tt.signal, got)
			}
		}
	}},
	{"annotations", func(b *bed) {
		// Runtimes act on annotations (CVE-2024-3154): the allow-lists of the handler decide. An image's labels never get there.
		b.pc.Annotations = map[string]string{"pod.example.com/a": "1", "org.systemd.property.User": "'root'", "ctr.example.com/this": "no"}
		b.cfg = b.ContainerConfig(registry.Ref(b.t, "config:1"), "true")
		b.cfg.Annotations = map[string]string{"ctr.example.com/this": "2", "ctr.example.com/that": "3", "run.oci.keep_original_groups": "1",
			"io.kubernetes.cri.sandbox-id": "forged"}
		id := b.create()
		var keys []string
		for k, v := range b.spec(id).Annotations {
			if !strings.HasPrefix(k, "io.kubernetes.cri.") {
				keys = append(keys, k+"="+v)
			}
			if v == "forged" {
				b.t.Errorf("%s is forged", k)
			}
		}
		if len(keys) != 2 || b.spec(id).Annotations["pod.example.com/a"] != "1" || b.spec(id).Annotations["ctr.example.com/this"] != "2" {
			b.t.Errorf("annotations of the specification: %q", keys)
		}
		if got := b.Status(id); got.Annotations["ctr.example.com/that"] != "3" || len(got.Labels) != 0 {
			b.t.Errorf("status: annotations %v, labels %v", got.Annotations, got.Labels)
		}
	}},
	{"what cannot run", func(b *bed) {
		b.cfg.Envs = []*runtimeapi.KeyValue{{Key: "A=B"}}
		b.refused(codes.InvalidArgument, "envs[0].key")
		b.cfg.WorkingDir = "etc"
		b.refused(codes.InvalidArgument, "working_dir")
		b.cfg.Command = []string{"echo", "a\x00b"}
		b.refused(codes.InvalidArgument, "NUL")
		b.cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 1001}
		b.cfg.Command = []string{"true"}
		b.refused(codes.InvalidArgument, "oom_score_adj")
	}},
}

// userFeatures: who runs. In the image app is 1000:1000, and in group extra, 2000.
var userFeatures = []feature{
	{"user", func(b *bed) {
		id64 := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
		for _, tt := range []struct {
			name     string
			sc       *runtimeapi.LinuxContainerSecurityContext
			uid, gid int64
			groups   []int64
		}{
			{"nobody named", &runtimeapi.LinuxContainerSecurityContext{}, 0, 0, []int64{0}},
			{"id", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id64(1000)}, 1000, 1000, []int64{1000, 2000}},
			{"id that the image does not know", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id64(4242)}, 4242, 0, []int64{0}},
			{"id and group", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id64(1000), RunAsGroup: id64(77)}, 1000, 77, []int64{77, 2000}},
			{"name", &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "app"}, 1000, 1000, []int64{1000, 2000}},
			{"name and group", &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "daemon", RunAsGroup: id64(5)}, 1, 5, []int64{5}},
			{"supplemental groups (fsGroup is one)", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id64(1000), SupplementalGroups: []int64{3000, 50}},
				1000, 1000, []int64{50, 1000, 2000, 3000}},
			{"supplemental groups, strict", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id64(1000), SupplementalGroups: []int64{3000},
				SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}, 1000, 1000, []int64{1000, 3000}},
		} {
			tt.sc.NamespaceOptions = b.sc().NamespaceOptions
			b.cfg.Linux.SecurityContext = tt.sc
			ids := strings.Trim(strings.ReplaceAll(fmt.Sprint(tt.groups), "  ", " "), "[]")
			id := b.says(`id -u; id -g; grep ^Groups: /proc/self/status | tr '\t' ' ' | tr -s ' ' | sed 's/ $//'`, fmt.Sprint(tt.uid), fmt.Sprint(tt.gid), "Groups: "+ids)
			u := b.Status(id).GetUser().GetLinux()
			if u.GetUid() != tt.uid || u.GetGid() != tt.gid || fmt.Sprint(u.GetSupplementalGroups()) != fmt.Sprint(tt.groups) {
				b.t.Errorf("%s: status says %v", tt.name, u)
			}
		}
		b.cfg = b.ContainerConfig(registry.Ref(b.t, "config:1")) // User: app
		b.says("id -u; id -G", "1000", "1000 2000")
	}},
	{"user who is not there", func(b *bed) {
		b.sc().RunAsUsername = "eve"
		b.refused(codes.InvalidArgument, "run_as_username")
		b.sc().RunAsUsername = "app\nroot"
		b.refused(codes.InvalidArgument, "run_as_username")
		b.sc().RunAsGroup = &runtimeapi.Int64Value{Value: 5}
		b.refused(codes.InvalidArgument, "run_as_group")
		b.sc().RunAsUser = &runtimeapi.Int64Value{Value: 1 << 32}
		b.refused(codes.InvalidArgument, "run_as_user")
		b.sc().SupplementalGroups = []int64{-1}
		b.refused(codes.InvalidArgument, "supplemental_groups[0]")
	}},
}
