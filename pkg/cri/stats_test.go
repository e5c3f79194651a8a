// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/stats"
	"github.com/embedcri/embedcri/pkg/task"
)

func ptr[T any](v T) *T { return &v }

// sample is what a container that uses a bit of everything is measured at.
func sample() *stats.Sample {
	return &stats.Sample{
		At: time.Unix(9, 5), HasCgroup: true,
		CPU: stats.CPU{
			Usage: 3_500_000_000, User: 2_000_000_000, NanoCores: ptr(uint64(250_000_000)),
			Pressure: &stats.Pressure{Some: stats.Stall{Total: 7_000_000_000, Avg10: 1.5}},
		},
		Memory: stats.Memory{Usage: 100, WorkingSet: 60, RSS: 40, Limit: 1000, Swap: ptr(uint64(5)), SwapLimit: ptr(uint64(20)), Faults: 8, MajorFaults: 2},
		IO:     &stats.Pressure{Full: stats.Stall{Total: 1}},
		Processes: stats.Processes{
			Count: 3, Threads: 4, ThreadsMax: 50,
		},
		Devices: []stats.Device{{Major: 8, Name: "/dev/sda", ReadBytes: 11, WriteBytes: 12, Reads: 1, Writes: 2}},
		Layer:   &stats.Layer{Bytes: 4096, Inodes: 2, At: time.Unix(8, 0)},
		Open:    &stats.Open{Descriptors: 9, Sockets: 1, Limit: 1024, HasLimit: true},
	}
}

func eth(name string, bytes uint64) stats.Interface {
	return stats.Interface{Name: name, RxBytes: bytes, TxBytes: bytes + 1, RxErrors: 1, TxErrors: 2}
}

// measuredNode is node with numbers.
func measuredNode() (*fakePods, *fakePod, *fakeContainer) {
	pods, p, c := node()
	p.stats = sandbox.PodStats{
		Cgroup: "/kubepods/podu1",
		Sample: &stats.Sample{At: time.Unix(10, 0), HasCgroup: true, Interfaces: []stats.Interface{eth("net1", 5), eth("eth0", 50)}},
		Containers: map[string]sandbox.ContainerStats{
			ctrID: {Cgroup: "/kubepods/podu1/" + ctrID, Sample: sample()},
		},
		Init: true,
	}
	p.stats.Sample.CPU.Usage = 4_000_000_000
	return pods, p, c
}

func TestContainerStats(t *testing.T) {
	pods, p, c := measuredNode()
	rt, _, _, _ := serve(t, pods, &fakeImages{}, func(o *Options) { o.LayerDir = "/layers" })
	ctx := t.Context()
	r, err := rt.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: ctrID})
	if err != nil {
		t.Fatal(err)
	}
	s := r.Stats
	if a := s.Attributes; a.Id != ctrID || a.Metadata.Name != "app" || a.Labels["tier"] != "front" || a.Annotations["a"] != "b" {
		t.Errorf("attributes %v", a)
	}
	if u := s.Cpu; u.Timestamp != 9_000_000_005 || u.UsageCoreNanoSeconds.Value != 3_500_000_000 || u.UsageNanoCores.Value != 250_000_000 ||
		u.Psi.Some.Total != 7_000_000_000 || u.Psi.Some.Avg10 != 1.5 || u.Psi.Full == nil {
		t.Errorf("cpu %v", u)
	}
	if m := s.Memory; m.WorkingSetBytes.Value != 60 || m.AvailableBytes.Value != 940 || m.UsageBytes.Value != 100 || m.RssBytes.Value != 40 ||
		m.PageFaults.Value != 8 || m.MajorPageFaults.Value != 2 || m.Psi != nil {
		t.Errorf("memory %v", m)
	}
	if w := s.Swap; w.SwapUsageBytes.Value != 5 || w.SwapAvailableBytes.Value != 15 || w.Timestamp <= 0 {
		t.Errorf("swap %v", w)
	}
	if w := s.WritableLayer; w.UsedBytes.Value != 4096 || w.InodesUsed.Value != 2 || w.FsId.Mountpoint != "/layers" || w.Timestamp != 8_000_000_000 {
		t.Errorf("layer %v", w)
	}
	if s.Io.Psi.Full.Total != 1 {
		t.Errorf("io %v", s.Io)
	}
	// What is not known is not told as 0.
	less := sample()
	less.CPU.NanoCores, less.Memory.Limit, less.Memory.Swap, less.IO, less.Layer = nil, 0, nil, nil, nil
	p.stats.Containers[ctrID] = sandbox.ContainerStats{Sample: less}
	r, err = rt.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: ctrID})
	if err != nil || r.Stats.Cpu.UsageNanoCores != nil || r.Stats.Memory.AvailableBytes != nil || r.Stats.Swap != nil || r.Stats.Io != nil || r.Stats.WritableLayer != nil {
		t.Errorf("%v, %v", r, err)
	}
	_, err = rt.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: strings.Repeat("e", 64)})
	wantCode(t, "no such container", err, codes.NotFound)

	for what, f := range map[string]struct {
		filter *runtimeapi.ContainerStatsFilter
		want   int
	}{
		"all":         {nil, 1},
		"id":          {&runtimeapi.ContainerStatsFilter{Id: ctrID[:8]}, 1},
		"pod":         {&runtimeapi.ContainerStatsFilter{PodSandboxId: podID}, 1},
		"label":       {&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"tier": "front"}}, 1},
		"other label": {&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"tier": "back"}}, 0},
		"other pod":   {&runtimeapi.ContainerStatsFilter{PodSandboxId: ctrID}, 0},
	} {
		l, err := rt.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: f.filter})
		if err != nil || len(l.Stats) != f.want {
			t.Errorf("%s: %v, %v", what, l, err)
		}
	}
	c.status.State = task.Exited
	if l, err := rt.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{}); err != nil || len(l.Stats) != 0 {
		t.Errorf("stats of all running containers have one that does not: %v, %v", l, err)
	}
}

