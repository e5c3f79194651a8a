// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"testing"

	"github.com/embedcri/embedcri/pkg/store"
	"github.com/embedcri/embedcri/pkg/task"
)

// TestFormat1StillLoads reads records as the daemon wrote them when their format was 1. The copies in testdata are never written anew:
// a later build that cannot read them would lose what a node has.
func TestFormat1StillLoads(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/v1")); err != nil {
		t.Fatal(err)
	}
	records, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	kind := func(name string) *store.Kind {
		k, err := records.Kind(name)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	get := func(k *store.Kind, id, name string, v any) {
		t.Helper()
		if err := k.Get(id, name, v); err != nil {
			t.Fatal(err)
		}
	}
	const (
		podID  = "66db9daf751e3209e04b6c920d4b7f0c46056ef519eb423a9a195b47a1f744b2"
		ctrID  = "98fa4ac3f980f1ccabae18a8e71b7937d1251d456156bb09dc6a73819da01ef0"
		overID = "1111111111111111111111111111111111111111111111111111111111111111"
	)
	pods, ctrs := kind("pods"), kind("containers")

	var pod podIdentity
	get(pods, podID, identityRecord, &pod)
	if pod.ID != podID || pod.Handler != "runc" || pod.CreatedAt.IsZero() || pod.Config.M.GetMetadata().GetUid() != "uid-pod-5" {
		t.Errorf("pod identity: %+v", pod)
	}
	var state podState
	get(pods, podID, stateRecord, &state)
	if state.State != Ready || state.BootID == "" || !state.Files || !state.Pins || state.Namespaces.IPC == "" {
		t.Errorf("pod state: %+v", state)
	}
	var ctr containerIdentity
	get(ctrs, ctrID, identityRecord, &ctr)
	if ctr.ID != ctrID || ctr.PodID != podID || ctr.ImageID == "" || ctr.ImageRef == "" || ctr.LogPath == "" || ctr.Signal != 15 ||
		ctr.Streams.LogPath != ctr.LogPath || len(ctr.Volumes) != 1 || len(ctr.VolumeIDs) != 1 ||
		ctr.Config.M.GetMetadata().GetName() != "c-129" || len(ctr.Config.M.GetMounts()) != 1 {
		t.Errorf("container identity: %+v", ctr)
	}
	var s task.Status
	get(ctrs, ctrID, "status", &s)
	if s.State != task.Running || s.Pid != 10795 || s.PidStart == 0 || s.BootID == "" || s.StartedAt.IsZero() || s.Exit != nil {
		t.Errorf("status: %+v", s)
	}
	var over task.Status
	get(ctrs, overID, "status", &over)
	if over.State != task.Exited || over.Exit.Code() != 137 || over.Exit.Killer.Comm != "stress-ng" || over.Exit.OOMKills != 2 ||
		over.FinishedAt.IsZero() || !over.Stop.Sent || over.Stop.Grace.Seconds() != 3 {
		t.Errorf("status of one that is over: %+v", over)
	}
}
