// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bare is the column of the OCI runtime by itself.
const bare = "runc alone"

// bareRuntime runs runc with the specification of a container that a peer has made, in its pod: what no CRI runtime can be faster
// than that runs the program for each step.
type bareRuntime struct {
	bed    *bed
	peer   *peer
	pod    *pod
	root   string
	bundle string
	spec   map[string]any
	id     string // of the container that exec runs in
}

func newBareRuntime(ctx context.Context, b *bed) (*bareRuntime, error) {
	p := b.peers[0]
	d, _, err := p.launch(ctx, true, nil, payload...)
	if err != nil {
		return nil, err
	}
	info, err := p.info(ctx, d.container)
	if err != nil {
		return nil, err
	}
	r := &bareRuntime{bed: b, peer: p, pod: d, root: filepath.Join(b.state, "bare"), bundle: filepath.Join(b.state, "bundle")}
	if err := json.Unmarshal(info.RuntimeSpec, &r.spec); err != nil {
		return nil, fmt.Errorf("runtimeSpec of %s: %w", p.name, err)
	}
	root, _ := r.spec["root"].(map[string]any)
	if path, ok := root["path"].(string); ok && !filepath.IsAbs(path) {
		root["path"] = filepath.Join(info.Bundle, path)
	}
	if err := os.MkdirAll(r.bundle, 0o711); err != nil {
		return nil, err
	}
	r.id = "exec"
	return r, r.create(ctx, r.id)
}

// create makes and starts a container.
func (r *bareRuntime) create(ctx context.Context, id string) error {
	linux, ok := r.spec["linux"].(map[string]any)
	if !ok {
		return errors.New("the peer's runtimeSpec has no linux part")
	}
	linux["cgroupsPath"] = r.peer.parent + "/bare-" + id
	b, err := json.Marshal(r.spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.bundle, "config.json"), b, 0o600); err != nil {
		return err
	}
	if err := r.run(ctx, "create", "--bundle", r.bundle, "--pid-file", filepath.Join(r.bundle, "pid"), id); err != nil {
		return err
	}
	return r.run(ctx, "start", id)
}

func (r *bareRuntime) run(ctx context.Context, args ...string) error {
	// No pipes: create leaves its standard streams to the container. Its words go to a file.
	log := filepath.Join(r.bundle, "log")
	cmd := exec.CommandContext(ctx, filepath.Join(r.bed.tools, "runc"), append([]string{"--root", r.root, "--log", log}, args...)...)
	if err := cmd.Run(); err != nil {
		words, _ := os.ReadFile(log)
		return fmt.Errorf("runc %s: %w: %s", strings.Join(args, " "), err, words)
	}
	return nil
}

// start takes one sample of create and start.
func (r *bareRuntime) start(ctx context.Context, i int) error {
	id := fmt.Sprintf("start-%d", i)
	began := time.Now()
	if err := r.create(ctx, id); err != nil {
		return err
	}
	r.bed.results.ms("start/host", "pod start, host network, until running", bare, time.Since(began))
	return r.run(ctx, "delete", "--force", id)
}

// exec takes one sample of an exec.
func (r *bareRuntime) exec(ctx context.Context) error {
	began := time.Now()
	if err := r.run(ctx, "exec", r.id, "true"); err != nil {
		return err
	}
	r.bed.results.ms("exec", "ExecSync true", bare, time.Since(began))
	return nil
}

// remove takes it all away.
func (r *bareRuntime) remove(ctx context.Context) error {
	return errors.Join(r.run(ctx, "delete", "--force", r.id), os.RemoveAll(r.root), os.RemoveAll(r.bundle), r.peer.removePod(ctx, r.pod.id))
}
