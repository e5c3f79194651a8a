// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/failpoint"
	"github.com/embedcri/embedcri/internal/mount"
	"github.com/embedcri/embedcri/pkg/spec"
)

func (p *Pod) dir() string    { return filepath.Join(p.m.o.PodDir, p.meta.ID) }
func (p *Pod) pinDir() string { return filepath.Join(p.m.o.NamespaceDir, p.meta.ID) }

func (p *Pod) file(name string) string { return filepath.Join(p.dir(), name) }

// files are the host paths of what all containers of the pod see.
func (p *Pod) files() spec.Files {
	f := spec.Files{Hosts: p.file("hosts"), Hostname: p.file("hostname"), ResolvConf: p.file("resolv.conf")}
	if !p.hostIPC() {
		f.Shm = p.file("shm")
	}
	return f
}

// makeFiles makes /etc/hostname, /etc/resolv.conf and /dev/shm; /etc/hosts waits for the pod's addresses. All belong to the pod's
// root.
func (p *Pod) makeFiles() error {
	if err := os.MkdirAll(p.dir(), 0o711); err != nil {
		return fmt.Errorf("make pod files: %w", err)
	}
	if err := p.writeFile("hostname", []byte(p.hostname()+"\n")); err != nil {
		return err
	}
	resolv := resolvConf(p.Config().GetDnsConfig())
	if resolv == nil {
		var err error
		if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("make pod files: %w", err)
		}
	}
	if err := p.writeFile("resolv.conf", resolv); err != nil {
		return err
	}
	if p.hostIPC() {
		return nil
	}
	shm := p.file("shm")
	if err := os.Mkdir(shm, 0o1777); err != nil {
		return fmt.Errorf("make pod files: %w", err)
	}
	uid, gid, err := p.root()
	if err != nil {
		return err
	}
	opts := spec.MountData(fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", p.m.o.ShmSize, uid, gid), p.meta.Labels.Mount)
	err = failpoint.PodShm.Do(func() error {
		return unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts)
	})
	if err != nil {
		return fmt.Errorf("mount /dev/shm of the pod: %w", err)
	}
	return nil
}

// writeHosts writes the /etc/hosts of containers that bring none; the kubelet mounts its own.
func (p *Pod) writeHosts() error {
	var b []byte
	if p.hostNetwork() {
		var err error
		if b, err = os.ReadFile("/etc/hosts"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("make /etc/hosts: %w", err)
		}
	} else {
		b = hosts(p.hostname(), p.state.Load().Attachment.IPs)
	}
	return p.writeFile("hosts", b)
}

func (p *Pod) writeFile(name string, text []byte) error {
	uid, gid, err := p.root()
	if err == nil {
		err = os.WriteFile(p.file(name), text, 0o644)
	}
	if err == nil {
		err = os.Chown(p.file(name), uid, gid)
	}
	if err == nil {
		err = spec.Relabel(p.file(name), p.meta.Labels.Mount, true)
	}
	if err != nil {
		return fmt.Errorf("make %s of the pod: %w", name, err)
	}
	return nil
}

// root returns the ids on the host of the pod's root.
func (p *Pod) root() (uid, gid int, err error) {
	mappings, err := p.mappings()
	return hostID(mappings.UIDs, 0), hostID(mappings.GIDs, 0), err
}

// removeFiles undoes makeFiles. It is idempotent.
func (p *Pod) removeFiles() error {
	if err := mount.RemoveDir(p.file("shm")); err != nil {
		return fmt.Errorf("remove pod files: %w", err)
	}
	if err := os.RemoveAll(p.dir()); err != nil {
		return fmt.Errorf("remove pod files: %w", err)
	}
	return nil
}

func hosts(hostname string, ips []string) []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
	}
	return []byte(b.String())
}

// resolvConf renders a DNS configuration (resolv.conf(5)); nil if there is none, which means the node's.
func resolvConf(c *runtimeapi.DNSConfig) []byte {
	if len(c.GetServers()) == 0 && len(c.GetSearches()) == 0 && len(c.GetOptions()) == 0 {
		return nil
	}
	var b strings.Builder
	if s := c.GetSearches(); len(s) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(s, " "))
	}
	for _, s := range c.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if o := c.GetOptions(); len(o) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(o, " "))
	}
	return []byte(b.String())
}
