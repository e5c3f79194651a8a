/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The few kernel types exit.bpf.c reads, cut down to the fields it reads.
 *
 * Not a whole vmlinux.h: with preserve_access_index each access is a CO-RE
 * relocation, resolved by field name against the running kernel's BTF when the
 * program is loaded. Order, offsets and missing fields here mean nothing; only
 * names and types do. Likewise the helpers: only the ones in use, by the
 * numbers the kernel fixed in include/uapi/linux/bpf.h, so that building needs
 * clang and nothing else.
 */
#ifndef EMBEDCRI_BPF_KERNEL_H
#define EMBEDCRI_BPF_KERNEL_H

typedef unsigned char u8;
typedef int s32;
typedef unsigned int u32;
typedef long long s64;
typedef unsigned long long u64;
typedef u8 bool;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
};
enum { BPF_NOEXIST = 1 };

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*bpf_get_current_uid_gid)(void) = (void *)15;
static long (*bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
static u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;

/* CO-RE questions about an enum, asked of the running kernel (clang builtins). */
#define core_enum_value_exists(type, value) __builtin_preserve_enum_value(*(typeof(type) *)value, 0)
#define core_enum_value(type, value) __builtin_preserve_enum_value(*(typeof(type) *)value, 1)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct kernfs_node {
	u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};

struct ns_common {
	u32 inum;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	u32 level;
	struct upid numbers[1];
};

struct mm_struct;

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	u32 flags;
	struct mm_struct *oom_mm;
};

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	u64 start_boottime;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct signal_struct *signal;
	struct pid *thread_pid;
	struct css_set *cgroups;
	char comm[16];
};

struct kernel_siginfo {
	int si_code;
};

#pragma clang attribute pop

static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;

/* The values differ from kernel to kernel and are relocated. */
enum cgroup_subsys_id { memory_cgrp_id = 4 };

#define SIGNAL_GROUP_EXIT 0x00000004 /* include/linux/sched/signal.h */
#define TRACE_SIGNAL_DELIVERED 0     /* include/trace/events/signal.h */
#define TRACE_SIGNAL_LOSE_INFO 4     /* delivered, without its siginfo */
#define SEND_SIG_PRIV 1              /* include/linux/sched/signal.h; SEND_SIG_NOINFO is 0 */
#define SIGKILL 9

#endif
