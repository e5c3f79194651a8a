// SPDX-License-Identifier: Apache-2.0

package crictl

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
	"github.com/embedcri/embedcri/internal/testregistry"
)

// TestCommands leads images, pods and containers through their lives by crictl alone.
func TestCommands(t *testing.T) {
	path := find(t)
	registry := testregistry.Start(t, testregistry.Options{})
	c := &crictl{T: t, path: path, node: testnode.Start(t, testnode.Options{}), used: map[string]bool{}}
	config := fmt.Sprintf("runtime-endpoint: unix://%s\nimage-endpoint: unix://%[1]s\ntimeout: %d\n", c.node.Socket, testenv.Slow(60))
	if err := os.WriteFile(filepath.Join(c.node.Dir, "crictl.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	busybox, httpd := registry.Ref(t, "busybox:1"), registry.Ref(t, "httpd:1")

	c.runtime()
	c.images(busybox)
	c.pull(httpd)

	podConfig := c.node.PodConfig()
	podFile := c.file("pod.json", podConfig)
	pod := strings.TrimSpace(c.run("", "runp", podFile))
	c.want([]string{"pods", "--no-trunc"}, pod+`.*Ready.*`+podConfig.Metadata.Name)
	c.want([]string{"inspectp", pod}, `"state": "SANDBOX_READY"`, `"ip": "10\.200\.`)

	events, stop := c.events()
	main := c.node.ContainerConfig(busybox, "sh", "-c", "echo out; echo err >&2; trap exit TERM; while :; do sleep 0.2; done")
	ctr := strings.TrimSpace(c.run("", "create", pod, c.file("main.json", main), podFile))
	c.want([]string{"ps", "-a", "--no-trunc"}, ctr+".*Created")
	c.want([]string{"start", ctr}, ctr)
	c.want([]string{"ps", "--no-trunc"}, ctr+".*Running")
	c.want([]string{"inspect", ctr}, `"state": "CONTAINER_RUNNING"`, `"pid": `)
	events(ctr, "CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT")

	c.execs(ctr)
	c.containerLogs(ctr)
	c.statistics(pod, ctr)
	c.want([]string{"update", "--memory", "67108864", ctr}, ctr)
	c.want([]string{"inspect", ctr}, `"memoryLimitInBytes": "67108864"`)
	if out := c.fails("checkpoint", "--export", filepath.Join(c.node.Dir, "checkpoint.tar"), ctr); !strings.Contains(out, "Unimplemented") {
		t.Errorf("checkpoint: %s", out)
	}
	c.attach(busybox, pod, podFile)
	web := strings.TrimSpace(c.run("", "create", pod, c.file("web.json", c.node.ContainerConfig(httpd)), podFile))
	c.run("", "start", web)
	c.node.Eventually("the web server listens", func() error { // a forwarded connection that is refused ends crictl
		_, err := c.command("exec", "--sync", ctr, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/").CombinedOutput()
		return err
	})
	c.portForward(pod)

	c.want([]string{"stop", "--timeout", "20", ctr}, ctr)
	c.want([]string{"inspect", ctr}, `"state": "CONTAINER_EXITED"`, `"exitCode": 0`)
	events(ctr, "CONTAINER_STOPPED_EVENT")
	c.want([]string{"rm", ctr}, ctr)
	events(ctr, "CONTAINER_DELETED_EVENT")
	stop()
	c.run("", "rm", "--all", "--force")
	c.want([]string{"stopp", pod}, pod)
	c.want([]string{"pods", "--no-trunc"}, pod+".*NotReady")
	c.want([]string{"rmp", pod}, pod)

	c.runAtOnce(busybox)
	c.want([]string{"rmi", busybox}, "busybox")
	c.run("", "rmi", "--all")
	if left := strings.TrimSpace(c.run("", "images", "-q")); left != "" {
		t.Errorf("images are left: %s", left)
	}
	unknown := c.unknown()
	if len(unknown) > 0 {
		t.Errorf("sub-commands that this test does not run: %v", unknown)
	}
	if !t.Failed() {
		delete(c.used, "help")
		c.node.Record(testnode.Figures{Client: testnode.FirstLine(t, path, "--version"), Command: "every sub-command", Passed: len(c.used)})
	}
}

func (c *crictl) runtime() {
	c.want([]string{"version"}, "RuntimeName: +embedcri", "RuntimeApiVersion: +v1")
	c.want([]string{"info"}, `"type": "RuntimeReady"`, `"type": "NetworkReady"`, `"status": true`)
	c.want([]string{"runtime-config"}, "(?i)"+testenv.CgroupDriver())
	c.run("", "update-runtime-config", "--pod-cidr", "10.99.0.0/24")
	c.want([]string{"imagefsinfo"}, `"usedBytes"`, `"mountpoint"`)
}

func (c *crictl) pull(ref string) { c.want([]string{"pull", ref}, "Image is up to date for ") }

func (c *crictl) images(ref string) {
	c.pull(ref)
	name, _, _ := strings.Cut(ref[strings.LastIndexByte(ref, '/')+1:], ":")
	c.want([]string{"images"}, name+` +1 +[0-9a-f]{13}`)
	c.want([]string{"images", "--digests"}, "sha256|[0-9a-f]{13}")
	c.want([]string{"inspecti", ref}, `"repoTags": \[\s*"`+regexp.QuoteMeta(ref), `"size": `)
}

func (c *crictl) execs(ctr string) {
	for _, transport := range []string{"spdy", "websocket"} {
		if out := c.run("in\n", "exec", "-i", "--transport", transport, ctr, "cat"); out != "in\n" {
			c.Errorf("exec over %s: %q", transport, out)
		}
	}
	c.want([]string{"exec", "--sync", ctr, "echo", "in sync"}, "^in sync\n")
	if out := c.fails("exec", ctr, "sh", "-c", "exit 5"); !strings.Contains(out, "5") {
		c.Errorf("exec of exit 5: %s", out)
	}
}

func (c *crictl) containerLogs(ctr string) {
	c.node.Eventually("the log has both lines", func() error {
		if out := c.run("", "logs", ctr); !strings.Contains(out, "out\n") {
			return fmt.Errorf("%q", out)
		}
		return nil
	})
	c.want([]string{"logs", "--timestamps", "--stream", "stdout", ctr}, `(?m)^20\d\d-\S+ out$`)
	c.want([]string{"logs", "--tail", "1", ctr}, `^(out\n)?$`) // the last line may be of the other stream
	c.run("", "logs", "--reopen", ctr)
}

func (c *crictl) statistics(pod, ctr string) {
	c.want([]string{"stats", "-o", "json", ctr}, `"usageCoreNanoSeconds"`, `"workingSetBytes"`, `"writableLayer"`)
	c.want([]string{"stats"}, regexp.QuoteMeta(ctr[:13]))
	c.want([]string{"statsp", "-o", "json", pod}, `"network"`, `"processCount"`)
	c.want([]string{"metricdescs"}, `"name": "container_cpu_usage_seconds_total"`)
	c.want([]string{"metricsp"}, `"podSandboxId": "`+pod, `container_memory_working_set_bytes`)
}

func (c *crictl) attach(image, pod, podFile string) {
	for _, transport := range []string{"spdy", "websocket"} {
		config := c.node.ContainerConfig(image, "cat")
		config.Stdin, config.StdinOnce = true, true
		ctr := strings.TrimSpace(c.run("", "create", pod, c.file("cat.json", config), podFile))
		c.run("", "start", ctr)
		if out := c.run("hello\n", "attach", "-i", "--transport", transport, ctr); out != "hello\n" {
			c.Errorf("attach over %s: %q", transport, out)
		}
		c.node.WaitExited(ctr)
	}
}

func (c *crictl) portForward(pod string) {
	for _, transport := range []string{"spdy", "websocket"} {
		errOut, out, stop := c.background("port-forward", "--transport", transport, pod, ":8080")
		// "Forwarding from 127.0.0.1:41217 -> 8080"
		line, err := bufio.NewReader(out).ReadString('\n')
		m := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
		if m == nil {
			stop()
			c.Fatalf("port-forward over %s: %q, %v\n%s", transport, line, err, errOut)
		}
		c.node.Eventually("the forwarded port answers", func() error {
			r, err := http.Get("http://127.0.0.1:" + m[1] + "/")
			if err == nil {
				r.Body.Close()
			}
			return err
		})
		stop()
	}
}

// events begins to read events, and returns what waits for some of a container, in order, and what ends the reading.
func (c *crictl) events() (wait func(ctr string, types ...string), stop func()) {
	_, out, stop := c.background("events", "-o", "go-template", "--template", "{{.containerId}} {{.containerEventType}}")
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	// Nobody says when the stream is there: the events of a pod that comes and goes do.
	config := c.node.HostPodConfig()
	file := c.file("probe.json", config)
	c.node.Eventually("events come", func() error {
		id := strings.TrimSpace(c.run("", "runp", file))
		c.run("", "rmp", "--force", id)
		select {
		case <-lines:
			return nil
		case <-time.After(50 * time.Millisecond):
			return fmt.Errorf("none")
		}
	})
	return func(ctr string, types ...string) {
		c.Helper()
		limit := time.After(testenv.Slow(30 * time.Second))
		for len(types) > 0 {
			select {
			case line, ok := <-lines:
				if !ok {
					c.Fatalf("the events end; still wanted: %v", types)
				}
				if line == ctr+" "+types[0] || line == ctr+" "+fmt.Sprint(runtimeapi.ContainerEventType_value[types[0]]) {
					types = types[1:]
				}
			case <-limit:
				c.Fatalf("no event %s of container %s", types[0], ctr)
			}
		}
	}, stop
}

// runAtOnce makes a pod and a container by one command.
func (c *crictl) runAtOnce(image string) {
	pod := c.node.PodConfig()
	ctr := strings.TrimSpace(c.run("", "run", "--no-pull", c.file("once.json", c.node.ContainerConfig(image, "sh", "-c", "exit 3")), c.file("once-pod.json", pod)))
	if s := c.node.WaitExited(ctr); s.ExitCode != 3 {
		c.Errorf("run: exit code %d", s.ExitCode)
	}
	c.run("", "rmp", "--all", "--force")
}
