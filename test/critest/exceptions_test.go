// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"os"
	"os/exec"
	"strings"
)

// exception is a group of specs that cannot run, and why.
type exception struct {
	spec   string // a part of the full names of its specs
	reason string
	// deselect means that critest is told to leave the specs out; they would fail. Others skip themselves.
	deselect bool
}

// exceptions returns all that may be skipped on this machine with an OCI runtime. (Without SELinux its specs do not exist, rather than being skipped.)
func exceptions(runtime string) []exception {
	list := []exception{{
		spec:     "public image with digest should be pulled and removed",
		reason:   "the digest of a public image is compiled into critest, and no image built here has it; see TestPullByDigest",
		deselect: true,
	}, {
		spec:   "[k8s.io] NRI ",
		reason: "NRI is not part of the CRI, and embedcri does not serve it",
	}}
	if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || strings.TrimSpace(string(b)) != "Y" {
		list = append(list, exception{spec: "AppArmor", reason: "this kernel has no AppArmor, or it is off"})
	}
	if exec.Command(runtime, "features").Run() != nil {
		reason := "the OCI runtime has no features command to tell its abilities by (crun has it from 1.8.6 on)"
		list = append(list, exception{spec: "UserNamespaces", reason: reason}, exception{spec: "a recursive readonly mount", reason: reason},
			exception{spec: "should support recursive readonly mounts", reason: reason})
	}
	return list
}

// excuse returns the exception that a spec falls under, nil if none.
func excuse(list []exception, spec string) *exception {
	for i, e := range list {
		if strings.Contains(spec, e.spec) {
			return &list[i]
		}
	}
	return nil
}
