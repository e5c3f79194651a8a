// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"encoding/json"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/task"
)

// Verbose answers. crictl parses each value as JSON and prints it under its key. Scripts know ".info.pid", ".info.runtimeSpec"
// and the like from other runtimes, so everything about one object is in one value under "info".

const infoKey = "info"

func podInfo(p pod, st sandbox.PodStatus) (map[string]string, error) {
	info := map[string]any{
		"state":          st.State,
		"ready":          st.Ready,
		"netns":          st.NetNS,
		"message":        st.Message,
		"runtimeHandler": p.Handler(),
		"config":         p.Config(),
	}
	ids := []string{}
	for _, c := range p.Containers() {
		ids = append(ids, c.ID())
	}
	info["containers"] = ids
	stages := []any{} // a list keeps their order
	for _, s := range st.Stages {
		stages = append(stages, map[string]string{"name": s.Name, "took": s.Took.String()})
	}
	info["stages"] = stages
	if st.Overhead != nil {
		info["overhead"] = st.Overhead
	}
	if st.Resources != nil {
		info["resources"] = st.Resources
	}
	return jsonValues(map[string]any{infoKey: info})
}

func containerInfo(c container, st task.Status) (map[string]string, error) {
	info := map[string]any{
		"sandboxID": c.PodID(),
		"pid":       st.Pid,
		"state":     st.State.String(),
		"paused":    st.Paused,
		"removing":  st.State == task.Removing,
		"config":    c.Config(),
	}
	if st.Exit != nil {
		info["exit"] = st.Exit
	}
	for k, v := range c.Verbose() {
		info[k] = rawOrString(v)
	}
	return jsonValues(map[string]any{infoKey: info})
}

func imageInfo(i *image.Image) (map[string]string, error) {
	return jsonValues(map[string]any{infoKey: map[string]any{
		"id": i.ID,
		"imageSpec": map[string]any{
			"config": i.Config,
		},
	}})
}

// rawOrString lets a value that is JSON already be part of the JSON around it.
func rawOrString(s string) any {
	if json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	return s
}

func jsonValues(m map[string]any) (map[string]string, error) {
	out := make(map[string]string, len(m))
	for k, v := range m {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("verbose info %q: %w", k, err)
		}
		out[k] = text(string(b))
	}
	return out, nil
}

var _ json.Marshaler = (*runtimeapi.KeyValue)(nil) // environment values stay readable, rather than base64
