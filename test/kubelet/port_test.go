// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"

	"github.com/embedcri/embedcri/internal/testenv"
)

func sorted(lines string) []string { return slices.Sorted(strings.Lines(lines)) }

// logs reads containers' logs as kubectl does, through the API server's way: the kubelet's port.
func (k *kubelet) logs() {
	for container, want := range map[string]string{
		"web/web": "it begins\nto stderr\n",
		"job/bad": "", "job/good": "done\n",
		"shared/two": "seen\n",
		"init/main":  "from the first\ninit-" + nodeName + "\nin memory\n1000\n1000 2000\nread-only\n",
	} {
		pod, name, _ := strings.Cut(container, "/")
		k.eventually("log of "+container, 30*time.Second, func() error {
			got, err := k.get("/containerLogs/default/" + pod + "-" + nodeName + "/" + name)
			// What goes through two pipes has no order between them.
			if err == nil && !slices.Equal(sorted(got), sorted(want)) {
				err = fmt.Errorf("%q; want %q", got, want)
			}
			return err
		})
	}
	got := k.mustGet("/containerLogs/default/web-" + nodeName + "/web?timestamps=true&tailLines=1")
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+ to stderr\n$`).MatchString(got) && !strings.HasSuffix(got, " it begins\n") {
		k.Errorf("last line with its time: %q", got)
	}
	if users := k.mustGet("/containerLogs/default/users-" + nodeName + "/main"); !regexp.MustCompile(`^0\n +0 +[1-9]\d+ +65536\n$`).MatchString(users) {
		k.Errorf("user namespace: %q", users)
	}
}

func (k *kubelet) url(path string, query url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", k.port), Path: path, RawQuery: query.Encode()}
}

var restConfig = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

// executors are the two ways to speak to the kubelet.
func executors(u *url.URL) (map[string]remotecommand.Executor, error) {
	websocket, err := remotecommand.NewWebSocketExecutor(restConfig, http.MethodGet, u.String())
	if err != nil {
		return nil, err
	}
	old, err := remotecommand.NewSPDYExecutor(restConfig, http.MethodPost, u)
	return map[string]remotecommand.Executor{"WebSocket": websocket, "SPDY": old}, err
}

// exec runs a command over WebSocket, as kubectl does.
func (k *kubelet) exec(pod, container string, command ...string) (string, error) {
	es, err := executors(k.url("/exec/default/"+pod+"-"+nodeName+"/"+container, url.Values{"command": command, "output": {"1"}, "error": {"1"}}))
	if err != nil {
		return "", err
	}
	var out, errOut bytes.Buffer // not one for both: they are written to at the same time
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Slow(time.Minute))
	defer cancel()
	err = es["WebSocket"].StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
	return out.String() + errOut.String(), err
}

func (k *kubelet) execs() {
	query := url.Values{"command": {"sh", "-c", "cat; echo err >&2; exit 7"}, "input": {"1"}, "output": {"1"}, "error": {"1"}}
	es, err := executors(k.url("/exec/default/web-"+nodeName+"/web", query))
	if err != nil {
		k.Fatal(err)
	}
	for name, e := range es {
		var out, errOut bytes.Buffer
		ctx, cancel := context.WithTimeout(context.Background(), testenv.Slow(time.Minute))
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errOut})
		cancel()
		if err == nil || !strings.Contains(err.Error(), "exit code 7") || out.String() != "in\n" || errOut.String() != "err\n" {
			k.Errorf("%s: %q, %q, %v; want in, err, exit code 7", name, out.String(), errOut.String(), err)
		}
	}
	if out, err := k.exec("web", "web", "ls", "/started"); err != nil {
		k.Errorf("the hook after the start has not run: %q, %v", out, err)
	}
}

func (k *kubelet) forwards() {
	u := k.url("/portForward/default/web-"+nodeName, nil)
	roundTripper, upgrader, err := spdy.RoundTripperFor(restConfig)
	if err != nil {
		k.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, u)
	stop, ready := make(chan struct{}), make(chan struct{})
	var out, errOut bytes.Buffer
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, &out, &errOut)
	if err != nil {
		k.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	defer func() {
		close(stop)
		<-ended
	}()
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		k.Fatalf("forward: %v, %s", err, &errOut)
	}
	ports, err := f.GetPorts()
	if err != nil {
		k.Fatal(err)
	}
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/hostname", ports[0].Local))
	if err != nil {
		k.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "web-"+nodeName+"\n" {
		k.Errorf("through the forwarded port: %q, %v", b, err)
	}
}
