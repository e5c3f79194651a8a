// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultPath is what a container finds programs by if neither it nor its image says (docker's and both peers' value).
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process sets what runs: arguments, environment, working directory, terminal.
func (b *builder) process() error {
	args, err := processArgs(b.c.GetCommand(), b.c.GetArgs(), b.in.Image.Entrypoint, b.in.Image.Cmd)
	if err != nil {
		return err
	}
	cwd, err := workingDir(b.c.GetWorkingDir(), b.in.Image.WorkingDir)
	if err != nil {
		return err
	}
	env, err := b.environment()
	if err != nil {
		return err
	}
	b.g.SetProcessArgs(args)
	b.g.SetProcessCwd(cwd)
	b.g.Config.Process.Env = env // not AddProcessEnv: it searches the whole list for each variable
	b.g.SetProcessTerminal(b.c.GetTty())
	b.g.SetProcessNoNewPrivileges(b.sc.GetNoNewPrivs())
	return nil
}

// processArgs merges command line and image as Kubernetes documents it (tasks/inject-data-application/
// define-command-argument-container): a command replaces entrypoint and cmd, args alone replace only cmd.
func processArgs(command, args, entrypoint, cmd []string) ([]string, error) {
	if len(command) == 0 {
		if len(args) == 0 {
			args = cmd
		}
		// docker writes [""] when a build resets the entrypoint.
		if !(len(entrypoint) == 1 && entrypoint[0] == "") {
			command = entrypoint
		}
	}
	all := slices.Concat(command, args)
	if len(all) == 0 {
		return nil, invalid("command", "is empty, and so are args and the image's entrypoint and cmd")
	}
	if all[0] == "" {
		return nil, invalid("command", "names no program: its first word is empty")
	}
	if err := checkArgs("command or args", all); err != nil {
		return nil, err
	}
	return all, nil
}

// checkArgs refuses what execve(2) cannot carry.
func checkArgs(field string, args []string) error {
	for i, a := range args {
		if strings.IndexByte(a, 0) >= 0 {
			return invalid(field, "word %d contains a NUL byte", i)
		}
	}
	return nil
}

// workingDir picks the container's directory, else the image's, else the root. OCI wants it absolute; an image builder means
// "below the root" by a relative one.
func workingDir(asked, image string) (string, error) {
	if strings.IndexByte(asked+image, 0) >= 0 {
		return "", invalid("working_dir", "contains a NUL byte")
	}
	if asked != "" {
		if !path.IsAbs(asked) {
			return "", invalid("working_dir", "%q is not absolute", asked)
		}
		return path.Clean(asked), nil
	}
	return path.Join("/", image), nil
}

// environment merges, weakest first: defaults, the pod's host name, the image's, the container's.
func (b *builder) environment() ([]string, error) {
	e := newEnv(len(b.in.Image.Env) + len(b.c.GetEnvs()) + 3)
	e.set("PATH", defaultPath)
	if b.c.GetTty() {
		e.set("TERM", "xterm")
	}
	if b.in.Hostname != "" {
		e.set("HOSTNAME", b.in.Hostname)
	}
	for i, kv := range b.in.Image.Env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			continue // not a variable; docker and containerd leave such lines out too
		}
		if strings.IndexByte(kv, 0) >= 0 {
			return nil, fmt.Errorf("environment variable %d of the image contains a NUL byte: %w", i, errdefs.ErrInvalidArgument)
		}
		e.set(k, v)
	}
	for i, kv := range b.c.GetEnvs() {
		if err := checkEnv(i, kv); err != nil {
			return nil, err
		}
		e.set(kv.GetKey(), string(kv.GetValue()))
	}
	return e.list, nil
}

// checkEnv refuses what an environment block or a JSON file cannot carry. Values never appear in errors: they may be secrets.
func checkEnv(i int, kv *runtimeapi.KeyValue) error {
	field := fmt.Sprintf("envs[%d]", i)
	key := kv.GetKey()
	switch {
	case key == "":
		return invalid(field+".key", "is empty")
	case strings.ContainsAny(key, "=\x00"):
		return invalid(field+".key", "contains '=' or a NUL byte")
	case slices.Contains([]byte(kv.GetValue()), 0):
		return invalid(field+".value", "of %q contains a NUL byte", key)
	case !utf8.ValidString(string(kv.GetValue())):
		return invalid(field+".value", "of %q is not UTF-8, which the OCI specification (JSON) cannot carry", key)
	}
	return nil
}

// env is a list of variables in order of first mention, the last value of each. A map finds them, so that 100,000 variables
// of a hostile image cost linear time.
type env struct {
	list []string
	at   map[string]int
}

func newEnv(n int) *env {
	return &env{list: make([]string, 0, n), at: make(map[string]int, n)}
}

func (e *env) set(key, value string) {
	kv := key + "=" + value
	if i, ok := e.at[key]; ok {
		e.list[i] = kv
		return
	}
	e.at[key] = len(e.list)
	e.list = append(e.list, kv)
}

// ExecProcess returns the process of an exec: that of the container with another command line. It keeps user, groups,
// capabilities, environment, directory, limits and labels, as the kubelet's exec and probes expect. The base is not changed.
func ExecProcess(base *specs.Process, cmd []string, tty bool) (*specs.Process, error) {
	if base == nil {
		return nil, fmt.Errorf("container has no process to exec beside: %w", errdefs.ErrInternal)
	}
	if len(cmd) == 0 || cmd[0] == "" {
		return nil, invalid("cmd", "names no program")
	}
	if err := checkArgs("cmd", cmd); err != nil {
		return nil, err
	}
	p := *base
	p.Args = slices.Clone(cmd)
	p.Terminal = tty
	p.ConsoleSize = nil
	p.CommandLine = ""
	p.Env = slices.Clone(base.Env)
	p.Rlimits = slices.Clone(base.Rlimits)
	p.User.AdditionalGids = slices.Clone(base.User.AdditionalGids)
	if base.Capabilities != nil {
		caps := *base.Capabilities
		p.Capabilities = &caps
	}
	if tty && !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return &p, nil
}
