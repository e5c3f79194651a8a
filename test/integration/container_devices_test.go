// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mknod makes a character device below the bed's directory, of root alone.
func (b *bed) mknod(name string, major, minor uint32) string {
	b.t.Helper()
	b.mkdir(filepath.Dir(name))
	p := filepath.Join(b.dir, name)
	if err := unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// deviceFeatures: what of the machine's devices can be used.
var deviceFeatures = []feature{
	{"devices", func(b *bed) {
		b.mknod("nodes/sub/full", 1, 7)
		kmsg := b.mknod("nodes/kmsg", 1, 11)
		b.sc().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYSLOG"}} // kmsg asks for it
		b.cfg.Devices = []*runtimeapi.Device{
			{HostPath: filepath.Join(b.dir, "nodes"), ContainerPath: "/dev/mine", Permissions: "r"},
			{HostPath: kmsg, ContainerPath: "/dev/written", Permissions: "rw"},
		}
		// Of one device, the permissions of all requests add up. loop-control (10:237) was not asked for at all.
		b.says(`head -c1 /dev/mine/sub/full | tr '\0' z; echo; (: < /dev/mine/kmsg) && echo readable; (: > /dev/written) && echo writable
			mknod /tmp/lc c 10 237 && (: < /tmp/lc); rm /tmp/lc`,
			"z", "readable", "writable", "sh: can't open /tmp/lc: Operation not permitted")
		b.sc().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYSLOG"}}
		b.cfg.Devices = []*runtimeapi.Device{{HostPath: kmsg, ContainerPath: "/dev/kmsg", Permissions: "r"}}
		b.says("(: < /dev/kmsg) && echo readable; (: > /dev/kmsg)", "readable", "sh: can't create /dev/kmsg: Operation not permitted")
	}},
	{"device of a user", func(b *bed) {
		kmsg := b.mknod("kmsg", 1, 11)
		b.sc().RunAsUser, b.sc().RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
		b.cfg.Devices = []*runtimeapi.Device{{HostPath: kmsg, ContainerPath: "/dev/kmsg", Permissions: "w"}}
		b.says("stat -c %u:%g:%a:%t:%T /dev/kmsg; (: > /dev/kmsg) && echo writable", "1000:2000:600:1:b", "writable")
	}},
	{"devices that are none", func(b *bed) {
		for path, text := range map[string]string{"/no/such": "devices[0].host_path", b.write("file", "", 0o600): "devices[0].host_path", b.mkdir("empty"): "devices[0].host_path"} {
			b.cfg.Devices = []*runtimeapi.Device{{HostPath: path, ContainerPath: "/dev/x"}}
			b.refused(codes.InvalidArgument, text)
		}
		b.cfg.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rwx"}}
		b.refused(codes.InvalidArgument, "devices[0].permissions")
	}},
	{"CDI devices", func(b *bed) {
		kind := "vendor" + b.handler + ".com/thing"
		node := b.mknod("node", 1, 11)
		spec := fmt.Sprintf(`{"cdiVersion": "0.6.0", "kind": %q, "containerEdits": {"env": ["THING=1"]}, "devices": [
			{"name": "one", "containerEdits": {"deviceNodes": [{"path": "/dev/thing", "hostPath": %q, "permissions": "rw"}], "env": ["ONE=1"]}},
			{"name": "two", "containerEdits": {"mounts": [{"hostPath": %q, "containerPath": "/opt/thing", "options": ["ro", "bind"]}]}}]}`, kind, node, b.mkdir("lib"))
		if err := os.WriteFile(filepath.Join(b.cdi, b.handler+".json"), []byte(spec), 0o644); err != nil { // while the daemon runs
			b.t.Fatal(err)
		}
		const script = `echo $THING $ONE; ls -d /opt/thing; touch /opt/thing/x; (: > /dev/thing) && echo writable`
		all := []string{"1 1", "/opt/thing", "touch: /opt/thing/x: Read-only file system", "writable"}
		b.cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: kind + "=one"}, {Name: kind + "=two"}}
		b.says(script, all...)
		b.cfg.Annotations = map[string]string{"cdi.k8s.io/x": kind + "=two," + kind + "=one"}
		b.says(script, all...)
		// An image cannot ask for devices: only the request's annotations count, and only under the prefix.
		b.cfg.Annotations = map[string]string{"cdi.example.com/x": kind + "=one"}
		b.says("echo .$THING; ls /dev/thing", ".", "ls: /dev/thing: No such file or directory")
		b.cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: kind + "=three"}}
		b.refused(codes.InvalidArgument, strings.Join([]string{kind, "three"}, "="))
		b.cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: "../x"}}
		b.refused(codes.InvalidArgument, "CDI_devices[0].name")
		b.cfg.Annotations = map[string]string{"cdi.k8s.io/x": "nothing"}
		b.refused(codes.InvalidArgument, "annotations")
	}},
}
