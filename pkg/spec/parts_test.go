// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCgroupsPath(t *testing.T) {
	for _, tt := range []struct {
		parent  string
		systemd bool
		want    string
	}{
		{"/kubepods/burstable/pod1", false, "/kubepods/burstable/pod1/id"},
		{"embedcri", false, "/embedcri/id"},
		{"", false, "/id"},
		{"/kubepods.slice/kubepods-pod1.slice", true, "kubepods-pod1.slice:cri-embedcri:id"},
		{"system.slice", true, "system.slice:cri-embedcri:id"},
		{"/kubepods.slice", false, ""},
		{"/kubepods", true, ""},
		{"", true, ""},
		{"/kubepods/../..", false, ""},
		{"/a/../b.slice", true, ""},
		{"/a\x00", false, ""},
	} {
		got, err := CgroupsPath(tt.parent, "id", tt.systemd)
		if got != tt.want || (err != nil) != (tt.want == "") || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("CgroupsPath(%q, %v) = %q, %v", tt.parent, tt.systemd, got, err)
		}
	}
}

func TestWithFeatures(t *testing.T) {
	yes := true
	full := &features.Features{OCIVersionMax: "1.3.0", MountOptions: []string{"ro", "rro"}, Linux: &features.Linux{MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}}}}
	newer, older := *full, *full
	newer.OCIVersionMax, older.OCIVersionMax = "2.1.0", "1.1.0-rc.1"
	modern, old := Node{MountSetattr: true}, Node{}
	for _, tt := range []struct {
		name    string
		f       *features.Features
		n       Node
		version string
		can     bool
	}{
		{"all", full, modern, specs.Version, true},
		{"newer", &newer, modern, specs.Version, true},
		{"older", &older, modern, "1.1.0-rc.1", true},
		{"old kernel", full, old, specs.Version, false},
		{"says nothing", &features.Features{}, modern, "1.0.2", false},
		{"has no such command", nil, modern, "1.0.2", false},
	} {
		h := Handler{CgroupWritable: true, IDMapMounts: true}.WithFeatures(tt.f, tt.n)
		if h.OCIVersion != tt.version || h.RecursiveReadOnly != tt.can || h.IDMapMounts != tt.can || !h.CgroupWritable {
			t.Errorf("%s: %+v", tt.name, h)
		}
	}
}

func TestUpdate(t *testing.T) {
	in := plain()
	in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{
		CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0", OomScoreAdj: 7,
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 << 20}}, Unified: map[string]string{"memory.high": "1", "pids.max": "9"},
	}
	s, _, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	before := Resources(s.Linux.Resources, s.Process.OOMScoreAdj)
	asked := proto.CloneOf(in.Container.Linux.Resources)
	asked.MemorySwapLimitInBytes = 64 << 20 // no swap, unless asked for
	if !proto.Equal(before, asked) {
		t.Errorf("reports %v, want %v", before, asked)
	}

	got, err := Update(s.Linux.Resources, &runtimeapi.LinuxContainerResources{
		CpuShares: 1024, MemoryLimitInBytes: 128 << 20, OomScoreAdj: 999,
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 << 20}}, Unified: map[string]string{"memory.high": "2"},
	}, in.Node)
	if err != nil {
		t.Fatal(err)
	}
	want := proto.CloneOf(asked)
	want.CpuShares, want.MemoryLimitInBytes, want.MemorySwapLimitInBytes, want.Unified["memory.high"] = 1024, 128<<20, 128<<20, "2"
	if r := Resources(got, s.Process.OOMScoreAdj); !proto.Equal(r, want) {
		t.Errorf("updated to %v, want %v", r, want)
	}
	if got.Devices != nil {
		t.Errorf("device rules %v", got.Devices)
	}
	if r := Resources(s.Linux.Resources, s.Process.OOMScoreAdj); !proto.Equal(r, before) || len(s.Linux.Resources.Devices) == 0 {
		t.Errorf("Update changed what it was given: %v", r)
	}

	v1 := in.Node
	v1.CgroupV2 = false
	for name, tt := range map[string]struct {
		change *runtimeapi.LinuxContainerResources
		node   Node
		class  func(error) bool
	}{
		"nothing":   {nil, in.Node, errdefs.IsInvalidArgument},
		"hugepages": {&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 1 << 30}}}, in.Node, errdefs.IsFailedPrecondition},
		"unified":   {&runtimeapi.LinuxContainerResources{Unified: map[string]string{"cpu.idle": "1"}}, v1, errdefs.IsFailedPrecondition},
		"bad value": {&runtimeapi.LinuxContainerResources{CpuPeriod: -5}, in.Node, errdefs.IsInvalidArgument},
	} {
		if r, err := Update(s.Linux.Resources, tt.change, tt.node); !tt.class(err) || r != nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if r, err := Update(nil, &runtimeapi.LinuxContainerResources{CpuShares: 2}, v1); err != nil || *r.CPU.Shares != 2 {
		t.Errorf("from nothing: %v, %v", r, err)
	}
	if r := Resources(nil, nil); !proto.Equal(r, &runtimeapi.LinuxContainerResources{}) {
		t.Errorf("of nothing: %v", r)
	}
}