func TestPodStats(t *testing.T) {
	pods, p, _ := measuredNode()
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	ctx := t.Context()
	r, err := rt.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: podID})
	if err != nil {
		t.Fatal(err)
	}
	l := r.Stats.Linux
	if r.Stats.Attributes.Metadata.Uid != "u1" || r.Stats.Attributes.Annotations["odd"] == "" || len(l.Containers) != 1 || l.Containers[0].Cpu == nil {
		t.Errorf("%v", r.Stats)
	}
	if l.Cpu.UsageCoreNanoSeconds.Value != 4_000_000_000 {
		t.Errorf("cpu %v, want that of the pod's cgroup", l.Cpu)
	}
	if n := l.Network; n.DefaultInterface.Name != "eth0" || n.DefaultInterface.RxBytes.Value != 50 || n.DefaultInterface.TxErrors.Value != 2 ||
		len(n.Interfaces) != 1 || n.Interfaces[0].Name != "net1" || n.Timestamp <= 0 {
		t.Errorf("network %v", n)
	}
	if l.Process.ProcessCount.Value != 4 { // with the pod's own init
		t.Errorf("processes %v", l.Process)
	}
	// Without a cgroup of its own, and with nothing at all.
	p.stats.Cgroup, p.stats.Sample = "", nil
	r, err = rt.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: podID})
	if l := r.GetStats().GetLinux(); err != nil || l.Cpu.UsageCoreNanoSeconds.Value != 3_500_000_000 || l.Cpu.UsageNanoCores.Value != 250_000_000 ||
		l.Memory.WorkingSetBytes.Value != 60 || l.Network != nil || l.Cpu.Timestamp != 9_000_000_005 {
		t.Errorf("%v, %v", r, err)
	}
	p.stats.Containers = nil
	r, err = rt.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: podID})
	if l := r.GetStats().GetLinux(); err != nil || l.Cpu.UsageCoreNanoSeconds == nil || l.Cpu.Timestamp <= 0 || l.Process.Timestamp <= 0 {
		t.Errorf("%v, %v", r, err)
	}
	p.status.Ready = false
	if list, err := rt.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{}); err != nil || len(list.Stats) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// expectedMetrics are those that critest wants (cri-tools, pkg/validate/pod.go), but for the two of huge pages.
const expectedMetrics = `blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes
fs_reads_bytes_total fs_reads_total fs_usage_bytes fs_writes_bytes_total fs_writes_total last_seen memory_cache memory_failcnt
memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes
memory_working_set_bytes network_receive_bytes_total network_receive_errors_total network_receive_packets_dropped_total
network_receive_packets_total network_transmit_bytes_total network_transmit_errors_total network_transmit_packets_dropped_total
network_transmit_packets_total oom_events_total pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total
pressure_memory_waiting_seconds_total processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes
spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads threads_max ulimits_soft`

