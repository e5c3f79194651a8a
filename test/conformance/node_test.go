// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/embedcri/embedcri/internal/testenv"
	"github.com/embedcri/embedcri/internal/testnode"
)

// TestNode is about what the kubelet asks of the runtime as such: version, conditions, features, cgroup driver.
func TestNode(t *testing.T) {
	n := testnode.Start(t, testnode.Options{NoNetwork: true})
	for _, asked := range []string{"", "v1", "0.1.0"} { // the kubelet sends 0.1.0; the answer does not depend on it
		v, err := n.Runtime.Version(n.Ctx(), asked)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "name", v.RuntimeName, "embedcri")
		want(t, "API version", v.RuntimeApiVersion, "v1")
		want(t, "kubelet API version", v.Version, "0.1.0")
		if v.RuntimeVersion == "" {
			t.Error("no version of the runtime")
		}
	}

	st, err := n.Runtime.Status(n.Ctx(), false)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "verbose part of a terse status", len(st.Info), 0)
	conditions := map[string]*runtimeapi.RuntimeCondition{}
	for _, c := range st.Status.Conditions {
		conditions[c.Type] = c
	}
	// Without network configuration the node is not ready, and says why; the runtime as such is (RuntimeStatus).
	if c := conditions[runtimeapi.RuntimeReady]; !c.GetStatus() {
		t.Errorf("RuntimeReady: %v", c)
	}
	if c := conditions[runtimeapi.NetworkReady]; c == nil || c.Status || c.Reason == "" || c.Message == "" {
		t.Errorf("NetworkReady: %v", c)
	}
	// The kubelet passes recursive read-only mounts and user namespaces only to handlers that have them; "" is the default one.
	named := map[string]*runtimeapi.RuntimeHandlerFeatures{}
	for _, h := range st.RuntimeHandlers {
		named[h.Name] = h.Features
	}
	for _, name := range []string{"", "runc"} {
		f, ok := named[name]
		if !ok || !f.GetRecursiveReadOnlyMounts() || !f.GetUserNamespaces() {
			t.Errorf("handler %q: %v", name, f)
		}
	}
	if !st.Features.GetSupplementalGroupsPolicy() {
		t.Errorf("features %v: no supplementalGroupsPolicy", st.Features)
	}

	rc, err := n.Runtime.RuntimeConfig(n.Ctx())
	if err != nil {
		t.Fatal(err)
	}
	driver := map[string]runtimeapi.CgroupDriver{"systemd": runtimeapi.CgroupDriver_SYSTEMD, "cgroupfs": runtimeapi.CgroupDriver_CGROUPFS}
	want(t, "cgroup driver", rc.Linux.CgroupDriver, driver[testenv.CgroupDriver()])
}