// TestSwap is the table of what a memory and a swap limit mean together.
func TestSwap(t *testing.T) {
	for _, tt := range []struct {
		memory, swap int64
		controller   bool
		wantSwap     int64 // 0: not set
	}{
		{0, 0, true, 0}, {100, 0, true, 100}, {100, 150, true, 150}, {100, -1, true, -1}, {0, 150, true, 0},
		{100, 0, false, 0}, {100, 150, false, 0}, {-1, 0, true, -1},
	} {
		r := &specs.LinuxResources{}
		err := applyResources(r, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: tt.memory, MemorySwapLimitInBytes: tt.swap}, Node{Swap: tt.controller})
		var got int64
		if r.Memory != nil {
			got = value(r.Memory.Swap)
		}
		if err != nil || got != tt.wantSwap {
			t.Errorf("%+v: swap %d, %v", tt, got, err)
		}
	}
}

func TestImageVolumes(t *testing.T) {
	got, err := ImageVolumes(ocispec.ImageConfig{Volumes: map[string]struct{}{"/b": {}, "a/": {}, "/a": {}, "/mounted/": {}}},
		[]*runtimeapi.Mount{{ContainerPath: "/mounted"}})
	if err != nil || !slices.Equal(got, []string{"/a", "/b"}) {
		t.Errorf("got %q, %v", got, err)
	}
	many := map[string]struct{}{}
	for i := range maxImageVolumes + 1 {
		many[strings.Repeat("x", i+1)] = struct{}{}
	}
	for _, bad := range []map[string]struct{}{{"/": {}}, {"/..": {}}, {"/a\x00": {}}, many} {
		if _, err := ImageVolumes(ocispec.ImageConfig{Volumes: bad}, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d volumes: %v", len(bad), err)
		}
	}
}

func TestSwapV2(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"without", "with"} {
		if swapV2(root) {
			t.Error("found before there is any")
		}
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "with/memory.swap.max"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if !swapV2(root) {
		t.Error("not found")
	}
}

func TestCDI(t *testing.T) {
	dir := t.TempDir()
	spec := `{"cdiVersion":"0.6.0","kind":"example.com/gpu","devices":[
		{"name":"one","containerEdits":{"env":["GPU=one"],"mounts":[{"hostPath":"/opt/gpu","containerPath":"/gpu"}]}},
		{"name":"two","containerEdits":{"env":["SECOND=two"]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "gpu.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	in := plain()
	in.Container.CDIDevices = []*runtimeapi.CDIDevice{{Name: "example.com/gpu=one"}, {Name: "example.com/gpu=one"}}
	in.Container.Annotations = map[string]string{"cdi.k8s.io/plugin_x": "example.com/gpu=two,example.com/gpu=one", "other": "y"}
	names, err := CDIDevices(in.Container)
	if want := []string{"example.com/gpu=one", "example.com/gpu=two"}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("names %q, %v", names, err)
	}
	reg, err := OpenCDI(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, _, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.Inject(s, names); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.Process.Env, "GPU=one") || !slices.Contains(s.Process.Env, "SECOND=two") ||
		!slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/gpu" }) {
		t.Errorf("not injected: %v %v", s.Process.Env, s.Mounts)
	}
	before := *s
	if err := reg.Inject(s, nil); err != nil || !reflect.DeepEqual(before, *s) {
		t.Errorf("nothing to inject: %v", err)
	}
	if err := reg.Inject(s, []string{"example.com/gpu=three"}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "CDI_devices") {
		t.Errorf("unknown device: %v", err)
	}
	for i := range 50 { // named as soon as they are described, without waiting for anybody to notice
		kind := fmt.Sprintf("late.example.com/x%d", i)
		late := fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":%q,"devices":[{"name":"d","containerEdits":{"env":["X=%d"]}}]}`, kind, i)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("late%d.json", i)), []byte(late), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := reg.Inject(s, []string{kind + "=d"}); err != nil {
			t.Fatalf("described a moment ago: %v", err)
		}
	}
	for field, c := range map[string]*runtimeapi.ContainerConfig{
		"CDI_devices[0].name": {CDIDevices: []*runtimeapi.CDIDevice{{Name: "gpu"}}},
		"annotations":         {Annotations: map[string]string{"cdi.k8s.io/x": "not a device"}},
	} {
		if _, err := CDIDevices(c); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
