// SPDX-License-Identifier: Apache-2.0

package namespace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/namespace"
)

func TestDo(t *testing.T) {
	_, p := create(t, namespace.Spec{Net: true})
	want := identity(t, p.Net)
	wrong := errors.New("fn's own")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := namespace.Do(p.Net, func() error {
				if got := identity(t, "/proc/thread-self/ns/net"); got != want {
					t.Errorf("runs in %s, want %s", got, want)
				}
				return wrong
			})
			if !errors.Is(err, wrong) {
				t.Errorf("error is %v", err)
			}
		})
	}
	wg.Wait()
	if err := namespace.Do(p.Net+"x", func() error { t.Error("ran"); return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want not exist", err)
	}
	if err := namespace.Do("/proc/self/ns/uts", func() error { t.Error("ran"); return nil }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error is %v, want EINVAL", err)
	}
}

func TestDial(t *testing.T) {
	_, p := create(t, namespace.Spec{Net: true})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, c := range []struct{ listen, network, host string }{
		{"127.0.0.1:0", "tcp", "localhost"},
		{"[::1]:0", "tcp", "localhost"},
		{"127.0.0.1:0", "tcp4", "127.0.0.1"},
		{"[::1]:0", "tcp6", "::1"},
	} {
		t.Run(c.network+"/"+c.listen, func(t *testing.T) {
			var l net.Listener
			if err := namespace.Do(p.Net, func() (err error) { l, err = net.Listen("tcp", c.listen); return err }); err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(conn, conn)
				conn.Close()
			}()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			conn, err := namespace.Dial(ctx, p.Net, c.network, net.JoinHostPort(c.host, port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			sent := bytes.Repeat([]byte("forward "), 10000)
			go func() { _, _ = conn.Write(sent); _ = conn.(*net.TCPConn).CloseWrite() }()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("echo returned %d bytes, %v; sent %d", len(got), err, len(sent))
			}
			// On the host nobody listens there.
			if conn, err := net.Dial("tcp", net.JoinHostPort(c.host, port)); err == nil {
				conn.Close()
				t.Error("the host reaches it too")
			}
		})
	}
	if _, err := namespace.Dial(ctx, p.Net, "tcp", "localhost:1"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error is %v, want connection refused", err)
	}
	for _, bad := range [][2]string{{"udp", "127.0.0.1:1"}, {"tcp", "example.org:1"}, {"tcp", "127.0.0.1"}, {"tcp4", "[::1]:1"}, {"tcp", "127.0.0.1:http"}} {
		if _, err := namespace.Dial(ctx, p.Net, bad[0], bad[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: error is %v, want invalid argument", bad, err)
		}
	}
}

// TestDialGivesUp dials an address that never answers.
func TestDialGivesUp(t *testing.T) {
	_, p := create(t, namespace.Spec{Net: true})
	// A route and a neighbour that swallow everything.
	inside(t, p, "sh", "-c", `ip link add hole0 type bridge && ip addr add 198.51.100.1/24 dev hole0 && ip link set hole0 up &&
		ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev hole0`)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	conn, err := namespace.Dial(ctx, p.Net, "tcp", "198.51.100.2:80")
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want the deadline", err)
	}
}

// TestThreadsStayHome creates many at a time and looks whether a thread of this process is left in
// a pod's namespace, the main thread above all.
func TestThreadsStayHome(t *testing.T) {
	parent := nsDir(t)
	homes := map[string]string{}
	for _, name := range []string{"net", "ipc", "uts"} {
		homes[name] = identity(t, "/proc/self/ns/"+name)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 10 {
				dir := filepath.Join(parent, fmt.Sprintf("pod-%d-%d", i, j))
				if _, err := namespace.Create(dir, namespace.Spec{Net: true, IPC: true, UTS: true, Hostname: "x"}); err != nil {
					t.Error(err)
				}
				if err := namespace.Delete(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for name, home := range homes {
		if got := identity(t, "/proc/self/ns/"+name); got != home {
			t.Fatalf("the main thread is in another %s namespace", name)
		}
		// A thread that has been told to end may take a moment.
		deadline := time.Now().Add(5 * time.Second)
		for {
			away := 0
			tasks, _ := filepath.Glob("/proc/self/task/*/ns/" + name)
			for _, task := range tasks {
				var st unix.Stat_t
				if unix.Stat(task, &st) == nil && fmt.Sprintf("%d:%d", st.Dev, st.Ino) != home {
					away++
				}
			}
			if away == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d threads are in another %s namespace", away, name)
			}
			time.Sleep(time.Millisecond)
		}
	}
}
