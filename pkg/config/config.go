// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"time"
)

// Config is everything that can be set.
type Config struct {
	// Socket is the unix socket of the CRI and of the embedcri subcommands, made with mode 0600.
	Socket string `toml:"socket" comment:"Unix socket of the CRI (mode 0600)."`
	// Root holds what outlives a reboot: images, records, logs of nothing.
	Root string `toml:"root" comment:"Directory of what outlives a reboot: images and records."`
	// State holds what lives as long as the boot: bundles, FIFOs, namespace pins. It should be on tmpfs.
	State string `toml:"state" comment:"Directory of what lives as long as the boot; on tmpfs."`
	// BPF is the directory on bpffs where the exit tracer is pinned.
	BPF string `toml:"bpf" comment:"Directory on bpffs where the exit tracer is pinned."`

	Runtime   Runtime   `toml:"runtime"`
	Cgroup    Cgroup    `toml:"cgroup"`
	Network   Network   `toml:"network"`
	Image     Image     `toml:"image"`
	Exit      Exit      `toml:"exit"`
	Streaming Streaming `toml:"streaming"`
	Exec      Exec      `toml:"exec"`
	Pod       Pod       `toml:"pod"`
	CDI       CDI       `toml:"cdi"`
	Metrics   Metrics   `toml:"metrics"`
}

// Runtime configures the OCI runtimes.
type Runtime struct {
	Default  string             `toml:"default" comment:"Handler of pods that name none."`
	Handlers map[string]Handler `toml:"handlers" comment:"OCI runtimes by the name of their handler (RuntimeClass.handler)."`
	Timeout  Duration           `toml:"timeout" comment:"A call of a runtime that takes longer is killed."`
}

// Handler is one OCI runtime.
type Handler struct {
	Path                         string   `toml:"path" comment:"The binary; a name without a slash is looked up in PATH."`
	PodAnnotations               []string `toml:"pod_annotations" comment:"Patterns of pod annotations that reach the OCI spec; none by default."`
	ContainerAnnotations         []string `toml:"container_annotations" comment:"Patterns of container annotations that reach the OCI spec; none by default."`
	PrivilegedWithoutHostDevices bool     `toml:"privileged_without_host_devices" comment:"Privileged containers get no device nodes of the host."`
	PrivilegedAllDevicesAllowed  bool     `toml:"privileged_all_devices_allowed" comment:"With the above: they may still use any device whose node they make themselves."`
	DeviceOwnership              bool     `toml:"device_ownership" comment:"Device nodes belong to the container's run_as_user and run_as_group."`
	CgroupWritable               bool     `toml:"cgroup_writable" comment:"Unprivileged containers may write to their cgroup (cgroup v2 only)."`
	UnsetSeccomp                 string   `toml:"unset_seccomp" comment:"Profile of containers that name none: runtime/default, localhost/<path>; empty: unconfined."`
	Rlimits                      []string `toml:"rlimits" comment:"Limits of the first process, as name=soft:hard or name=both, such as nofile=1024:524288; -1 is none. Others are the daemon's."`
	PidsLimit                    int64    `toml:"pids_limit" comment:"Most tasks in one container; 0: as many as its pod may have."`
}

// Cgroup says where containers are put.
type Cgroup struct {
	Driver string `toml:"driver" comment:"cgroupfs, systemd, or auto: systemd where it is pid 1 and cgroups are v2."`
	Parent string `toml:"parent" comment:"Parent of pods that name none (a slice with the systemd driver)."`
}

// Network configures CNI.
type Network struct {
	ConfDir         string         `toml:"conf_dir" comment:"Directory of CNI configurations; watched."`
	BinDirs         []string       `toml:"bin_dirs" comment:"Directories of CNI plug-ins."`
	CacheDir        string         `toml:"cache_dir" comment:"CNI result cache; empty: below root."`
	MaxNetworks     int            `toml:"max_networks" comment:"How many configurations of conf_dir a pod joins, in order of their file names."`
	MaxParallel     int            `toml:"max_parallel" comment:"How many plug-in chains run at once."`
	Timeout         Duration       `toml:"timeout" comment:"A plug-in chain that takes longer is killed with its process group."`
	StatusGrace     Duration       `toml:"status_grace" comment:"How long the STATUS verb may fail until NetworkReady turns false."`
	PodCIDRTemplate string         `toml:"pod_cidr_template" comment:"A configuration as a text/template that UpdateRuntimeConfig renders into conf_dir; empty: none."`
	DefaultNetwork  DefaultNetwork `toml:"default_network"`
}

// DefaultNetwork is the embedded bridge network.
type DefaultNetwork struct {
	Enabled bool     `toml:"enabled" comment:"Use an embedded bridge network while conf_dir holds no configuration."`
	Bridge  string   `toml:"bridge" comment:"Name of its bridge."`
	Subnets []string `toml:"subnets" comment:"Its subnets, at most one per address family."`
}