func TestMetrics(t *testing.T) {
	pods, p, _ := measuredNode()
	p.stats.Sample.Memory.Pressure = &stats.Pressure{}
	rt, _, _, _ := serve(t, pods, &fakeImages{}, func(o *Options) { o.LayerDir = t.TempDir() })
	ctx := t.Context()
	d, err := rt.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range d.Descriptors {
		if keys[d.Name] != nil || d.Help == "" || !strings.HasPrefix(d.Name, "container_") {
			t.Errorf("descriptor %v", d)
		}
		keys[d.Name] = d.LabelKeys
	}
	for name := range strings.FieldsSeq(expectedMetrics) {
		if keys["container_"+name] == nil {
			t.Errorf("no descriptor of container_%s", name)
		}
	}
	r, err := rt.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil || len(r.PodMetrics) != 1 || len(r.PodMetrics[0].ContainerMetrics) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	// find returns the values of a metric with these labels.
	find := func(ms []*runtimeapi.Metric, name string, labels ...string) (out []uint64) {
		for _, m := range ms {
			if len(m.LabelValues) != len(keys[m.Name]) {
				t.Errorf("%s has labels %q for %q", m.Name, m.LabelValues, keys[m.Name])
			}
			if m.Name == "container_"+name && !slices.ContainsFunc(labels, func(l string) bool {
				k, v, _ := strings.Cut(l, "=")
				i := slices.Index(keys[m.Name], k)
				return i < 0 || m.LabelValues[i] != v
			}) {
				out = append(out, m.Value.Value)
			}
		}
		return out
	}
	pm, cm := r.PodMetrics[0].Metrics, r.PodMetrics[0].ContainerMetrics[0].Metrics
	for _, c := range []struct {
		in     []*runtimeapi.Metric
		name   string
		labels []string
		want   []uint64
	}{
		{cm, "cpu_usage_seconds_total", []string{"container=app", "id=/kubepods/podu1/" + ctrID, "name=" + ctrID, "pod=web", "namespace=default", "image=registry.example/app:v1", "cpu=total"}, []uint64{3}},
		{cm, "memory_working_set_bytes", nil, []uint64{60}},
		{cm, "memory_failures_total", []string{"failure_type=pgmajfault", "scope=hierarchy"}, []uint64{2}},
		{cm, "pressure_cpu_waiting_seconds_total", nil, []uint64{7}},
		{cm, "pressure_memory_waiting_seconds_total", nil, nil},
		{cm, "fs_writes_bytes_total", []string{"device=/dev/sda"}, []uint64{12}},
		{cm, "blkio_device_usage_total", []string{"major=8", "minor=0", "operation=Read"}, []uint64{11}},
		{cm, "fs_usage_bytes", nil, []uint64{4096}},
		{cm, "file_descriptors", nil, []uint64{9}},
		{cm, "ulimits_soft", []string{"ulimit=max_open_files"}, []uint64{1024}},
		{cm, "start_time_seconds", nil, []uint64{2}},
		{cm, "spec_cpu_period", nil, []uint64{100000}},
		{cm, "spec_cpu_quota", nil, nil},
		{cm, "network_receive_bytes_total", nil, nil},
		{pm, "network_receive_bytes_total", []string{"interface=eth0", "pod=web", "namespace=default", "container=", "name=" + podID}, []uint64{50}},
		{pm, "network_transmit_bytes_total", []string{"interface=net1"}, []uint64{6}},
		{pm, "cpu_usage_seconds_total", []string{"container=", "name=", "image=", "id=/kubepods/podu1"}, []uint64{4}},
		{pm, "fs_usage_bytes", nil, nil},
	} {
		if got := find(c.in, c.name, c.labels...); !slices.Equal(got, c.want) {
			t.Errorf("%s %q: %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	if got := find(cm, "fs_limit_bytes"); len(got) != 1 || got[0] == 0 {
		t.Errorf("size of the file system: %v", got)
	}
}

// receive reads a stream to its end.
func receive[T any](t *testing.T, what string, recv func() (T, error), err error, size func(T) int) []int {
	t.Helper()
	var sizes []int
	for err == nil {
		var r T
		if r, err = recv(); err == nil {
			sizes = append(sizes, size(r))
		}
	}
	if err != io.EOF {
		t.Errorf("%s: %v", what, err)
	}
	return sizes
}

func TestListStreams(t *testing.T) {
	pods, p, _ := measuredNode()
	var images []*image.Image
	for range listBatch + 1 {
		c := *p.containers[0]
		pods.pods = append(pods.pods, &fakePod{id: strings.Repeat("d", 64), config: podConfig(), status: p.status, containers: []*fakeContainer{&c}})
		images = append(images, &image.Image{ID: "sha256:1d"})
	}
	rt, im, _, _ := serve(t, pods, &fakeImages{images: images})
	ctx := t.Context()

	sp, err := rt.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	if got := receive(t, "pods", sp.Recv, err, func(r *runtimeapi.StreamPodSandboxesResponse) int { return len(r.PodSandboxes) }); !slices.Equal(got, []int{listBatch, 2}) {
		t.Errorf("pods in messages of %v", got)
	}
	sp, err = rt.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: "ffff"}})
	if got := receive(t, "no pods", sp.Recv, err, func(*runtimeapi.StreamPodSandboxesResponse) int { return 0 }); got != nil {
		t.Errorf("an empty list in %d messages", len(got))
	}
	sc, err := rt.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	if got := receive(t, "containers", sc.Recv, err, func(r *runtimeapi.StreamContainersResponse) int { return len(r.Containers) }); !slices.Equal(got, []int{listBatch, 2}) {
		t.Errorf("containers in messages of %v", got)
	}
	si, err := im.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	if got := receive(t, "images", si.Recv, err, func(r *runtimeapi.StreamImagesResponse) int { return len(r.Images) }); !slices.Equal(got, []int{listBatch, 1}) {
		t.Errorf("images in messages of %v", got)
	}
	scs, err := rt.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: podID}})
	if got := receive(t, "container stats", scs.Recv, err, func(r *runtimeapi.StreamContainerStatsResponse) int { return len(r.ContainerStats) }); !slices.Equal(got, []int{1}) {
		t.Errorf("container stats in messages of %v", got)
	}
	sps, err := rt.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: podID}})
	if got := receive(t, "pod stats", sps.Recv, err, func(r *runtimeapi.StreamPodSandboxStatsResponse) int { return len(r.PodSandboxStats) }); !slices.Equal(got, []int{1}) {
		t.Errorf("pod stats in messages of %v", got)
	}
	spm, err := rt.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	got := receive(t, "metrics", spm.Recv, err, func(r *runtimeapi.StreamPodSandboxMetricsResponse) int { return len(r.PodSandboxMetrics) })
	sum := 0
	for _, n := range got {
		sum += n
	}
	if sum != listBatch+2 || len(got) != (sum+metricsBatch-1)/metricsBatch {
		t.Errorf("metrics in messages of %v", got)
	}
}

