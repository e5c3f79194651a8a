// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testnode"
)

// TestImages is about the ImageService: what an image is told by, and what it can be named by.
func TestImages(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	first, second := registry.Ref(t, "busybox:1"), registry.Ref(t, "busybox:2")
	spec := func(ref string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: ref} }

	// "If the image does not exist, returns a response with Image set to nil."
	r, err := n.Images.ImageStatus(n.Ctx(), spec(first), false)
	if err != nil || r.Image != nil {
		t.Errorf("status of what is not there: %v, %v", r, err)
	}
	// "This call is idempotent, and must not return an error if the image has already been removed."
	wantCode(t, "remove what is not there", n.Images.RemoveImage(n.Ctx(), spec(first)), codes.OK)

	id := n.Pull(first)
	want(t, "pulled again", n.Pull(first), id)
	other := n.Pull(second)
	r, err = n.Images.ImageStatus(n.Ctx(), spec(first), false)
	if err != nil || r.Image == nil {
		t.Fatalf("status: %v, %v", r, err)
	}
	image := r.Image
	if !slices.Contains(image.RepoTags, first) || len(image.RepoDigests) != 1 || image.Size == 0 || !strings.HasPrefix(image.Id, "sha256:") {
		t.Errorf("image %v", image)
	}
	want(t, "pinned", image.Pinned, false)

	// An image is found by tag, digest, id and id without its algorithm; the spec comes back as it was given.
	digest := image.RepoDigests[0]
	for _, name := range []string{first, digest, image.Id, strings.TrimPrefix(image.Id, "sha256:"), id} {
		r, err := n.Images.ImageStatus(n.Ctx(), spec(name), false)
		if err != nil || r.Image.GetId() != image.Id {
			t.Errorf("by %s: %v, %v; want %s", name, r.GetImage().GetId(), err, image.Id)
		}
	}
	want(t, "pulled by digest", n.Pull(digest), id)

	all, err := n.Images.ListImages(n.Ctx(), nil)
	want(t, "image of the other tag", r.Image.Id == other, false)
	if err != nil || len(all) != 2 {
		t.Errorf("list: %v, %v", all, err)
	}
	for _, ref := range []string{first, image.Id} {
		some, err := n.Images.ListImages(n.Ctx(), &runtimeapi.ImageFilter{Image: spec(ref)})
		wantIDs(t, "list of "+ref, some, err, image.Id)
	}
	none, err := n.Images.ListImages(n.Ctx(), &runtimeapi.ImageFilter{Image: spec("127.0.0.1:1/none:1")})
	wantIDs(t, "list of what is not there", none, err)

	fs, err := n.Images.ImageFsInfo(n.Ctx())
	if err != nil || len(fs.ImageFilesystems) != 1 || len(fs.ContainerFilesystems) != 1 || fs.ImageFilesystems[0].GetUsedBytes().GetValue() == 0 ||
		fs.ImageFilesystems[0].GetInodesUsed().GetValue() == 0 || fs.ImageFilesystems[0].GetFsId().GetMountpoint() == "" || fs.ImageFilesystems[0].Timestamp == 0 {
		t.Errorf("file systems: %v, %v", fs, err)
	}

	// Removing by one name removes the image with all its names.
	wantCode(t, "remove by digest", n.Images.RemoveImage(n.Ctx(), spec(digest)), codes.OK)
	r, err = n.Images.ImageStatus(n.Ctx(), spec(image.Id), false)
	if err != nil || r.Image != nil {
		t.Errorf("status of what is removed: %v, %v", r, err)
	}
	_, err = n.Images.PullImage(n.Ctx(), spec(registry.Addr+"/none:1"), nil, nil)
	wantCode(t, "pull of what the registry does not have", err, codes.NotFound)
	for _, bad := range []string{"", "127.0.0.1:1/UPPER/case", "a b", "x@sha256:12"} {
		_, err = n.Images.PullImage(n.Ctx(), spec(bad), nil, nil)
		wantCode(t, "pull of "+bad, err, codes.InvalidArgument)
	}
}

// TestImageUser: what the kubelet verifies runAsNonRoot with. Of a user by name it knows no uid.
func TestImageUser(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	for ref, user := range map[string]string{"user-name:1": "app ", "user-id:1": " 1000", "busybox:1": " "} { // the kubelet takes none for root
		ref = registry.Ref(t, ref)
		n.Pull(ref)
		r, err := n.Images.ImageStatus(n.Ctx(), &runtimeapi.ImageSpec{Image: ref}, true)
		if err != nil {
			t.Fatal(err)
		}
		uid := ""
		if r.Image.Uid != nil {
			uid = fmt.Sprint(r.Image.Uid.Value)
		}
		want(t, "user of "+ref, r.Image.Username+" "+uid, user)
		if !strings.Contains(r.Info["info"], `"imageSpec"`) {
			t.Errorf("verbose part: %v", r.Info)
		}
	}
}
