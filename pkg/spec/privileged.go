// SPDX-License-Identifier: Apache-2.0

package spec

// privileged refuses a privileged container in a pod that was not announced as such: the sandbox "MUST" have said so
// (LinuxSandboxSecurityContext.privileged), because it may have taken precautions that such a container would break. What
// privileged means is in the features it changes: capabilities, mounts, paths, devices, seccomp, appArmor, selinux.
func (b *builder) privileged() error {
	if b.sc.GetPrivileged() && !b.psc.GetPrivileged() {
		return invalid("linux.security_context.privileged", "is set, but the pod sandbox is not privileged")
	}
	return nil
}
