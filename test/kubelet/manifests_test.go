// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// newPod is a pod of the given containers that are ended at once when it goes.
func newPod(name string, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{
			Containers: containers, TerminationGracePeriodSeconds: ptr.To[int64](1),
			AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false),
		},
	}
}

// sh is a container that runs a shell script in busybox.
func (k *kubelet) sh(name, script string) corev1.Container {
	return corev1.Container{
		Name: name, Image: k.registry.Ref(k.T, "busybox:1"), Command: []string{"sh", "-c", script},
		ImagePullPolicy: corev1.PullIfNotPresent,
	}
}

// forever keeps a shell script's container running, and lets it end on SIGTERM.
const forever = "trap exit TERM; while :; do sleep 1; done"

// web serves HTTP, with every kind of probe; the one of gRPC is the kubelet's own and does not reach the runtime.
func (k *kubelet) web() *corev1.Pod {
	c := k.sh("web", "echo it begins; echo to stderr >&2; exec httpd -f -p 8080 -h /etc")
	httpGet := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/hostname", Port: intstr.FromInt32(8080)}}
	tcp := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}
	command := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "test -e /etc/hostname"}}}
	c.StartupProbe = &corev1.Probe{ProbeHandler: tcp, PeriodSeconds: 1, FailureThreshold: 60}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: httpGet, PeriodSeconds: 1, FailureThreshold: 1000}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: command, PeriodSeconds: 1, TimeoutSeconds: 30, FailureThreshold: 10}
	c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"touch", "/started"}}}}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	c.Resources.Requests = c.Resources.Limits // guaranteed
	return newPod("web", c)
}

// initPod has an init container, a sidecar that goes on beside the main container, volumes and a user of its own.
func (k *kubelet) initPod() *corev1.Pod {
	shared := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}, {Name: "memory", MountPath: "/memory"}}
	first := k.sh("first", "echo from the first > /shared/file; echo in memory > /memory/file")
	sidecar := k.sh("sidecar", "echo $POD_NAME > /shared/sidecar; "+forever)
	sidecar.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-s", "/shared/sidecar"}}},
		PeriodSeconds: 1, TimeoutSeconds: 30, FailureThreshold: 60,
	}
	sidecar.Env = []corev1.EnvVar{{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	main := k.sh("main", "cat /shared/file /shared/sidecar /memory/file; id -u; id -G; touch /no 2>/dev/null || echo read-only; "+forever)
	main.SecurityContext = &corev1.SecurityContext{
		RunAsUser: ptr.To[int64](1000), RunAsGroup: ptr.To[int64](1000), ReadOnlyRootFilesystem: ptr.To(true),
		AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	for _, c := range []*corev1.Container{&first, &sidecar, &main} {
		c.VolumeMounts = shared
	}
	p := newPod("init", main)
	p.Spec.InitContainers = []corev1.Container{first, sidecar}
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
	}
	return p
}

// hostPod is on the host's network and sees its processes.
func (k *kubelet) hostPod() *corev1.Pod {
	p := newPod("host", k.sh("main", "readlink /proc/self/ns/net; "+forever))
	p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true
	return p
}

// sharedPod has two containers in one process namespace.
func (k *kubelet) sharedPod() *corev1.Pod {
	p := newPod("shared", k.sh("one", "exec sleep 4711"), k.sh("two", "until ps | grep -q 'sleep 4[7]11'; do sleep 0.1; done; echo seen; "+forever))
	p.Spec.ShareProcessNamespace = ptr.To(true)
	return p
}

// usersPod has user ids of its own.
func (k *kubelet) usersPod() *corev1.Pod {
	p := newPod("users", k.sh("main", "id -u; cat /proc/self/uid_map; "+forever))
	p.Spec.HostUsers = ptr.To(false)
	return p
}

// job is a pod whose containers run once: one ends well, the other with code 3 and a message.
func (k *kubelet) job() *corev1.Pod {
	p := newPod("job", k.sh("good", "echo done"), k.sh("bad", "echo -n the message > /dev/termination-log; exit 3"))
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	return p
}

// crash is a container that fails at once, again and again.
func (k *kubelet) crash() *corev1.Pod { return newPod("crash", k.sh("main", "echo I crash; exit 1")) }

// sick is a container whose liveness probe fails as soon as its file is gone, once.
func (k *kubelet) sick() *corev1.Pod {
	c := k.sh("main", "touch /alive; "+forever)
	c.LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/alive"}}},
		PeriodSeconds: 1, TimeoutSeconds: 30, FailureThreshold: 1, InitialDelaySeconds: 1,
	}
	return newPod("sick", c)
}

// missing asks for an image that is not there.
func (k *kubelet) missing() *corev1.Pod {
	c := k.sh("main", "")
	c.Image = k.registry.Addr + "/missing:1"
	return newPod("missing", c)
}
