// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/network"
)

// gone reports whether no process, not even a zombie, has the pid that a plug-in wrote down.
func (f *fakes) gone(file string) bool {
	f.t.Helper()
	pid, err := strconv.Atoi(f.read(file))
	if err != nil {
		f.t.Fatal(err)
	}
	return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// subreaper makes the test what the daemon is, or its plug-ins' orphans would be pid 1's.
func subreaper(t testing.TB) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
}

func TestHangingPlugin(t *testing.T) {
	subreaper(t)
	for name, script := range map[string]string{
		"alone":           `sleep 1000`,
		"with children":   `sh -c 'echo $$ > '$dir'/child; sleep 1000; true' & wait`,
		"deaf to signals": `trap '' TERM INT HUP; sh -c 'echo $$ > '$dir'/child; sleep 1000; true' & wait; while :; do sleep 1; done`,
		"having answered": `echo '{"cniVersion":"1.0.0","ips":[{"address":"198.51.100.7/24"}]}'; sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakes(t)
			f.Timeout = 2 * time.Second // the DELs have to make it on a busy machine
			f.plugin("first", result)
			f.plugin("hang", `[ $CNI_COMMAND = ADD ] || exit 0; echo $$ > $dir/leader; echo $$ > $dir/child; echo about to hang >&2; `+script)
			f.network("10-net.conflist", "net1", "1.0.0", "first", "hang")
			n := open(t, f.Options)
			a := plan(t, n, network.Pod{})

			start := time.Now()
			err := n.Attach(t.Context(), a)
			mustContain(t, err, `network "net1"`, "plug-in hang: ADD: killed: no end within 2s", "about to hang")
			if !errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v: want unavailable, and not the caller's deadline", err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if !f.gone("leader") || !f.gone("child") {
				t.Error("the plug-in's processes are not gone")
			}
			if got, want := f.log(), "first ADD eth0, hang ADD eth0, hang DEL eth0, first DEL eth0"; got != want {
				t.Errorf("calls are %s, want %s", got, want)
			}
			if len(a.IPs) != 0 {
				t.Errorf("IPs are %v", a.IPs)
			}
		})
	}
}

// TestHangingDel shows that a DEL has its own time, whatever the caller's context is.
func TestHangingDel(t *testing.T) {
	subreaper(t)
	f := newFakes(t)
	f.Timeout = time.Second
	f.plugin("hang", result+`; if [ $CNI_COMMAND = DEL ] && [ ! -e $dir/freed ]; then sleep 1000; fi`)
	f.network("10-net.conflist", "net1", "1.0.0", "hang")
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	mustContain(t, n.Detach(t.Context(), a), `network "net1"`, "plug-in hang: DEL: killed: no end within 1s")
	if err := os.WriteFile(filepath.Join(f.dir, "freed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(t.Context(), a); err != nil {
		t.Error(err)
	}
}

func TestCancelledAttachIsUndone(t *testing.T) {
	subreaper(t)
	f := newFakes(t)
	f.plugin("slow", result+`; if [ $CNI_COMMAND = ADD ]; then : > $dir/started; sleep 1000; fi`)
	f.network("10-net.conflist", "net1", "1.0.0", "slow")
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the pod is no longer wanted")
	go func() {
		eventually(t, "plug-in started", func() bool { _, err := os.Stat(filepath.Join(f.dir, "started")); return err == nil })
		cancel(why)
	}()
	err := n.Attach(ctx, a)
	if !errors.Is(err, why) {
		t.Errorf("error is %v, want the reason of the cancellation", err)
	}
	if got, want := f.log(), "slow ADD eth0, slow DEL eth0"; got != want {
		t.Errorf("calls are %s, want %s", got, want)
	}
}

func TestFailingAdd(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         []string
	}{
		{"CNI error", `echo '{"cniVersion":"1.0.0","code":7,"msg":"no such bridge","details":"br7"}'; echo why >&2; exit 1`,
			[]string{"plug-in bad: ADD: no such bridge: br7 (code 7)", `(stderr: "why")`}},
		{"garbage and failure", `echo oops; exit 3`, []string{"plug-in bad: ADD: exit status 3", `its output is "oops\n"`}},
		{"nothing and failure", `echo only this >&2; exit 1`, []string{"plug-in bad: ADD: exit status 1", "only this"}},
		{"garbage and success", `echo 'all is well!'`, []string{"plug-in bad: ADD", `without a result`, "all is well!"}},
		{"nothing and success", `:`, []string{"plug-in bad: ADD", `without a result`}},
		{"a flood", `head -c 20000000 /dev/zero; exit 1`, []string{"plug-in bad: ADD: exit status 1", "bytes more"}},
		{"a strange version", `echo '{"cniVersion":"77.0.0"}'`, []string{"bad", "77.0.0"}},
		{"no address", `echo '{"cniVersion":"1.0.0"}'`, []string{"no IP address"}},
		{"killed", `kill -KILL $$`, []string{"plug-in bad: ADD: signal: killed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakes(t)
			f.plugin("first", `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0"}'`)
			f.plugin("bad", `[ $CNI_COMMAND = ADD ] || exit 0; `+c.script)
			f.network("10-net.conflist", "net1", "1.0.0", "first", "bad")
			n := open(t, f.Options)
			err := n.Attach(t.Context(), plan(t, n, network.Pod{}))
			mustContain(t, err, append(c.want, `network "net1"`)...)
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if got, want := f.log(), "first ADD eth0, bad ADD eth0, bad DEL eth0, first DEL eth0"; got != want {
				t.Errorf("calls are %s, want %s", got, want)
			}
		})
	}
}

