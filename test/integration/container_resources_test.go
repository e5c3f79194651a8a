// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/cgroup"
)

// cgroupFile reads a control file of a container: v1 names are given by controller and file, v2 names alone.
func (b *bed) cgroupFile(id, controller, v1, v2 string) string {
	b.t.Helper()
	cg, file := b.cgroup(id), v1
	if cgroup.Unified() {
		file = v2
	}
	c, err := os.ReadFile(filepath.Join(cg.Dir(controller), file))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(c))
}

// limits compares what the kernel enforces and what the status says with what was asked. Shares are left to the status on v2,
// where runtimes turn them into a weight, each in its own way.
func (b *bed) limits(id string, r *runtimeapi.LinuxContainerResources) {
	b.t.Helper()
	cpu := fmt.Sprintf("%d %d", r.CpuQuota, r.CpuPeriod)
	got := b.cgroupFile(id, "cpu", "cpu.cfs_quota_us", "cpu.max")
	if !cgroup.Unified() {
		got += " " + b.cgroupFile(id, "cpu", "cpu.cfs_period_us", "")
		if shares := b.cgroupFile(id, "cpu", "cpu.shares", ""); shares != fmt.Sprint(r.CpuShares) {
			b.t.Errorf("kernel: %s shares, want %d", shares, r.CpuShares)
		}
	}
	if got != cpu {
		b.t.Errorf("kernel: quota and period %q, want %q", got, cpu)
	}
	if got := b.cgroupFile(id, "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(r.MemoryLimitInBytes) {
		b.t.Errorf("kernel: memory limit %s, want %d", got, r.MemoryLimitInBytes)
	}
	if got := b.cgroupFile(id, "cpuset", "cpuset.cpus", "cpuset.cpus"); got != r.CpusetCpus {
		b.t.Errorf("kernel: cpuset %q, want %q", got, r.CpusetCpus)
	}
	s := proto.CloneOf(b.Status(id).GetResources().GetLinux())
	if s.GetMemorySwapLimitInBytes() != 0 && s.MemorySwapLimitInBytes != r.MemoryLimitInBytes {
		b.t.Errorf("status: memory and swap %d, want no swap", s.MemorySwapLimitInBytes)
	}
	s.MemorySwapLimitInBytes = 0
	if !proto.Equal(s, r) {
		b.t.Errorf("status: %v, want %v", s, r)
	}
}

