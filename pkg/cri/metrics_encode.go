// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/stats"
)

// Metrics are encoded here rather than by protobuf. On a node of 200 pods an answer has some 15,000 of them, each with half a dozen
// labels; as messages that is 5 MB of small objects, and tens of milliseconds, for what is mostly the same bytes again and again:
// a container's labels are encoded once, a metric's name at all once. The bytes get into the answer as its "unknown fields", which
// protobuf appends as they are. What comes out is checked by a test that reads it with protobuf.

// Numbers of fields (api.proto).
const (
	fieldPodMetrics = 1 // ListPodSandboxMetricsResponse.pod_metrics, StreamPodSandboxMetricsResponse.pod_sandbox_metrics

	fieldPodID            = 1 // PodSandboxMetrics
	fieldPodOwnMetrics    = 2
	fieldContainerMetrics = 3

	fieldContainerID         = 1 // ContainerMetrics
	fieldContainerOwnMetrics = 2

	fieldName        = 1 // Metric
	fieldTimestamp   = 2
	fieldType        = 3
	fieldLabelValues = 4
	fieldValue       = 5

	fieldUInt64 = 1 // UInt64Value
)

// metricEncoder encodes pods, one after the other. The zero value is ready.
type metricEncoder struct {
	own, containers, one, labels, extra []byte // scratch
}

// pod appends a pod and its containers to b, as an element of an answer.
func (e *metricEncoder) pod(b []byte, p pod, u sandbox.PodStats, fs *stats.Filesystem) []byte {
	md := p.Config().GetMetadata()
	e.own = e.own[:0]
	if s := u.Sample; s != nil {
		m := &measured{Sample: s, startedAt: p.Status().CreatedAt.Unix()}
		id := u.Cgroup
		if id == "" {
			id = p.ID()
		}
		if s.HasCgroup {
			e.setLabels("", id, "", "", md.GetNamespace(), md.GetName())
			e.own = e.metrics(e.own, fieldPodOwnMetrics, cgroupFamilies, m)
		}
		// The network is told under the name that a container for the pod itself would have.
		e.setLabels("", id, "", p.ID(), md.GetNamespace(), md.GetName())
		e.own = e.metrics(e.own, fieldPodOwnMetrics, networkFamilies, m)
	}
	e.containers = e.containers[:0]
	for _, c := range p.Containers() {
		cu, ok := u.Containers[c.ID()]
		if !ok || cu.Sample == nil || !cu.HasCgroup {
			continue
		}
		m := &measured{Sample: cu.Sample, startedAt: max(c.Status().StartedAt.Unix(), 0), resources: c.Resources().GetLinux(), fs: fs}
		e.setLabels(containerMetadata(c.Config()).GetName(), cu.Cgroup, imageSpec(c).GetImage(), c.ID(), md.GetNamespace(), md.GetName())
		e.one = appendString(e.one[:0], fieldContainerID, c.ID())
		e.one = e.metrics(e.one, fieldContainerOwnMetrics, cgroupFamilies, m)
		e.one = e.metrics(e.one, fieldContainerOwnMetrics, containerFamilies, m)
		e.containers = appendBytes(e.containers, fieldContainerMetrics, e.one)
	}
	size := protowire.SizeTag(fieldPodID) + protowire.SizeBytes(len(p.ID())) + len(e.own) + len(e.containers)
	b = protowire.AppendTag(b, fieldPodMetrics, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = appendString(b, fieldPodID, p.ID())
	b = append(b, e.own...)
	return append(b, e.containers...)
}

// setLabels encodes the values of baseLabels.
func (e *metricEncoder) setLabels(values ...string) {
	e.labels = e.labels[:0]
	for _, v := range values {
		e.labels = appendString(e.labels, fieldLabelValues, v)
	}
}

// metrics appends what families tell of m, each as a field with this number. The labels are those that were set last.
func (e *metricEncoder) metrics(b []byte, field protowire.Number, families []family, m *measured) []byte {
	at := uint64(m.At.UnixNano())
	var f *family
	emit := func(value uint64, labels ...string) {
		e.extra = e.extra[:0]
		for _, l := range labels {
			e.extra = appendString(e.extra, fieldLabelValues, l)
		}
		e.extra = protowire.AppendTag(e.extra, fieldValue, protowire.BytesType)
		if value == 0 { // a message that is there, and empty
			e.extra = protowire.AppendVarint(e.extra, 0)
		} else {
			e.extra = protowire.AppendVarint(e.extra, uint64(protowire.SizeTag(fieldUInt64)+protowire.SizeVarint(value)))
			e.extra = protowire.AppendTag(e.extra, fieldUInt64, protowire.VarintType)
			e.extra = protowire.AppendVarint(e.extra, value)
		}
		size := protowire.SizeTag(fieldName) + protowire.SizeBytes(len(f.name)) + protowire.SizeTag(fieldTimestamp) + protowire.SizeVarint(at) +
			len(e.labels) + len(e.extra)
		if f.kind != 0 {
			size += protowire.SizeTag(fieldType) + protowire.SizeVarint(uint64(f.kind))
		}
		b = protowire.AppendTag(b, field, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		b = appendString(b, fieldName, f.name)
		b = protowire.AppendTag(b, fieldTimestamp, protowire.VarintType)
		b = protowire.AppendVarint(b, at)
		if f.kind != 0 {
			b = protowire.AppendTag(b, fieldType, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(f.kind))
		}
		b = append(b, e.labels...)
		b = append(b, e.extra...)
	}
	for i := range families {
		f = &families[i]
		f.values(m, emit)
	}
	return b
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}
