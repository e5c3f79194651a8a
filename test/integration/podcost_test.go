// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/namespace"
	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// BenchmarkRunPodSandbox times RunPodSandbox as its caller sees it, and prints the stages that the daemon reports. With CNI it
// alternates with the same chain of plug-ins run by nobody but libcni, so that both see the same machine. On an idle machine:
//
//	go test ./test/integration -run XX -bench RunPodSandbox -benchtime 100x
func BenchmarkRunPodSandbox(b *testing.B) {
	b.Run("host network", func(b *testing.B) {
		n := testnode.Start(b, testnode.Options{NoNetwork: true})
		c := &podCost{}
		for b.Loop() {
			c.run(b, n, n.HostPodConfig())
		}
		c.report(b)
	})
	b.Run("default network", func(b *testing.B) {
		n := testnode.Start(b, testnode.Options{OwnNet: true})
		c := &podCost{}
		for b.Loop() {
			c.run(b, n, n.PodConfig())
		}
		c.report(b)
	})
	b.Run("bridge plug-in", func(b *testing.B) {
		n := testnode.New(b, testnode.Options{OwnNet: true})
		conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bench","plugins":[
			{"type":"bridge","bridge":%q,"isGateway":true,"ipMasq":true,"ipMasqBackend":"nftables",
			 "ipam":{"type":"host-local","ranges":[[{"subnet":"10.97.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}],"dataDir":%q}},
			{"type":"portmap","capabilities":{"portMappings":true},"backend":"nftables"}]}`, n.Bridge, filepath.Join(n.Dir, "ipam"))
		if err := os.WriteFile(filepath.Join(n.CNIConf, "10-bench.conflist"), []byte(conf), 0o644); err != nil {
			b.Fatal(err)
		}
		n.Start()
		c := &podCost{}
		alone := chainAlone(b, n, conf)
		var chain []time.Duration
		for i := 0; b.Loop(); i++ {
			chain = append(chain, alone(i))
			c.run(b, n, n.PodConfig())
		}
		c.report(b)
		b.ReportMetric(ms(median(chain)), "ms-plugins-alone")
		b.ReportMetric(ms(median(c.total))/ms(median(chain)), "times-plugins-alone")
	})
}

// podCost is what pods took to be made.
type podCost struct {
	total  []time.Duration
	names  []string // of stages, in order of their first appearance
	stages map[string][]time.Duration
}

// run makes a pod, notes what it took, and removes it.
func (c *podCost) run(b *testing.B, n *testnode.Node, config *runtimeapi.PodSandboxConfig) {
	b.Helper()
	start := time.Now()
	id, err := n.Runtime.RunPodSandbox(context.Background(), config, "")
	c.total = append(c.total, time.Since(start))
	if err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	for _, s := range podStages(b, n, id) {
		if c.stages == nil {
			c.stages = map[string][]time.Duration{}
		}
		if c.stages[s.name] == nil {
			c.names = append(c.names, s.name)
		}
		c.stages[s.name] = append(c.stages[s.name], s.took)
	}
	if err := n.Runtime.StopPodSandbox(context.Background(), id); err != nil {
		b.Fatal(err)
	}
	if err := n.Runtime.RemovePodSandbox(context.Background(), id); err != nil {
		b.Fatal(err)
	}
	b.StartTimer()
}

func (c *podCost) report(b *testing.B) {
	var text strings.Builder
	for _, name := range c.names {
		fmt.Fprintf(&text, "\n%10.2f ms  %s", ms(median(c.stages[name])), name)
	}
	b.Logf("median of %d pods by stage:%s\n%10.2f ms  in all, as the caller sees it (10%% took %.2f ms or more)",
		len(c.total), text.String(), ms(median(c.total)), ms(c.total[len(c.total)*9/10]))
	b.ReportMetric(ms(median(c.total)), "ms-median")
}

type podStage struct {
	name string
	took time.Duration
}

// podStages reads what the daemon says about a pod's making.
func podStages(t testing.TB, n *testnode.Node, id string) []podStage {
	t.Helper()
	r, err := n.Runtime.PodSandboxStatus(context.Background(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Stages []struct{ Name, Took string }
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	var out []podStage
	for _, s := range info.Stages {
		took, err := time.ParseDuration(s.Took)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, podStage{s.Name, took})
	}
	return out
}

// chainAlone returns a function that attaches an empty namespace by libcni alone and says how long ADD took.
func chainAlone(b *testing.B, n *testnode.Node, conf string) func(i int) time.Duration {
	b.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(conf))
	if err != nil {
		b.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{testenv.CNIBin(b)}, filepath.Join(n.Dir, "alone"), nil)
	return func(i int) time.Duration {
		b.Helper()
		b.StopTimer()
		defer b.StartTimer()
		dir := filepath.Join(n.Dir, fmt.Sprint("alone", i))
		ns, err := namespace.Create(dir, namespace.Spec{Net: true})
		if err != nil {
			b.Fatal(err)
		}
		rt := &libcni.RuntimeConf{ContainerID: fmt.Sprintf("alone%d", i), NetNS: ns.Net, IfName: "eth0"}
		var took time.Duration
		err = n.InNet(func() error {
			start := time.Now()
			if _, err := cni.AddNetworkList(context.Background(), list, rt); err != nil {
				return err
			}
			took = time.Since(start)
			return cni.DelNetworkList(context.Background(), list, rt)
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := namespace.Delete(dir); err != nil {
			b.Fatal(err)
		}
		return took
	}
}

// median sorts ds.
func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }
