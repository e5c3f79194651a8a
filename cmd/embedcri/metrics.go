// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/cri"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/ioattach"
	"github.com/embedcri/embedcri/pkg/sandbox"
)

// metrics turns the counters that the packages keep into Prometheus' form when somebody asks; nothing is computed at rest.
type metrics struct {
	tracer  *exitbpf.Tracer
	streams *ioattach.Hub
	images  *image.Store
	pods    *sandbox.Manager
	server  *cri.Server
}

var (
	mExits        = desc("exits_total", "Exits by the source that told the status.", "source")
	mCompared     = desc("exit_compared_total", "Exits whose status two sources knew.")
	mDisagreed    = desc("exit_disagree_total", "Exits about which two sources differed. Anything but 0 is a bug.")
	mSlots        = desc("exit_slots", "Slots of the exit tracer that are taken.")
	mCapacity     = desc("exit_slots_capacity", "Slots of the exit tracer.")
	mFull         = desc("exit_slots_full_total", "Processes that could not be watched because all slots were taken.")
	mKernelDrops  = desc("exit_kernel_drops_total", "What the kernel side of the tracer could not record.", "what")
	mKernelExits  = desc("exit_kernel_recorded_total", "Exits that the kernel wrote into slots.")
	mOOMKills     = desc("oom_kills_total", "Processes that the kernel's OOM killer ended, anywhere on this machine.")
	mLogDropped   = desc("log_dropped_bytes_total", "Log bytes that a failing log file did not take.")
	mLogErrors    = desc("log_errors_total", "Failed writes to log files.")
	mCutClients   = desc("attach_clients_cut_total", "Attached clients that were cut because they did not keep up.")
	mStreams      = desc("streams", "Container streams that are being read.")
	mPulls        = desc("image_pulls_total", "Pulls by result.", "result")
	mDownloaded   = desc("image_downloaded_bytes_total", "Bytes read from registries.")
	mUnpacked     = desc("image_unpacked_bytes_total", "Bytes of layers unpacked.")
	mPods         = desc("pods", "Pods by state.", "state")
	mContainers   = desc("containers", "Containers by state.", "state")
	mPodStages    = desc("pod_stage_duration_seconds", "What the stages of making pods took.", "stage")
	mCtrStages    = desc("container_stage_duration_seconds", "What the stages of making containers took.", "stage")
	mExecStages   = desc("exec_stage_duration_seconds", "What the stages of ExecSync took.", "stage")
	mEvents       = desc("events_total", "Events of containers and pods.")
	mEventsLost   = desc("events_dropped_total", "Events that a subscriber was too slow for.")
	mSubscribers  = desc("event_subscribers", "Clients that listen to events.")
	mCalls        = desc("cri_call_duration_seconds", "How long CRI calls took.", "method")
	mCallErrors   = desc("cri_call_errors_total", "CRI calls that failed.", "method")
	everyMetric   = []*prometheus.Desc{mExits, mCompared, mDisagreed, mSlots, mCapacity, mFull, mKernelDrops, mKernelExits, mOOMKills, mLogDropped, mLogErrors, mCutClients, mStreams, mPulls, mDownloaded, mUnpacked, mPods, mContainers, mPodStages, mCtrStages, mExecStages, mEvents, mEventsLost, mSubscribers, mCalls, mCallErrors}
	latencyBounds = cri.LatencyBounds()
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("embedcri_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range everyMetric {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	t := m.tracer.Stats()
	for _, s := range exitbpf.Sources() {
		count(mExits, t.Exits[s], s.String())
	}
	count(mCompared, t.Compared)
	count(mDisagreed, t.Disagreed)
	gauge(mSlots, t.Slots)
	gauge(mCapacity, t.Capacity)
	count(mFull, t.Full)
	count(mKernelDrops, t.Kernel.RecentFailed, "recent exits")
	count(mKernelDrops, t.Kernel.OOMFailed, "OOM kills")
	count(mKernelExits, t.Kernel.Recorded)
	count(mOOMKills, t.Kernel.OOMKills)

	h := m.streams.Stats()
	count(mLogDropped, h.DroppedBytes)
	count(mLogErrors, h.LogErrors)
	count(mCutClients, h.CutClients)
	gauge(mStreams, h.Streams)

	i := m.images.Counters()
	count(mPulls, i.PullsSucceeded, "ok")
	count(mPulls, i.PullsFailed, "error")
	count(mDownloaded, i.BytesDownloaded)
	count(mUnpacked, i.BytesUnpacked)

	states := map[string]int{}
	for _, p := range m.pods.Pods() {
		states[string(p.Status().State)]++
	}
	for s, n := range states {
		gauge(mPods, n, s)
	}
	states = map[string]int{}
	for _, c := range m.pods.Containers() {
		states[c.Status().State.String()]++
	}
	for s, n := range states {
		gauge(mContainers, n, s)
	}
	for _, s := range []struct {
		desc   *prometheus.Desc
		totals map[string]sandbox.StageTotal
	}{{mPodStages, m.pods.PodStages()}, {mCtrStages, m.pods.ContainerStages()}, {mExecStages, m.pods.ExecStages()}} {
		for stage, t := range s.totals {
			ch <- prometheus.MustNewConstSummary(s.desc, t.Count, t.Took.Seconds(), nil, stage)
		}
	}
	e := m.pods.EventStats()
	count(mEvents, e.Published)
	count(mEventsLost, e.Dropped)
	gauge(mSubscribers, e.Subscribers)
	for _, l := range m.server.Latencies() {
		if l.Count == 0 {
			continue
		}
		buckets, sum := map[float64]uint64{}, uint64(0)
		for i, bound := range latencyBounds {
			sum += l.Buckets[i]
			buckets[bound.Seconds()] = sum
		}
		ch <- prometheus.MustNewConstHistogram(mCalls, l.Count, l.Total.Seconds(), buckets, l.Method)
		count(mCallErrors, l.Errors, l.Method)
	}
}

// serveMetrics serves /metrics on address (host:port, or unix:path) until ctx ends; an empty address serves nothing. The returned
// function waits for its end.
func serveMetrics(ctx context.Context, address string, m *metrics) (wait func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	var l net.Listener
	if network == "unix" {
		l, err = listen(address)
	} else {
		l, err = net.Listen(network, address)
	}
	if err != nil {
		return nil, fmt.Errorf("metrics.address: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			klog.Background().Error(err, "serve metrics")
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	return func() {
		if stop() {
			_ = server.Close()
		}
		<-done
	}, nil
}
