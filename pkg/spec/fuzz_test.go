// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/spec/userdb"
)

// FuzzContainer takes a container's request from the wire and an image's configuration from its registry. Whatever they say, the
// outcome is an error that blames the request, or a specification with which nobody has left the sandbox.
func FuzzContainer(f *testing.F) {
	image, err := json.Marshal(plain().Image)
	if err != nil {
		f.Fatal(err)
	}
	for _, g := range golden {
		in := plain()
		g.edit(&in)
		request, err := proto.Marshal(in.Container)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(request, image)
	}
	f.Add([]byte{}, []byte(`{"Entrypoint":[""],"Cmd":["/x"],"WorkingDir":"../..","Env":["A","=","B=\u0000"],"User":"0:x\n"}`))
	f.Add([]byte{}, []byte(`{"Volumes":{"../../etc":{},"/":{},"a":{}},"StopSignal":"KILL"}`))
	f.Fuzz(func(t *testing.T, request, image []byte) {
		in := plain()
		in.Container = &runtimeapi.ContainerConfig{}
		if proto.Unmarshal(request, in.Container) != nil || json.Unmarshal(image, &in.Image) != nil {
			return
		}
		// As the caller finds things on the disk: every mount and device leads somewhere.
		in.MountSources = slices.Repeat([]string{"/found"}, len(in.Container.GetMounts()))
		in.Devices = make([][]specs.LinuxDevice, len(in.Container.GetDevices()))
		for i := range in.Devices {
			in.Devices[i] = []specs.LinuxDevice{{Path: ".", Type: "c", Major: 1, Minor: 3}}
		}
		before := proto.CloneOf(in.Container)
		begun := time.Now()
		s, _, err := Container(in)
		if d := time.Since(begun); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
		if !proto.Equal(before, in.Container) {
			t.Error("the request was changed")
		}
		_, _ = CDIDevices(in.Container)
		_, _ = ImageVolumes(in.Image, in.Container.GetMounts())
		if err != nil {
			blamed := errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err)
			target := in.Container.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == runtimeapi.NamespaceMode_TARGET
			if !blamed && !target { // the namespace of a target has not been looked up here, which is the caller's fault
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
		for _, m := range s.Mounts {
			if !path.IsAbs(m.Destination) || path.Clean(m.Destination) != m.Destination || m.Destination == "/" {
				t.Errorf("mounted at %q", m.Destination)
			}
		}
		for _, c := range s.Process.Capabilities.Bounding {
			if !slices.Contains(in.Node.Capabilities, c) {
				t.Errorf("capability %s, which the node lacks", c)
			}
		}
		if len(s.Process.Args) == 0 || s.Process.Args[0] == "" || !path.IsAbs(s.Process.Cwd) {
			t.Errorf("runs %q in %q", s.Process.Args, s.Process.Cwd)
		}
		var kinds []specs.LinuxNamespaceType
		for _, n := range s.Linux.Namespaces {
			kinds = append(kinds, n.Type)
		}
		for _, k := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace} {
			if !slices.Contains(kinds, k) { // the pod of this request has them all
				t.Errorf("no %s namespace", k)
			}
		}
		if !slices.ContainsFunc(s.Linux.Resources.Devices, func(d specs.LinuxDeviceCgroup) bool { return d.Type == "a" && !d.Allow }) {
			t.Error("devices are not denied to begin with")
		}
		for k := range s.Annotations {
			if !strings.HasPrefix(k, "io.kubernetes.cri.") {
				t.Errorf("annotation %q has passed", k)
			}
		}
	})
}

// FuzzUserQuery: what an image calls its user asks for nobody that it does not name.
func FuzzUserQuery(f *testing.F) {
	for _, s := range []string{"", "0", "app", "app:extra", "1000:1000", "a\nb", "a:b:c", ":", "99999999999", "-1", "+1", "0x0", "root\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, image string) {
		q, err := UserQuery(nil, image)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		user, _, _ := strings.Cut(image, ":")
		switch {
		case q.Name != "" && (q.Name != user || !userdb.ValidName(q.Name)):
			t.Errorf("%q asks for %q", image, q.Name)
		case q.Name == "" && q.UID == nil:
			t.Errorf("%q asks for nobody", image)
		case q.UID != nil && *q.UID == 0 && strings.Trim(user, "0") != "":
			t.Errorf("%q asks for root", image)
		}
	})
}

