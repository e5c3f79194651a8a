package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/embedcri/embedcri/internal/testregistry"
)

func TestZZCompare(t *testing.T) {
	if os.Getenv("ZZ") == "" {
		t.Skip()
	}
	reg := testregistry.Start(t, testregistry.Options{})
	img, err := testregistry.Random(1, 8, 62<<20)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := reg.Push(t, "big:1", img)
	dir := t.TempDir()
	cfg := filepath.Join(dir, "config.toml")
	os.WriteFile(cfg, []byte("version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\",\"io.containerd.cri.v1.images\",\"io.containerd.cri.v1.runtime\"]\n"), 0o644)
	sock := filepath.Join(dir, "c.sock")
	c := exec.Command("/tmp/imgtools/containerd", "-c", cfg, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "-a", sock)
	c.Stderr, _ = os.Create("/tmp/imgtools/containerd.log")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	for range 100 {
		if exec.Command("/tmp/imgtools/ctr", "-a", sock, "version").Run() == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for i := range 5 {
		for _, local := range []string{"--local=false"} {
			start := time.Now()
			out, err := exec.Command("/tmp/imgtools/ctr", "-a", sock, "images", "pull", local, "--plain-http", ref).CombinedOutput()
			if err != nil {
				t.Fatalf("%v %s", err, out)
			}
			fmt.Println("containerd", local, i, time.Since(start))
			exec.Command("/tmp/imgtools/ctr", "-a", sock, "images", "rm", "--sync", ref).Run()
			exec.Command("sync").Run()
		}
		s := open(t, Options{})
		start := time.Now()
		var lastp time.Time
		if _, err := s.Pull(t.Context(), PullRequest{Ref: ref, Progress: func(p Progress) {
			if time.Since(lastp) > 500*time.Hour {
				lastp = time.Now()
				fmt.Printf("%v %v d=%v u=%v\n", time.Since(start).Round(time.Millisecond), p.Stage, p.Total().Downloaded>>20, p.Total().Unpacked>>20)
			}
		}}); err != nil {
			t.Fatal(err)
		}
		fmt.Println("embedcri", i, time.Since(start))
		closeStore(t, s)
		os.RemoveAll(s.options.Root)
		exec.Command("sync").Run()
	}
}