func TestContainerEvents(t *testing.T) {
	pods, p, _ := node()
	pods.events = make(chan podEvent)
	rt, _, s, _ := serve(t, pods, &fakeImages{})
	stream, err := rt.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for typ, want := range map[sandbox.EventType]runtimeapi.ContainerEventType{
		sandbox.EventCreated: 0, sandbox.EventStarted: 1, sandbox.EventStopped: 2, sandbox.EventDeleted: 3,
	} {
		pods.events <- podEvent{ContainerID: ctrID, Pod: p, Type: typ, At: time.Unix(7, 8)}
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId != ctrID || e.ContainerEventType != want || e.CreatedAt != 7_000_000_008 ||
			e.PodSandboxStatus.GetMetadata().GetName() != "web" || len(e.ContainersStatuses) != 1 || e.ContainersStatuses[0].Id != ctrID {
			t.Errorf("%v", e)
		}
	}
	// It ends with the daemon, with an error, and does not hold the daemon up.
	s.close()
	_, err = stream.Recv()
	wantCode(t, "end of the daemon", err, codes.Unavailable)
}

func TestUpdatePodResources(t *testing.T) {
	pods, p, _ := node()
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	_, err := rt.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: podID, Overhead: &runtimeapi.LinuxContainerResources{CpuShares: 2}, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 512},
	})
	if err != nil || p.overhead.GetCpuShares() != 2 || p.resources.GetCpuShares() != 512 {
		t.Errorf("%v, %v, %v", err, p.overhead, p.resources)
	}
	_, err = rt.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: ctrID})
	wantCode(t, "no such pod", err, codes.NotFound)
}

// BenchmarkEncodePodMetrics is the making of an answer of 200 pods, without sending it.
func BenchmarkEncodePodMetrics(b *testing.B) {
	pods, p, c := measuredNode()
	for range 199 {
		d := *c
		pods.pods = append(pods.pods, &fakePod{id: p.id, config: p.config, status: p.status, stats: p.stats, containers: []*fakeContainer{&d}})
	}
	s, err := newServer(Options{Version: "1"}, pods, &fakeImages{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		s.encodePodMetrics()
	}
}