func TestFailingAddAndUndo(t *testing.T) {
	f := newFakes(t)
	f.plugin("bad", `echo "{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"$CNI_COMMAND refused\"}"; exit 1`)
	f.network("10-net.conflist", "net1", "1.0.0", "bad")
	n := open(t, f.Options)
	err := n.Attach(t.Context(), plan(t, n, network.Pod{}))
	mustContain(t, err, "ADD refused", "undo attach", "DEL refused")
}

func TestDelFailsFiveTimes(t *testing.T) {
	f := newFakes(t)
	f.plugin("first", result)
	f.plugin("bad", result+`
		if [ $CNI_COMMAND = DEL ]; then
			echo x >> $dir/tries
			[ $(wc -l < $dir/tries) -gt 5 ] || { echo '{"cniVersion":"1.0.0","code":11,"msg":"busy"}'; exit 1; }
		fi`)
	f.network("10-net.conflist", "net1", "1.0.0", "first", "bad")
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	a = stored(t, a)
	f.log()
	for range 5 {
		mustContain(t, n.Detach(t.Context(), a), `network "net1"`, "plug-in bad: DEL: busy")
	}
	if got := f.log(); strings.Contains(got, "first") {
		t.Errorf("calls are %s; DEL stops where it fails", got)
	}
	if err := n.Detach(t.Context(), a); err != nil {
		t.Error(err)
	}
	if got, want := f.log(), "bad DEL eth0, first DEL eth0"; got != want {
		t.Errorf("calls are %s, want %s", got, want)
	}
}

func TestMissingPlugin(t *testing.T) {
	f := newFakes(t)
	f.plugin("first", result)
	f.network("10-net.conflist", "net1", "1.0.0", "first", "nowhere")
	n := open(t, f.Options)
	pod := network.Pod{ID: podID("pod"), NetNS: "/proc/self/ns/net"}
	// An ADD of the first could not be undone, as DEL begins with the last.
	_, err := n.Plan(pod)
	mustContain(t, err, `network "net1"`, "plug-in nowhere is not in "+f.BinDirs[0])
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error %v, want failed precondition", err)
	}
	f.plugin("nowhere", result)
	a := plan(t, n, network.Pod{})
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	// One that goes away later cannot be run, and its DEL must not be believed done.
	if err := os.Remove(filepath.Join(f.BinDirs[0], "nowhere")); err != nil {
		t.Fatal(err)
	}
	mustContain(t, n.Detach(t.Context(), a), `network "net1"`, "nowhere")
	f.plugin("nowhere", "")
	if err := n.Detach(t.Context(), a); err != nil {
		t.Error(err)
	}

	for name, conf := range map[string]string{
		"is no name of a plug-in": `{"type":"../bin/first"}`, "plug-in no-ipam is not in": `{"type":"first","ipam":{"type":"no-ipam"}}`,
	} {
		f.conf("10-net.conflist", `{"cniVersion":"1.0.0","name":"net1","plugins":[`+conf+`]}`)
		eventually(t, name, func() bool { _, err := n.Plan(pod); return err != nil && strings.Contains(err.Error(), name) })
	}
}

// TestPluginLeavesDaemon: a process that a plug-in starts for good lives on, and nobody waits for
// it although it holds the plug-in's output.
func TestPluginLeavesDaemon(t *testing.T) {
	f := newFakes(t)
	f.plugin("dhcp", result+`; if [ $CNI_COMMAND = ADD ]; then sleep 1000 & echo $! > $dir/daemon; fi`)
	f.network("10-net.conflist", "net1", "1.0.0", "dhcp")
	n := open(t, f.Options)
	a := plan(t, n, network.Pod{})
	start := time.Now()
	if err := n.Attach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	pid, err := strconv.Atoi(f.read("daemon"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("the plug-in's process is gone: %v", err)
	}
}

func TestParallelIsBounded(t *testing.T) {
	f := newFakes(t)
	f.MaxParallel = 3
	f.plugin("count", `
		: > $dir/running-$$
		ls $dir | grep -c running- >> $dir/seen
		sleep 0.02
		rm $dir/running-$$
		`+result)
	f.network("10-net.conflist", "net1", "1.0.0", "count")
	n := open(t, f.Options)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			a := plan(t, n, network.Pod{ID: podID("pod" + strconv.Itoa(i))})
			if err := n.Attach(t.Context(), a); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	most := 0
	for _, s := range strings.Fields(f.read("seen")) {
		k, _ := strconv.Atoi(s)
		most = max(most, k)
	}
	if most > 3 || most < 2 {
		t.Errorf("%d plug-ins ran at a time, want 2 or 3", most)
	}

	// Waiting for a slot ends with the caller's context, and says what it waited for.
	f.plugin("count", `: > $dir/busy; sleep 0.5; `+result)
	for i := range 3 {
		wg.Go(func() { _ = n.Attach(t.Context(), plan(t, n, network.Pod{ID: podID("busy" + strconv.Itoa(i))})) })
	}
	eventually(t, "busy", func() bool { _, err := os.Stat(filepath.Join(f.dir, "busy")); return err == nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := n.Attach(ctx, plan(t, n, network.Pod{}))
	mustContain(t, err, "wait for one of 3 plug-in slots")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the deadline", err)
	}
	wg.Wait()
}