// Image configures the image store.
type Image struct {
	CertDirs        []string `toml:"cert_dirs" comment:"Directories of registry configuration (hosts.toml), read at each pull."`
	Snapshotter     string   `toml:"snapshotter" comment:"overlayfs, native, or empty: overlayfs where the disk can."`
	MaxDownloads    int      `toml:"max_downloads" comment:"Layers that the node downloads at once."`
	ProgressTimeout Duration `toml:"progress_timeout" comment:"A pull without progress for so long goes to the next mirror, then fails."`
	Pinned          []string `toml:"pinned" comment:"Images the kubelet must not collect; * matches anything at either end."`
	VerifierDir     string   `toml:"verifier_dir" comment:"Directory of image verifier plug-ins; empty: none."`
	DiscardBlobs    bool     `toml:"discard_blobs" comment:"Drop compressed layers once they are unpacked."`
	Volatile        bool     `toml:"volatile" comment:"Never force the writable layers of containers to disk."`
	Volumes         string   `toml:"volumes" comment:"What becomes of volumes that an image declares: bind (writable even if the root is read-only), mkdir, or ignore."`
}

// Exit configures the exit tracer.
type Exit struct {
	Capacity int  `toml:"capacity" comment:"Processes (containers and execs) that can be watched at once; 0: 16384."`
	Require  bool `toml:"require" comment:"Do not start without the eBPF tracer; else exit codes of a down-time may be unknown."`
}

// Streaming configures the server of exec, attach and port-forward.
type Streaming struct {
	Address     string   `toml:"address" comment:"Host and port the streaming server listens on; port 0: any."`
	IdleTimeout Duration `toml:"idle_timeout" comment:"A stream without traffic for so long is closed."`
	TLSCert     string   `toml:"tls_cert" comment:"Certificate file; empty: no TLS."`
	TLSKey      string   `toml:"tls_key" comment:"Key file."`
}

// Exec configures ExecSync.
type Exec struct {
	DrainTimeout Duration `toml:"drain_timeout" comment:"How long output is waited for after the process of an ExecSync has ended."`
}

// Pod configures pod sandboxes.
type Pod struct {
	UnprivilegedPorts bool  `toml:"unprivileged_ports" comment:"Let pods bind ports below 1024 without a capability."`
	UnprivilegedICMP  bool  `toml:"unprivileged_icmp" comment:"Let pods ping without a capability."`
	ShmSize           int64 `toml:"shm_size" comment:"Size of /dev/shm of a pod in bytes."`
	Init              bool  `toml:"init" comment:"Run the small init in every pod, not only in those that share a pid namespace; for tools that expect a process per pod."`
}

// CDI configures devices that vendors describe (Container Device Interface).
type CDI struct {
	SpecDirs []string `toml:"spec_dirs" comment:"Directories of device descriptions, watched; of two with one name that of the later directory counts."`
}

// Metrics configures the Prometheus endpoint.
type Metrics struct {
	Address string `toml:"address" comment:"Where to serve /metrics: host:port, or unix:path; empty: nowhere."`
}

// Duration is a time.Duration that is written as in Go: 10s, 2m30s.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Default returns the configuration of a node on which embedcri is the runtime.
func Default() *Config {
	return &Config{
		Socket: "/run/embedcri/embedcri.sock",
		Root:   "/var/lib/embedcri",
		State:  "/run/embedcri",
		BPF:    "/sys/fs/bpf/embedcri",
		Runtime: Runtime{
			Default:  "runc",
			Handlers: map[string]Handler{"runc": {Path: "runc"}},
			Timeout:  Duration(2 * time.Minute),
		},
		Cgroup: Cgroup{Driver: "auto", Parent: ""},
		Network: Network{
			ConfDir:     "/etc/cni/net.d",
			BinDirs:     []string{"/opt/cni/bin", "/usr/lib/cni"},
			MaxNetworks: 1,
			MaxParallel: 16,
			Timeout:     Duration(2 * time.Minute),
			StatusGrace: Duration(30 * time.Second),
			DefaultNetwork: DefaultNetwork{
				Enabled: true,
				Bridge:  "embedcri0",
				Subnets: []string{"10.88.0.0/16", "fd00:88::/64"},
			},
		},
		Image: Image{
			CertDirs:        []string{"/etc/embedcri/certs.d", "/etc/containerd/certs.d"},
			MaxDownloads:    6,
			ProgressTimeout: Duration(5 * time.Minute),
			Volatile:        true,
			Volumes:         "bind",
		},
		Streaming: Streaming{Address: "127.0.0.1:0", IdleTimeout: Duration(4 * time.Hour)},
		Exec:      Exec{DrainTimeout: Duration(2 * time.Second)},
		CDI:       CDI{SpecDirs: []string{"/etc/cdi", "/var/run/cdi"}},
		Pod:       Pod{UnprivilegedPorts: true, UnprivilegedICMP: true, ShmSize: 64 << 20},
	}
}

// Dirs below Root and State. They are not settings: they are the layout.
func (c *Config) ImageDir() string { return filepath.Join(c.Root, "image") }

// RecordDir holds pods and containers.
func (c *Config) RecordDir() string { return filepath.Join(c.Root, "state") }

// TaskDir holds bundles.
func (c *Config) TaskDir() string { return filepath.Join(c.State, "task") }

// PodDir holds the files that a pod's containers share.
func (c *Config) PodDir() string { return filepath.Join(c.State, "pod") }

// NamespaceDir holds the pins of pod namespaces.
func (c *Config) NamespaceDir() string { return filepath.Join(c.State, "ns") }

// RuntimeRoot is the state directory of one handler's runtime.
func (c *Config) RuntimeRoot(handler string) string {
	return filepath.Join(c.State, "runtime", handler)
}

// CNICacheDir is where libcni keeps results.
func (c *Config) CNICacheDir() string {
	if c.Network.CacheDir != "" {
		return c.Network.CacheDir
	}
	return filepath.Join(c.Root, "cni")
}
