// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/sandbox"
)

// countedEvents are events about one container, of which the i-th happened i nanoseconds after 1970.
type countedEvents struct {
	pod   pod
	count int64
	next  atomic.Int64
}

func (s *countedEvents) Next(ctx context.Context) (podEvent, uint64, error) {
	i := s.next.Load()
	if i == s.count {
		<-ctx.Done()
		return podEvent{}, 0, context.Cause(ctx)
	}
	s.next.Store(i + 1)
	return podEvent{ContainerID: ctrID, Pod: s.pod, Type: sandbox.EventStopped, At: time.Unix(0, i)}, 0, nil
}

func (s *countedEvents) Close() {}

// TestStuckSubscriber: of 3 subscribers to 10,000 events one never reads. The two others get all, in order, though all three share
// a connection, on which other calls go on as well.
func TestStuckSubscriber(t *testing.T) {
	const count = 10_000
	pods, p, _ := node()
	var mu sync.Mutex
	var subs []*countedEvents
	pods.subscribe = func() subscription {
		mu.Lock()
		defer mu.Unlock()
		s := &countedEvents{pod: p, count: count}
		subs = append(subs, s)
		return s
	}
	rt, _, _, _ := serve(t, pods, &fakeImages{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	listen := func() runtimeapi.RuntimeService_GetContainerEventsClient {
		stream, err := rt.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	stuck := listen()
	if _, err := stuck.Recv(); err != nil { // it is there, before the others
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 2 {
		stream := listen()
		wg.Go(func() {
			for i := range int64(count) {
				e, err := stream.Recv()
				if err != nil || e.CreatedAt != i {
					t.Errorf("event %d: %v, %v", i, e, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if _, err := rt.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if n := subs[0].next.Load(); n == count {
		t.Errorf("all %d events went to the one that does not read: it was not stuck", n)
	}
}
