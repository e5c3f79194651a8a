// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/pkg/store"
	"github.com/embedcri/embedcri/pkg/task"
)

// PodRecord is what the disk says of a pod, for people who look at a node without asking its daemon.
type PodRecord struct {
	ID       string
	Metadata *runtimeapi.PodSandboxMetadata // nil if the identity cannot be read
	State    State
	SameBoot bool  // recorded since the machine was started; else no process of it can live
	Err      error // what of it cannot be read, and why
}

// ContainerRecord is what the disk says of a container.
type ContainerRecord struct {
	ID, PodID string
	Metadata  *runtimeapi.ContainerMetadata // nil if the identity cannot be read
	Status    task.Status
	Err       error // what of it cannot be read, and why
}

// ReadRecords reads all records of s and changes nothing: a daemon may be using them, or be dead. A record that cannot be read is
// in the result, with the reason.
func ReadRecords(s *store.Store, boot string) ([]PodRecord, []ContainerRecord, error) {
	pods, err := s.Kind("pods")
	if err != nil {
		return nil, nil, err
	}
	containers, err := s.Kind("containers")
	if err != nil {
		return nil, nil, err
	}
	podIDs, err := pods.List()
	if err != nil {
		return nil, nil, err
	}
	containerIDs, err := containers.List()
	if err != nil {
		return nil, nil, err
	}
	ps := make([]PodRecord, 0, len(podIDs))
	for _, id := range podIDs {
		var who podIdentity
		var state podState
		r := PodRecord{ID: id, Err: errors.Join(pods.Get(id, identityRecord, &who), pods.Get(id, stateRecord, &state))}
		if who.Config.M != nil {
			r.Metadata = who.Config.M.GetMetadata()
		}
		r.State, r.SameBoot = state.State, state.BootID == boot
		ps = append(ps, r)
	}
	cs := make([]ContainerRecord, 0, len(containerIDs))
	for _, id := range containerIDs {
		var who containerIdentity
		r := ContainerRecord{ID: id, Err: containers.Get(id, identityRecord, &who)}
		r.PodID = who.PodID
		if who.Config.M != nil {
			r.Metadata = who.Config.M.GetMetadata()
		}
		status, err := task.ReadStatus(containers, id)
		r.Status, r.Err = status, errors.Join(r.Err, err)
		cs = append(cs, r)
	}
	return ps, cs, nil
}