// FuzzCDIDevices: only well-formed names come out of a pod author's annotations, each once.
func FuzzCDIDevices(f *testing.F) {
	f.Add("vendor.com/class=one", "cdi.k8s.io/x", "vendor.com/class=two,vendor.com/class=one")
	f.Add("../x", "cdi.k8s.io/", ",")
	f.Add("", "cdi.example.com/x", "vendor.com/class=two")
	f.Fuzz(func(t *testing.T, name, key, value string) {
		c := &runtimeapi.ContainerConfig{CDIDevices: []*runtimeapi.CDIDevice{{Name: name}}, Annotations: map[string]string{key: value}}
		got, err := CDIDevices(c)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		for i, d := range got {
			if d != name && !strings.Contains(value, d) || strings.ContainsAny(d, " \n\x00") || slices.Contains(got[:i], d) {
				t.Errorf("%q, %q, %q: got %q", name, key, value, got)
			}
		}
	})
}

// FuzzImageVolumes: no volume of an image lies outside of the root, is the root, or is written in two ways.
func FuzzImageVolumes(f *testing.F) {
	f.Add("/data\n/var/lib")
	f.Add("../../etc\n.\n/\n//\na/../..")
	f.Fuzz(func(t *testing.T, list string) {
		image := ocispec.ImageConfig{Volumes: map[string]struct{}{}}
		for v := range strings.SplitSeq(list, "\n") {
			image.Volumes[v] = struct{}{}
		}
		got, err := ImageVolumes(image, nil)
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("of the wrong class: %v", err)
		}
		for i, v := range got {
			if !path.IsAbs(v) || path.Clean(v) != v || v == "/" || slices.Contains(got[:i], v) {
				t.Errorf("%q: %q", list, got)
			}
		}
	})
}

// FuzzUpdate: a change that is taken is one that can be reported, and changes nothing that it does not name.
func FuzzUpdate(f *testing.F) {
	for _, g := range golden {
		in := plain()
		g.edit(&in)
		if r := in.Container.GetLinux().GetResources(); r != nil {
			b, err := proto.Marshal(r)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, true)
			f.Add(b, false)
		}
	}
	f.Fuzz(func(t *testing.T, change []byte, v2 bool) {
		r := &runtimeapi.LinuxContainerResources{}
		if proto.Unmarshal(change, r) != nil {
			return
		}
		node := testNode()
		node.CgroupV2 = v2
		shares := uint64(512)
		now := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Cpus: "0-1"}}
		next, err := Update(now, r, node)
		if *now.CPU.Shares != 512 || now.CPU.Cpus != "0-1" || now.Memory != nil {
			t.Error("the present resources were changed")
		}
		if err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		got := Resources(next, nil)
		if r.CpuShares == 0 && got.CpuShares != 512 || r.CpuShares != 0 && got.CpuShares != r.CpuShares || r.CpusetCpus == "" && got.CpusetCpus != "0-1" {
			t.Errorf("%v became %v", r, got)
		}
	})
}

// FuzzParseRlimit: soft never above hard, and -1 is no limit.
func FuzzParseRlimit(f *testing.F) {
	for _, s := range []string{"nofile=1024:524288", "core=0", "nofile=-1", "nofile=2:1", "nofile", "=1", "nofile=1:", "x=1", "nofile=18446744073709551615", "nofile=1:2:3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRlimit(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("of the wrong class: %v", err)
			}
			return
		}
		if _, err := RlimitNumber(r.Type); err != nil || r.Soft > r.Hard {
			t.Errorf("%q: %+v, %v", s, r, err)
		}
	})
}
