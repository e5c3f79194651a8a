// SPDX-License-Identifier: Apache-2.0

package image

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Stage is what a pull is doing.
type Stage string

// The stages, in the order in which a pull goes through them. Layers are unpacked while others are
// still downloading: the stage changes when all have arrived.
const (
	StageResolving   Stage = "resolving"
	StageDownloading Stage = "downloading"
	StageUnpacking   Stage = "unpacking"
	StageDone        Stage = "done"
)

// Progress is how far a pull has come.
type Progress struct {
	// Ref is the completed reference.
	Ref     string
	Stage   Stage
	Started time.Time
	// Layers are known once the manifest has been read, lowest first.
	Layers []LayerProgress
}

// LayerProgress is one layer of a pull. All numbers are bytes of the layer as it is downloaded, so
// that each runs from 0 to Size.
type LayerProgress struct {
	Digest               string
	Size                 int64
	Downloaded, Unpacked int64
}

// Total adds up the layers.
func (p Progress) Total() LayerProgress {
	var t LayerProgress
	for _, l := range p.Layers {
		t.Size += l.Size
		t.Downloaded += l.Downloaded
		t.Unpacked += l.Unpacked
	}
	return t
}

// Pulls tells how far the running pulls are, oldest first.
func (s *Store) Pulls() []Progress {
	s.active.mu.Lock()
	states := slices.Collect(maps.Values(s.active.m))
	s.active.mu.Unlock()
	out := make([]Progress, 0, len(states))
	for _, st := range states {
		out = append(out, st.progress())
	}
	slices.SortFunc(out, func(a, b Progress) int { return a.Started.Compare(b.Started) })
	return out
}

// finished is the progress of a pull that has succeeded: what it did not have to do itself, because
// another pull or an earlier one had, is done as well.
func (p Progress) finished(ref string) Progress {
	p.Ref, p.Stage = ref, StageDone
	p.Layers = slices.Clone(p.Layers)
	for i := range p.Layers {
		p.Layers[i].Downloaded, p.Layers[i].Unpacked = p.Layers[i].Size, p.Layers[i].Size
	}
	return p
}

type activePulls struct {
	mu sync.Mutex
	m  map[pullKey]*pullState
}

func (a *activePulls) add(key pullKey, st *pullState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = map[pullKey]*pullState{}
	}
	a.m[key] = st
}

func (a *activePulls) remove(key pullKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.m, key)
}

func (a *activePulls) find(key pullKey) *pullState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.m[key]
}

// pullState is the live side of Progress: written by the pull, read by whoever watches it.
type pullState struct {
	ref     string
	started time.Time

	mu     sync.Mutex
	stage  Stage
	layers []*layerState
}

type layerState struct {
	digest               digest.Digest
	size                 int64
	downloaded, unpacked atomic.Int64
}

func newPullState(ref string) *pullState {
	return &pullState{ref: ref, started: time.Now(), stage: StageResolving}
}

func (p *pullState) setStage(stage Stage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage = stage
}

func (p *pullState) setLayers(layers []ocispec.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.layers = nil
	for _, l := range layers {
		p.layers = append(p.layers, &layerState{digest: l.Digest, size: l.Size})
	}
}

// layerCount is how many layers the manifest has.
func (p *pullState) layerCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.layers)
}

// layer returns the state of a layer, or one that nobody looks at for anything else.
func (p *pullState) layer(d digest.Digest) *layerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.layers {
		if l.digest == d {
			return l
		}
	}
	return &layerState{digest: d}
}

// progress reads the state. Once all layers have arrived, what is left is unpacking.
func (p *pullState) progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := Progress{Ref: p.ref, Stage: p.stage, Started: p.started}
	for _, l := range p.layers {
		out.Layers = append(out.Layers, LayerProgress{
			Digest: l.digest.String(), Size: l.size,
			Downloaded: min(l.downloaded.Load(), l.size),
			Unpacked:   min(l.unpacked.Load(), l.size), // the same layer can be in an image twice
		})
	}
	if t := out.Total(); out.Stage == StageDownloading && t.Size > 0 && t.Downloaded >= t.Size {
		out.Stage = StageUnpacking
	}
	return out
}

// Counters are totals since Open, for metrics.
type Counters struct {
	PullsSucceeded, PullsFailed   uint64
	BytesDownloaded               uint64 // read from registries, manifests included
	BytesUnpacked                 uint64 // tar bytes, after decompression
	ImagesRemoved, Collections    uint64
	CollectionTime                time.Duration
	RootfsesCreated, RootfsesGone uint64
}

type counters struct {
	pulled, failed, downloaded, unpacked, removed, collections, collectionNanos, rootfses, rootfsesGone atomic.Uint64
}

// Counters reads the store's counters.
func (s *Store) Counters() Counters {
	c := &s.counters
	return Counters{
		PullsSucceeded: c.pulled.Load(), PullsFailed: c.failed.Load(),
		BytesDownloaded: c.downloaded.Load(), BytesUnpacked: c.unpacked.Load(),
		ImagesRemoved: c.removed.Load(), Collections: c.collections.Load(),
		CollectionTime:  time.Duration(c.collectionNanos.Load()),
		RootfsesCreated: c.rootfses.Load(), RootfsesGone: c.rootfsesGone.Load(),
	}
}
