// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// streamNode is a node with one pod on the host's network, for tests of what goes in and out of containers.
type streamNode struct {
	*testnode.Node
	t       testing.TB
	ref     string // busybox with the program stream
	pc      *runtimeapi.PodSandboxConfig
	pod     string
	metrics string // URL
}

func startStreamNode(t testing.TB) *streamNode {
	t.Helper()
	addr := freeAddress(t)
	n := &streamNode{
		Node: testnode.Start(t, testnode.Options{NoNetwork: true, Config: fmt.Sprintf("[metrics]\naddress = %q\n", addr)}),
		t:    t, ref: registry.Ref(t, "stream:1"), metrics: "http://" + addr + "/metrics",
	}
	n.Pull(n.ref)
	n.pc = n.HostPodConfig()
	n.pod = n.RunPod(n.pc)
	return n
}

// freeAddress is an address on loopback that nobody listened on a moment ago.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run starts a container of the node's image. change may be nil.
func (n *streamNode) run(change func(*runtimeapi.ContainerConfig), command ...string) string {
	n.t.Helper()
	cfg := n.ContainerConfig(n.ref, command...)
	if change != nil {
		change(cfg)
	}
	return n.Run(n.pod, n.pc, cfg)
}

// waiting makes a container that runs the program stream wait for release.
func waiting(c *runtimeapi.ContainerConfig) {
	c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "STREAM_WAIT", Value: []byte("/tmp/go")})
}

// release lets it go on. It may be called while the daemon is dead, with a pid that was asked for before.
func release(t testing.TB, pid int) {
	t.Helper()
	if err := touch(fmt.Sprintf("/proc/%d/root/tmp/go", pid)); err != nil {
		t.Fatal(err)
	}
}

// pidOf returns the host's pid of a container's init.
func (n *streamNode) pidOf(id string) int {
	n.t.Helper()
	r, err := n.Runtime.ContainerStatus(n.Ctx(), id, true)
	if err != nil {
		n.t.Fatal(err)
	}
	return infoPid(n.t, r.Info)
}

// processesIn returns the living processes of a container whose command line contains text, by the host's pids.
func processesIn(id, text string) []int {
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cg, err := os.ReadFile(p + "/cgroup")
		if err != nil || !bytes.Contains(cg, []byte(id)) {
			continue
		}
		args, err := os.ReadFile(p + "/cmdline")
		if err != nil || len(args) == 0 { // a zombie has none
			continue
		}
		if bytes.Contains(bytes.ReplaceAll(args, []byte{0}, []byte{' '}), []byte(text)) {
			pid, _ := strconv.Atoi(filepath.Base(p))
			pids = append(pids, pid)
		}
	}
	return pids
}

// stop stops and removes a container.
func (n *streamNode) stop(id string) {
	n.t.Helper()
	if err := n.Runtime.StopContainer(n.Ctx(), id, 0); err != nil {
		n.t.Error(err)
	}
	if err := n.Runtime.RemoveContainer(n.Ctx(), id); err != nil {
		n.t.Error(err)
	}
}

// transports are the ways in which client-go, and so kubectl and the kubelet, speak to a streaming server. Only v4 cannot end stdin.
var transports = []string{"spdy", "websocket v5", "websocket v4"}

// connect speaks to the URL of a session until it ends.
func connect(ctx context.Context, transport, u string, o remotecommand.StreamOptions) error {
	var e remotecommand.Executor
	parsed, err := url.Parse(u)
	if err != nil {
		return err
	}
	switch transport {
	case "spdy":
		e, err = remotecommand.NewSPDYExecutor(&restclient.Config{}, http.MethodPost, parsed)
	case "websocket v5":
		e, err = remotecommand.NewWebSocketExecutor(&restclient.Config{}, http.MethodGet, u)
	case "websocket v4":
		e, err = remotecommand.NewWebSocketExecutorForProtocols(&restclient.Config{}, http.MethodGet, u, "v4.channel.k8s.io")
	default:
		err = errors.New("unknown transport")
	}
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, o)
}

// exec runs a command with streams. It may be called beside the test's goroutine.
func (n *streamNode) exec(ctx context.Context, transport, id string, o remotecommand.StreamOptions, cmd ...string) error {
	r, err := n.Runtime.Exec(ctx, &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: cmd, Tty: o.Tty, Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
	})
	if err != nil {
		return err
	}
	return connect(ctx, transport, r.Url, o)
}

// attach connects to a container's own streams, likewise.
func (n *streamNode) attach(ctx context.Context, transport, id string, o remotecommand.StreamOptions) error {
	r, err := n.Runtime.Attach(ctx, &runtimeapi.AttachRequest{
		ContainerId: id, Tty: o.Tty, Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
	})
	if err != nil {
		return err
	}
	return connect(ctx, transport, r.Url, o)
}

// output collects what a session writes, for other goroutines to look at meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// has waits until the output holds text.
func (n *streamNode) has(o *output, text string) {
	n.t.Helper()
	n.Eventually("output", func() error {
		if s := o.String(); !strings.Contains(s, text) {
			return fmt.Errorf("%.200q has no %q", s, text)
		}
		return nil
	})
}

