// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The Stream calls send what the List calls return, in pieces that fit into a message whatever the node's size. Each takes its
// snapshot first and then sends it, so that an item is sent exactly once and a client that reads slowly holds nothing up but its own
// call. Nothing is sent for an empty list: a message has at least one item (api.proto).

// Items in a message. What limits them is the clients' 16 MiB: annotations of a pod may be 256 KiB (apimachinery,
// TotalAnnotationSizeLimitB), which is rare; a pod's metrics are 30 to 100 KiB, which is the rule.
const (
	listBatch    = 500
	metricsBatch = 50
)

// sendBatches sends items in messages of at most n.
func sendBatches[T, R any](items []T, n int, message func([]T) R, send func(R) error) error {
	for batch := range slices.Chunk(items, n) {
		if err := send(message(batch)); err != nil {
			return err
		}
	}
	return nil
}

// StreamPodSandboxes is ListPodSandbox in pieces.
func (s *Server) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, stream runtimeapi.RuntimeService_StreamPodSandboxesServer) error {
	return sendBatches(s.listPods(r.GetFilter()), listBatch, func(b []*runtimeapi.PodSandbox) *runtimeapi.StreamPodSandboxesResponse {
		return &runtimeapi.StreamPodSandboxesResponse{PodSandboxes: b}
	}, stream.Send)
}

// StreamContainers is ListContainers in pieces.
func (s *Server) StreamContainers(r *runtimeapi.StreamContainersRequest, stream runtimeapi.RuntimeService_StreamContainersServer) error {
	return sendBatches(s.listContainers(r.GetFilter()), listBatch, func(b []*runtimeapi.Container) *runtimeapi.StreamContainersResponse {
		return &runtimeapi.StreamContainersResponse{Containers: b}
	}, stream.Send)
}

// StreamImages is ListImages in pieces.
func (s *Server) StreamImages(r *runtimeapi.StreamImagesRequest, stream runtimeapi.ImageService_StreamImagesServer) error {
	images, err := s.listImages(r.GetFilter())
	if err != nil {
		return err
	}
	return sendBatches(images, listBatch, func(b []*runtimeapi.Image) *runtimeapi.StreamImagesResponse {
		return &runtimeapi.StreamImagesResponse{Images: b}
	}, stream.Send)
}

// StreamContainerStats is ListContainerStats in pieces.
func (s *Server) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, stream runtimeapi.RuntimeService_StreamContainerStatsServer) error {
	return sendBatches(s.listContainerStats(r.GetFilter()), listBatch, func(b []*runtimeapi.ContainerStats) *runtimeapi.StreamContainerStatsResponse {
		return &runtimeapi.StreamContainerStatsResponse{ContainerStats: b}
	}, stream.Send)
}

// StreamPodSandboxStats is ListPodSandboxStats in pieces.
func (s *Server) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, stream runtimeapi.RuntimeService_StreamPodSandboxStatsServer) error {
	return sendBatches(s.listPodStats(r.GetFilter()), listBatch, func(b []*runtimeapi.PodSandboxStats) *runtimeapi.StreamPodSandboxStatsResponse {
		return &runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: b}
	}, stream.Send)
}
