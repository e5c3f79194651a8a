// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// daemon is a runtime's process, which the bench has started or, without a command, has found running.
type daemon struct {
	bed     *bed
	name    string
	dir     string // of everything that it has on disk
	state   string // of what it has on tmpfs; one of the two is named in the command line of each of its processes
	socket  string
	parent  string // cgroup parent of its pods
	command []string
	cleanup func() error // after its end

	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has been reaped
	conn    *grpc.ClientConn
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
}

func newDaemon(b *bed, name string) *daemon {
	return &daemon{
		bed: b, name: name,
		dir:    filepath.Join(b.dir, name),
		state:  filepath.Join(b.state, name),
		socket: filepath.Join(b.state, name, "cri.sock"),
		parent: fmt.Sprintf("/bench%d-%s", os.Getpid(), name),
	}
}

// start runs the daemon, if it does not run, and waits until it serves.
func (d *daemon) start(ctx context.Context) error {
	if d.conn != nil {
		return nil
	}
	if d.command != nil {
		if err := d.launch(); err != nil {
			return err
		}
	}
	var err error
	d.conn, err = grpc.NewClient("unix://"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return err
	}
	d.runtime, d.images = runtimeapi.NewRuntimeServiceClient(d.conn), runtimeapi.NewImageServiceClient(d.conn)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := d.runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err == nil {
			return nil
		}
		if err := errors.Join(err, sleep(ctx, 2*time.Millisecond)); ctx.Err() != nil {
			return fmt.Errorf("%s does not serve: %w; its log ends: %s", d.name, err, d.lastWords())
		}
	}
}

// launch starts the process and returns when its socket takes connections.
func (d *daemon) launch() error {
	log, err := os.OpenFile(filepath.Join(d.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd, d.exited = exec.Command(d.command[0], d.command[1:]...), make(chan struct{})
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(d.command[0])+":"+d.bed.tools+":"+os.Getenv("PATH"))
	d.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // not the terminal's Ctrl-C: the bench ends it in order
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(d.cmd, d.exited)
	if err := d.account(); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("unix", d.socket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-d.exited:
			d.cmd = nil
			return fmt.Errorf("%s has ended: %s", d.name, d.lastWords())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve: %s", d.name, d.lastWords())
		}
		time.Sleep(time.Millisecond)
	}
}

// lastWords are the end of the daemon's log.
func (d *daemon) lastWords() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "daemon.log"))
	return string(b[max(0, len(b)-2000):])
}

// stop ends the daemon in order, and not its pods.
func (d *daemon) stop() error { return d.end(unix.SIGTERM) }

// kill ends it with SIGKILL.
func (d *daemon) kill() error { return d.end(unix.SIGKILL) }

func (d *daemon) end(sig unix.Signal) error {
	if d.conn != nil {
		_ = d.conn.Close()
		d.conn = nil
	}
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.exited:
		d.cmd = nil
		return nil
	case <-time.After(30 * time.Second):
	}
	_ = d.cmd.Process.Kill()
	<-d.exited
	d.cmd = nil
	return fmt.Errorf("%s did not end on %v within 30 s", d.name, sig)
}

// remove ends the daemon and takes away what it keeps besides its directory.
func (d *daemon) remove() error {
	err := d.stop()
	if d.cleanup != nil {
		err = errors.Join(err, d.cleanup())
	}
	return err
}

// pid is the process at the other end of the socket.
func (d *daemon) pid() (int, error) {
	if d.cmd != nil {
		return d.cmd.Process.Pid, nil
	}
	c, err := net.Dial("unix", d.socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	pid := 0
	var credErr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); credErr == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, errors.Join(err, credErr)
}

// cniConf writes a bridge network of the daemon's own, as containerd's documentation has it, into dir/net.d.
func (d *daemon) cniConf(subnet int) (dir, bridge string, err error) {
	dir, bridge = filepath.Join(d.dir, "net.d"), fmt.Sprintf("eb%dx%d", os.Getpid(), subnet)
	conf := fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "bench-%s",
  "plugins": [
    {"type": "bridge", "bridge": %q, "isGateway": true, "ipMasq": true, "promiscMode": true,
     "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.2%d.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, d.name, bridge, filepath.Join(d.dir, "addresses"), subnet)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	return dir, bridge, os.WriteFile(filepath.Join(dir, "10-bench.conflist"), []byte(conf), 0o644)
}

// hosts lets the registry on loopback be asked by plain HTTP, by containerd's hosts.toml.
func (d *daemon) hosts() (dir string, err error) {
	addr := d.bed.registry.Addr
	dir = filepath.Join(d.dir, "certs.d")
	host := filepath.Join(dir, strings.Replace(addr, ":", "_", 1)+"_")
	if err := os.MkdirAll(host, 0o755); err != nil {
		return "", err
	}
	toml := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", addr, addr)
	return dir, os.WriteFile(filepath.Join(host, "hosts.toml"), []byte(toml), 0o644)
}

func removeLink(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil
	}
	if out, err := exec.Command("ip", "link", "delete", name).CombinedOutput(); err != nil {
		return fmt.Errorf("delete bridge %s: %w: %s", name, err, out)
	}
	return nil
}
