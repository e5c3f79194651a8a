// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/cri"
	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/network"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/spec"
	"github.com/embedcri/embedcri/pkg/task"
)

// The functions here turn the configuration into each package's options, and do nothing else.

func imageOptions(c *config.Config) image.Options {
	return image.Options{
		Root: c.ImageDir(), Snapshotter: c.Image.Snapshotter, CertDirs: c.Image.CertDirs,
		MaxDownloads: c.Image.MaxDownloads, ProgressTimeout: time.Duration(c.Image.ProgressTimeout),
		Pinned: c.Image.Pinned, VerifierDir: c.Image.VerifierDir, DiscardBlobs: c.Image.DiscardBlobs, Volatile: c.Image.Volatile,
	}
}

func networkOptions(c *config.Config) network.Options {
	n := c.Network
	return network.Options{
		ConfDir: n.ConfDir, BinDirs: n.BinDirs, CacheDir: c.CNICacheDir(), MaxNetworks: n.MaxNetworks, MaxParallel: n.MaxParallel,
		Timeout: time.Duration(n.Timeout), StatusGrace: time.Duration(n.StatusGrace), PodCIDRTemplate: n.PodCIDRTemplate,
		Bridge: network.Bridge{
			Enabled: n.DefaultNetwork.Enabled, Name: n.DefaultNetwork.Bridge, Subnets: n.DefaultNetwork.Subnets,
			DataDir: filepath.Join(c.CNICacheDir(), "networks"),
		},
	}
}

// runtimeProgram is the program of a handler, and what it says of itself.
type runtimeProgram struct {
	path     string // absolute
	features *features.Features
}

// runtimePrograms finds the programs of all handlers and asks them, by name of the handler.
func runtimePrograms(c *config.Config) (map[string]runtimeProgram, error) {
	programs := map[string]runtimeProgram{}
	for name, h := range c.Runtime.Handlers {
		path, err := exec.LookPath(h.Path)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		var f *features.Features
		if err == nil {
			f, err = runtimeFeatures(path)
		}
		if err != nil {
			return nil, fmt.Errorf("runtime.handlers.%s: %w", name, err)
		}
		programs[name] = runtimeProgram{path, f}
	}
	return programs, nil
}

// runtimes makes the drivers of all handlers. A binary that is missing is an error now, not at the first pod.
func runtimes(c *config.Config, programs map[string]runtimeProgram, systemd bool, node spec.Node, hub *ioattach.Hub) (map[string]task.Runtime, map[string]sandbox.Handler, error) {
	drivers, handlers := map[string]task.Runtime{}, map[string]sandbox.Handler{}
	for name, h := range c.Runtime.Handlers {
		program := programs[name]
		drivers[name] = task.NewRuntime(task.RuntimeOptions{
			Path: program.path, Root: c.RuntimeRoot(name), SystemdCgroup: systemd, ExecCgroup: execCgroup(program.features), Timeout: time.Duration(c.Runtime.Timeout),
			Barriers: hub,
		})
		hs, err := handlerSpec(h, program.features, node)
		if err != nil {
			return nil, nil, fmt.Errorf("runtime.handlers.%s: %w", name, err)
		}
		handlers[name] = sandbox.Handler{
			Name: name, Spec: hs,
			Features: sandbox.Features{RecursiveReadOnlyMounts: hs.RecursiveReadOnly, UserNamespaces: hs.IDMapMounts},
		}
	}
	return drivers, handlers, nil
}

// podSysctls are what every pod with a network namespace of its own gets, unless it says otherwise.
func podSysctls(c *config.Config) map[string]string {
	s := map[string]string{}
	if c.Pod.UnprivilegedPorts {
		s["net.ipv4.ip_unprivileged_port_start"] = "0"
	}
	if c.Pod.UnprivilegedICMP {
		s["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	return s
}

func streamingOptions(c *config.Config) (cri.StreamingOptions, error) {
	o := cri.StreamingOptions{Address: c.Streaming.Address, IdleTimeout: time.Duration(c.Streaming.IdleTimeout)}
	if c.Streaming.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(c.Streaming.TLSCert, c.Streaming.TLSKey)
		if err != nil {
			return o, fmt.Errorf("streaming.tls_cert: %w", err)
		}
		o.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	return o, nil
}

const (
	lockPatience = 3 * time.Second
	lockPoll     = 2 * time.Millisecond
)

// lockDir takes an exclusive lock that the kernel drops when the process ends, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// A daemon that was killed holds it for as long as the kernel takes to take it apart, and so does a child of it that had yet to
	// call execve(2).
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("another daemon uses %s: %w", dir, err)
		}
	}
}

// withUmask runs f with the process' umask set to mask. Only for start-up: the umask is the whole process'.
func withUmask(mask int, f func() error) error {
	old := unix.Umask(mask)
	defer unix.Umask(old)
	return f()
}