// resourceFeatures: how much a container may use.
var resourceFeatures = []feature{
	{"resources and their update", func(b *bed) {
		now := &runtimeapi.LinuxContainerResources{
			CpuShares: 512, CpuQuota: 20000, CpuPeriod: 50000, CpusetCpus: "0", MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900,
		}
		b.cfg.Command, b.cfg.Linux.Resources = []string{"sleep", "1000"}, proto.CloneOf(now)
		id := b.create()
		update := func(r *runtimeapi.LinuxContainerResources) error {
			return b.Runtime.UpdateContainerResources(b.Ctx(), id, &runtimeapi.ContainerResources{Linux: r})
		}
		b.limits(id, now)
		if got := b.cgroupFile(id, "pids", "pids.max", "pids.max"); got != "333" { // the handler's
			b.t.Errorf("kernel: pids %s", got)
		}
		for _, state := range []string{"created", "running"} {
			if state == "running" {
				if err := b.Runtime.StartContainer(b.Ctx(), id); err != nil {
					b.t.Fatal(err)
				}
			}
			now.MemoryLimitInBytes += 32 << 20
			if err := update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: now.MemoryLimitInBytes}); err != nil {
				b.t.Errorf("%s: %v", state, err)
			}
			b.limits(id, now)
			now.CpuShares, now.CpuQuota = now.CpuShares*2, now.CpuQuota+10000
			// The kubelet repeats the first oom_score_adj, and any other is not acted on.
			if err := update(&runtimeapi.LinuxContainerResources{CpuShares: now.CpuShares, CpuQuota: now.CpuQuota, CpuPeriod: now.CpuPeriod, OomScoreAdj: 1}); err != nil {
				b.t.Errorf("%s: %v", state, err)
			}
			b.limits(id, now)
			// What cannot be is refused, and nothing of it is applied or reported.
			for name, r := range map[string]*runtimeapi.LinuxContainerResources{
				"no such CPU":       {CpusetCpus: "900", MemoryLimitInBytes: 200 << 20},
				"not a list":        {CpusetCpus: "all"},
				"negative":          {MemoryLimitInBytes: -2},
				"swap below memory": {MemoryLimitInBytes: 100 << 20, MemorySwapLimitInBytes: 50 << 20},
				"hugepages":         {HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1 << 21}}},
			} {
				if err := update(r); err == nil {
					b.t.Errorf("%s, %s: no error", state, name)
				}
			}
			b.limits(id, now)
		}
		if got := b.exec(id, "cat /proc/1/oom_score_adj"); got[0] != "900" {
			b.t.Errorf("oom_score_adj is %s", got)
		}
		if err := b.Runtime.StopContainer(b.Ctx(), id, 0); err != nil {
			b.t.Fatal(err)
		}
		want(b.t, update(&runtimeapi.LinuxContainerResources{CpuShares: 2}), codes.FailedPrecondition, "update container")
	}},
	{"unified", func(b *bed) {
		b.cfg.Command = []string{"sleep", "1000"}
		b.cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{Unified: map[string]string{"memory.high": "50331648"}}
		if !cgroup.Unified() {
			b.refused(codes.FailedPrecondition, "cgroup v1")
			return
		}
		id := b.create()
		if got := b.cgroupFile(id, "", "", "memory.high"); got != "50331648" {
			b.t.Errorf("kernel: memory.high %s", got)
		}
		if got := b.Status(id).Resources.Linux.Unified; got["memory.high"] != "50331648" {
			b.t.Errorf("status: %v", got)
		}
		b.cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{Unified: map[string]string{"../memory.high": "1"}}
		b.refused(codes.InvalidArgument, "unified")
	}},
	{"pids limit", func(b *bed) {
		// 333 for the handler: a fork bomb ends there.
		id := b.says("echo up", "up")
		if got := b.exec(id, `i=0; while [ $i -lt 400 ]; do sleep 5 & i=$((i+1)); done 2>&1 | grep -c -m1 "can't fork"`); got[0] != "1" {
			b.t.Errorf("400 processes were forked: %q", got)
		}
	}},
}

// taskFeatures: the verbs of an OCI task that no other test goes through under every runtime.
var taskFeatures = []feature{
	{"pause", func(b *bed) {
		b.cfg.Command = []string{"sh", "-c", "while :; do echo tick; sleep 0.02; done"}
		id := b.start()
		task := func(verb string) {
			b.t.Helper()
			if out, err := embedcri(b.Node, "task", verb, id); err != nil {
				b.t.Fatalf("%s: %v %s", verb, err, out)
			}
		}
		task("pause")
		_, _, err := b.Runtime.ExecSync(b.Ctx(), id, []string{"true"}, time.Second)
		want(b.t, err, codes.FailedPrecondition, "paused")
		ticks := len(b.text(id))
		task("resume")
		b.Eventually("ticks go on", func() error {
			if len(b.text(id)) <= ticks+1 {
				return os.ErrDeadlineExceeded
			}
			return nil
		})
		task("pause")
		if err := b.Runtime.StopContainer(b.Ctx(), id, 1); err != nil {
			b.t.Error(err)
		}
		if s := b.Status(id); s.ExitCode != 137 && s.ExitCode != 143 {
			b.t.Errorf("stopped while paused: code %d", s.ExitCode)
		}
	}},
	{"kill all", func(b *bed) {
		// In the node's pid namespace the kernel does not end the rest with the first process.
		b.pc.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		b.sc().NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		id := b.says(`setsid sleep 1001 & setsid sh -c 'trap "" TERM; sleep 1002 & wait' & echo up`, "up")
		cg := b.cgroup(id)
		b.Eventually("all run: four of the container, three that the exec has left", func() error {
			if pids, err := cg.Pids(); err != nil || len(pids) != 7 {
				return fmt.Errorf("processes %v, %v", pids, err)
			}
			return nil
		})
		if err := b.Runtime.StopContainer(b.Ctx(), id, 0); err != nil {
			b.t.Error(err)
		}
		b.Eventually("all have ended", func() error {
			if pids, err := cg.Pids(); err != nil || len(pids) > 0 {
				return fmt.Errorf("left %v, %v", pids, err)
			}
			return nil
		})
	}},
}