// usage is what the daemon takes of the machine. Its memory is the anonymous part: of pages that other daemons map too, such as the
// program's, each one's part (PSS) changes as they come and go.
type usage struct {
	fds, threads, goroutines int
	anon                     int // KiB
	cpu                      time.Duration
}

func (u usage) String() string {
	return fmt.Sprintf("%d fds, %d threads, %d goroutines, %d KiB of anonymous memory, %.2f CPU-s", u.fds, u.threads, u.goroutines, u.anon, u.cpu.Seconds())
}

// usage asks the kernel, and the daemon's metrics for its goroutines.
func (n *streamNode) usage() usage {
	n.t.Helper()
	proc := fmt.Sprintf("/proc/%d", n.Pid())
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		n.t.Fatal(err)
	}
	u := usage{fds: len(fds), threads: field(n.t, proc+"/status", "Threads:"), anon: field(n.t, proc+"/smaps_rollup", "Pss_Anon:")}
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		n.t.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, ticks := range f[11:13] { // utime and stime of proc_pid_stat(5), in 1/100 s
		v, _ := strconv.Atoi(ticks)
		u.cpu += time.Duration(v) * 10 * time.Millisecond
	}
	u.goroutines = int(n.metric("go_goroutines"))
	return u
}

func field(t testing.TB, file, name string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			v, _ := strconv.Atoi(f[1])
			return v
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return 0
}

// metric returns one metric of the daemon.
func (n *streamNode) metric(name string) float64 {
	n.t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := c.Get(n.metrics)
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Body.Close()
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 2 && f[0] == name {
			v, _ := strconv.ParseFloat(f[1], 64)
			return v
		}
	}
	n.t.Fatalf("no metric %s", name)
	return 0
}

// flat wants the daemon to hold as much after f as before it. What a session leaves is let go within moments of its end, so that is
// waited for.
func (n *streamNode) flat(f func()) {
	n.t.Helper()
	before := n.usage()
	f()
	var after usage
	n.Eventually("the daemon lets go of everything", func() error {
		if after = n.usage(); after.fds > before.fds || after.goroutines > before.goroutines {
			return fmt.Errorf("before: %v; after: %v", before, after)
		}
		return nil
	})
	n.t.Logf("before: %v; after: %v", before, after)
}

// logFiles returns a container's log, the oldest file first: path.1, path.2 and so on, and path.
func logFiles(t testing.TB, path string) []string {
	t.Helper()
	var files []string
	for i := 1; ; i++ {
		f := fmt.Sprintf("%s.%d", path, i)
		if _, err := os.Stat(f); err != nil {
			break
		}
		files = append(files, f)
	}
	if _, err := os.Stat(path); err == nil {
		files = append(files, path)
	}
	return files
}

// eachEntry reads log files, and calls f with each entry: the stream, P or F, and the text. The text is only good until f returns.
func eachEntry(t testing.TB, files []string, f func(stream string, tag byte, text []byte)) {
	t.Helper()
	n := 0
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReaderSize(file, 1<<20)
		for {
			line, err := r.ReadSlice('\n')
			if errors.Is(err, io.EOF) && len(line) == 0 {
				break
			}
			at, rest, _ := bytes.Cut(line, []byte{' '})
			stream, rest, _ := bytes.Cut(rest, []byte{' '})
			if err != nil || len(rest) < 3 || rest[1] != ' ' || rest[0] != 'P' && rest[0] != 'F' {
				t.Fatalf("%s has %.100q, %v", filepath.Base(name), line, err)
			}
			if n++; n%1000 == 1 { // parsing takes longer than all the rest
				if _, err := time.Parse(time.RFC3339Nano, string(at)); err != nil {
					t.Fatalf("%s has a line of %q: %v", filepath.Base(name), at, err)
				}
			}
			f(string(stream), rest[0], rest[2:len(rest)-1])
		}
		file.Close()
	}
}

// checkLines wants in a log what "stream lines n size" writes: every line once, in order, undamaged.
func checkLines(t testing.TB, path string, n, size int) {
	t.Helper()
	want := bytes.Repeat([]byte{'x'}, size-1)
	want[10] = ' '
	next, bad := 0, 0
	var line []byte // of parts
	files := logFiles(t, path)
	eachEntry(t, files, func(stream string, tag byte, text []byte) {
		if line = append(line, text...); string(line) == "tick" { // what some containers say while they wait
			line = line[:0]
			return
		}
		if tag == 'P' {
			return
		}
		copy(want, fmt.Appendf(nil, "%010d", next))
		if stream != "stdout" || !bytes.Equal(line, want) {
			if bad++; bad < 5 {
				t.Errorf("%s: line %d is %.40q, of %d bytes", filepath.Base(path), next, line, len(line))
			}
			if got, err := strconv.Atoi(string(line[:min(10, len(line))])); err == nil {
				next = got
			}
		}
		next++
		line = line[:0]
	})
	if next != n || bad > 0 || len(line) > 0 {
		t.Errorf("%s: %d lines in %d files, want %d; %d wrong, a rest of %d bytes", filepath.Base(path), next, len(files), n, bad, len(line))
	}
}

// envInt is a number from the environment, by which a test can be made longer.
func envInt(name string, n int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return n
}
