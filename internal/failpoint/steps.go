// SPDX-License-Identifier: Apache-2.0

package failpoint

// The durable steps, in the order of a life. Each is made in exactly one kind of place; a test of this package looks for it.
// "recorded" means that the record is written; the thing itself is the next step.
var (
	// Making a pod.
	PodIdentity   = step("pod identity recorded")
	PodDurable    = step("pod identity made to survive a power loss")
	PodCreating   = step("pod recorded as creating")
	PodFiles      = step("pod files recorded")
	PodShm        = step("pod /dev/shm mounted")
	PodPins       = step("pod namespaces recorded")
	PodNamespaces = step("pod namespaces pinned")
	NamespacePin  = step("one namespace pinned")
	PodPaths      = step("pod namespace paths recorded")
	PodPlan       = step("pod network plan recorded")
	PodAttach     = step("pod attached to its networks")
	PodAttached   = step("pod addresses recorded")
	PodHosts      = step("pod hosts file written")
	PodInit       = step("pod init recorded")
	PodInitRecord = step("pod init identity recorded")
	PodReady      = step("pod recorded as ready")
	PodResources  = step("pod resources recorded")

	// Making a container.
	ContainerIdentity = step("container identity recorded")
	RootfsSnapshot    = step("root file system made")
	RootfsMount       = step("root file system mounted")
	ContainerVolumes  = step("image volumes recorded")
	VolumeSnapshot    = step("image volume made")
	VolumeMount       = step("image volume mounted")
	ContainerComplete = step("container identity completed")
	ContainerDurable  = step("container identity made to survive a power loss")
	TaskCreating      = step("task recorded as creating")
	TaskBundle        = step("bundle written")
	TaskStreams       = step("streams made")
	RuntimeCreate     = step("runtime create")
	TaskFollow        = step("process watched")
	TaskCreated       = step("task recorded as created")

	// Its life.
	TaskStarting  = step("task recorded as starting")
	RuntimeStart  = step("runtime start")
	TaskRunning   = step("task recorded as running")
	ExecGroup     = step("exec's cgroup made")
	RuntimeExec   = step("runtime exec")
	ExecWatch     = step("exec watched")
	RuntimeUpdate = step("runtime update")
	UpdateRecord  = step("updated limits recorded")
	RuntimePause  = step("runtime pause")
	PauseRecord   = step("pause recorded")
	LogReopen     = step("log reopened")

	// Its end.
	StopIntent = step("stop recorded")
	StopSignal = step("stop signal sent")
	StopSent   = step("stop signal recorded")
	StopForced = step("forced stop recorded")
	StopKill   = step("SIGKILL sent")
	ExitRecord = step("exit recorded")
	ExitSync   = step("exit made to survive a power loss")
	ExitForget = step("tracer's record of the exit forgotten")
	ExitDelete = step("runtime delete after the exit")

	// Removing a container.
	RootfsUnmount       = step("root file system unmounted")
	RootfsRemove        = step("root file system removed")
	VolumeUnmount       = step("image volume unmounted")
	VolumeRemove        = step("image volume removed")
	TaskRemoving        = step("task recorded as removing")
	RuntimeDelete       = step("runtime delete")
	StreamsRemove       = step("streams removed")
	BundleRemove        = step("bundle removed")
	TaskForget          = step("tracer's record forgotten")
	ContainerRecordGone = step("container record removed")

	// Stopping and removing a pod.
	PodStopping    = step("pod recorded as stopping")
	PodDetach      = step("pod detached from its networks")
	PodDetached    = step("pod detachment recorded")
	PodUnpin       = step("pod namespaces unpinned")
	PodUnpinned    = step("pod namespaces recorded as gone")
	PodStopped     = step("pod recorded as not ready")
	PodRemoving    = step("pod recorded as removing")
	PodInitGone    = step("pod init recorded as gone")
	PodFilesRemove = step("pod files removed")
	PodRecordGone  = step("pod record removed")
	RecordTrashed  = step("record renamed to be deleted")

	// Images.
	ImageLease    = step("lease of a pull made")
	ImageBlob     = step("blob committed")
	ImageUnpack   = step("layer unpacked")
	ImageRecord   = step("image recorded")
	ImageLeaseEnd = step("lease of a pull ended")
	ImageSynced   = step("image recorded as on disk")
	ImageRemove   = step("image removed")
)
