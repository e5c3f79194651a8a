// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Records how watched processes die. One job, three hooks:
 *
 *   sched_process_exit  the last thread of a process has gone: write its slot
 *   signal_generate     a signal was queued for a watched process: note who did it
 *   mark_victim         the OOM killer has chosen: note it, count it per cgroup
 *
 * Userspace reserves the slot (Watch); these programs only write into it in
 * place, so nothing here can fail for lack of room. See pkg/exitbpf/doc.go for
 * the guarantees and who proves them.
 */
#include "kernel.h"

/* GPL: the helpers that read kernel memory demand it. */
char _license[] SEC("license") = "GPL";

/*
 * Set before load, constant to the verifier (dead branches disappear). The
 * programs are loaded anew by each Open, hence no configuration map.
 */
const volatile u32 daemon_tgid;  /* the daemon, as the initial pid namespace numbers it */
const volatile u32 pidns_inum;   /* the daemon's pid namespace */
const volatile u32 pidns_level;  /* how deep that is; 0: the initial one */
const volatile u32 count_at_exit; /* 1: this kernel's mark_victim cannot be used, count OOM kills at exit */

/*
 * Names one process for ever. Not task storage: a non-leader execve hands the
 * process to another task_struct, and de_thread() copies pid and both start
 * times over, but no storage. start is in USER_HZ as /proc/<pid>/stat field 22
 * shows it, because that is where userspace learns it.
 */
struct proc {
	u32 pid;   /* tgid as the daemon's pid namespace numbers it */
	u32 pidns; /* the namespace that number belongs to */
	u64 start; /* group_leader->start_boottime, 10 ms ticks */
};

struct sender {
	u64 at;      /* CLOCK_BOOTTIME, ns; 0: none seen */
	u64 cgroup;  /* kernfs id, see cgroup_id() */
	s32 signal;
	s32 code;    /* si_code; SI_USER where the kernel gave no siginfo */
	u32 pid;     /* tgid in the daemon's pid namespace; 0: not visible there */
	u32 uid;     /* in the initial user namespace */
	u32 flags;   /* SENDER_* */
	u32 host_pid; /* tgid in the initial pid namespace */
	char comm[16]; /* of the thread group leader */
};

struct slot {
	u64 key;     /* userspace's name for it */
	u64 reserved_at; /* CLOCK_BOOTTIME, ns: when Watch began */
	u64 died_at; /* CLOCK_BOOTTIME, ns */
	u64 cgroup;  /* the process' own at death */
	u32 state;   /* ARMED, WRITING, EXITED */
	u32 flags;   /* EXIT_* */
	s32 code;    /* wait(2) encoding */
	u32 host_pid; /* tgid in the initial pid namespace */
	char comm[16];
	struct sender kill;  /* of the first SIGKILL that was delivered */
	struct sender other; /* of the last other signal whose default is death */
	u64 spare[4];
};

struct oom {
	u64 kills;
	u64 at;      /* CLOCK_BOOTTIME, ns, of the last one */
	u32 pid;     /* of the last one, in the daemon's pid namespace */
	u32 spare;
	char comm[16];
};

enum { ARMED = 1, WRITING = 2, EXITED = 3 };
enum { EXIT_OOM = 1, EXIT_GROUP = 2 };
enum { SENDER_KERNEL = 1, SENDER_NOINFO = 2 };
enum { STAT_EXITS, STAT_RECENT, STAT_RECENT_FAILED, STAT_SIGNALS, STAT_OOM, STAT_OOM_FAILED, STAT_COUNT };

struct {
	__uint(type, BPF_MAP_TYPE_HASH); /* preallocated: a reserved slot has its memory */
	__uint(max_entries, 16384);
	__type(key, struct proc);
	__type(value, struct slot);
} watched SEC(".maps");

/* Exits of processes nobody watched (yet), that may be an exec of ours: see is_ours(). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct proc);
	__type(value, struct slot);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* kernfs id of a memory cgroup */
	__type(value, struct oom);
} ooms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STAT_COUNT);
	__type(key, u32);
	__type(value, u64);
} stats SEC(".maps");

/*
 * A bit for each pid modulo 2^15, set while some slot has such a pid. A miss in a
 * hash table of this size costs a cache and a TLB miss, 300 ns for every process
 * of the machine; these 4 KB stay warm. Userspace sets a bit before it makes the
 * slot, and clears it after the last slot is gone. Belongs to the programs, is
 * not pinned.
 */
#define FILTER_BITS 32768
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FILTER_BITS / 64);
	__type(key, u32);
	__type(value, u64);
} filter SEC(".maps");

static __always_inline struct slot *find(struct proc *p)
{
	u32 bit = p->pid % FILTER_BITS, word = bit / 64;
	u64 *bits = bpf_map_lookup_elem(&filter, &word);

	if (bits && !(*bits >> (bit % 64) & 1))
		return 0;
	return bpf_map_lookup_elem(&watched, p);
}

static __always_inline void count(u32 what)
{
	u64 *n = bpf_map_lookup_elem(&stats, &what);

	if (n)
		*n += 1;
}

/*
 * The process' pid as the daemon sees it; 0 if it cannot. numbers[] is indexed
 * by a level only known at load, which needs probe_read; at level 0 that branch
 * is dead and the program loads under lockdown=confidentiality too.
 */
static __always_inline u32 pid_of(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct pid *pid;
	struct upid id;
	u32 inum = 0;

	if (!pidns_level)
		return leader->tgid;
	pid = leader->thread_pid;
	if (pid->level < pidns_level)
		return 0;
	if (bpf_probe_read_kernel(&id, sizeof(id), &pid->numbers[pidns_level]))
		return 0;
	if (bpf_probe_read_kernel(&inum, sizeof(inum), &id.ns->ns.inum))
		return 0;
	return inum == pidns_inum ? id.nr : 0;
}

static __always_inline bool identify(struct task_struct *task, struct proc *p)
{
	p->pid = pid_of(task);
	p->pidns = pidns_inum;
	p->start = task->group_leader->start_boottime / 10000000;
	return p->pid != 0;
}

/*
 * The cgroup a reader would recognise: the unified one, or on hosts where the
 * memory controller still lives in a v1 hierarchy, that one. The id is the
 * inode number of the cgroup's directory.
 */
static __always_inline u64 cgroup_id(struct task_struct *task)
{
	struct css_set *set = task->cgroups;
	struct cgroup *cg = set->dfl_cgrp;

	if (core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id)) {
		struct cgroup *mem = set->subsys[core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)]->cgroup;

		if (mem->root->hierarchy_id) /* 0 is the unified one */
			cg = mem;
	}
	return cg->kn->id;
}

/* Plain loads instead of bpf_probe_read_kernel_str: see pid_of() on lockdown. */
static __always_inline void copy_comm(char *to, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;

	((u64 *)to)[0] = *(u64 *)&leader->comm[0];
	((u64 *)to)[1] = *(u64 *)&leader->comm[8];
}

/* What wait(2) reports: kernel/exit.c, wait_task_zombie(). */
static __always_inline s32 wait_code(struct task_struct *task, u32 *flags)
{
	struct signal_struct *sig = task->signal;

	if (sig->flags & SIGNAL_GROUP_EXIT) {
		*flags |= EXIT_GROUP;
		return sig->group_exit_code;
	}
	return task->group_leader->exit_code; /* before 6.0 only: since then the flag is always set here */
}

static __always_inline void fill(struct slot *s, struct task_struct *task)
{
	u32 flags = 0;

	s->code = wait_code(task, &flags);
	if (task->signal->oom_mm) /* tsk_is_oom_victim() */
		flags |= EXIT_OOM;
	s->died_at = bpf_ktime_get_boot_ns();
	s->cgroup = cgroup_id(task);
	s->host_pid = task->tgid;
	copy_comm(s->comm, task);
	__sync_fetch_and_or(&s->flags, flags); /* on_victim() may be at it on another CPU */
}

/*
 * Could this be a process that runc started for the daemon and whose pid the
 * daemon has not been told yet? It is the child of that runc, or of the daemon
 * (a child subreaper) once runc has left. Anything below a watched process is
 * the workload's own and none of our business.
 */
static __always_inline bool is_ours(struct task_struct *task)
{
	struct task_struct *parent = task->real_parent;
	struct proc p;

	if (parent->tgid == daemon_tgid)
		return 1;
	if (parent->real_parent->tgid != daemon_tgid)
		return 0;
	return !identify(parent, &p) || !find(&p);
}

/* One more OOM kill, in the victim's memory cgroup and every one above it: as memory.events counts. */
static __always_inline void count_oom(struct task_struct *task)
{
	struct cgroup_subsys_state *css;
	struct oom fresh = {};

	if (!core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return;
	count(STAT_OOM);
	fresh.kills = 1;
	fresh.at = bpf_ktime_get_boot_ns();
	fresh.pid = pid_of(task);
	copy_comm(fresh.comm, task);

	css = task->cgroups->subsys[core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)];
	for (int i = 0; i < 16 && css; i++, css = css->parent) {
		u64 id = css->cgroup->kn->id;
		struct oom *o = bpf_map_lookup_elem(&ooms, &id);

		if (!o && !bpf_map_update_elem(&ooms, &id, &fresh, BPF_NOEXIST))
			continue;
		if (!o) /* another CPU was faster */
			o = bpf_map_lookup_elem(&ooms, &id);
		if (!o) {
			count(STAT_OOM_FAILED);
			continue;
		}
		__sync_fetch_and_add(&o->kills, 1);
		o->at = fresh.at;
		o->pid = fresh.pid;
		__builtin_memcpy(o->comm, fresh.comm, sizeof(o->comm));
	}
}

/*
 * kernel/exit.c, do_exit(): signal->live falls, then the tracepoint fires, for
 * each thread. Zero means the process is gone: a leader that leaves first, or
 * is killed by another thread's execve, does not get us there. Two threads may
 * both see zero; the first to claim the slot writes it. Whoever does has not
 * been through exit_notify() yet, so no pidfd is readable before the record is.
 */
SEC("tp_btf/sched_process_exit")
int on_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct proc p;
	struct slot *s;

	if (task->signal->live.counter)
		return 0;
	if (count_at_exit && task->signal->oom_mm && (task->signal->group_exit_code & 0x7f) == SIGKILL)
		count_oom(task);
	if (!identify(task, &p))
		return 0;

	s = find(&p);
	if (s) {
		if (__sync_val_compare_and_swap(&s->state, ARMED, WRITING) != ARMED)
			return 0;
		fill(s, task);
		__sync_lock_test_and_set(&s->state, EXITED); /* xchg: a full barrier in BPF */
		count(STAT_EXITS);
		return 0;
	}
	if (is_ours(task)) {
		struct slot fresh = {};

		fill(&fresh, task);
		fresh.state = EXITED;
		/* First one wins here too. */
		if (!bpf_map_update_elem(&recent, &p, &fresh, BPF_NOEXIST))
			count(STAT_RECENT);
		else if (!bpf_map_lookup_elem(&recent, &p))
			count(STAT_RECENT_FAILED);
	}
	return 0;
}

/* Signals that never end a process by default: SIGCHLD CONT STOP TSTP TTIN TTOU URG WINCH. */
#define HARMLESS ((1ull << 17) | (0x3full << 18) | (1ull << 28))

/*
 * kernel/signal.c, __send_signal_locked(): fires under the target's siglock,
 * which also keeps it from dying before we are through. An ignored signal, one
 * already pending, or one sent to a process that is dying anyway carries
 * another result and did not kill.
 */
SEC("tp_btf/signal_generate")
int on_signal(u64 *ctx)
{
	s32 sig = (s32)ctx[0];
	struct kernel_siginfo *info = (void *)ctx[1];
	struct task_struct *task = (void *)ctx[2];
	s32 result = (s32)ctx[4];
	struct task_struct *self;
	struct sender *from;
	struct proc p;
	struct slot *s;
	u64 raw;

	if (sig > 0 && sig < 64 && (HARMLESS >> sig) & 1)
		return 0;
	if (result != TRACE_SIGNAL_DELIVERED && result != TRACE_SIGNAL_LOSE_INFO)
		return 0;
	if (!identify(task, &p))
		return 0;
	s = find(&p);
	if (!s || s->state != ARMED)
		return 0;

	from = &s->other;
	if (sig == SIGKILL) {
		if (s->kill.at)
			return 0;
		from = &s->kill;
	}
	self = bpf_get_current_task_btf();
	from->signal = sig;
	from->uid = (u32)bpf_get_current_uid_gid();
	from->pid = pid_of(self);
	from->host_pid = self->tgid;
	from->cgroup = cgroup_id(self);
	copy_comm(from->comm, self);
	from->code = 0;
	from->flags = 0;
	/*
	 * info may be the number 0 or 1 instead of a pointer. The verifier takes it
	 * for a valid pointer and would drop a test for 0, hence > and !=.
	 */
	raw = (u64)info;
	asm volatile("" : "+r"(raw));
	if (raw > SEND_SIG_PRIV) {
		from->code = info->si_code;
		if (from->code > 0)
			from->flags = SENDER_KERNEL;
	} else if (raw != SEND_SIG_PRIV) {
		from->flags = SENDER_NOINFO; /* in the kernel, on behalf of current: cgroup.kill, pdeath_signal, SIGPIPE */
	} else {
		from->flags = SENDER_KERNEL;
	}
	from->at = bpf_ktime_get_boot_ns();
	count(STAT_SIGNALS);
	return 0;
}

/*
 * mm/oom_kill.c, __oom_kill_process(): SIGKILL first, then mark_oom_victim()
 * sets oom_mm, all under task_lock. Since 6.16 the exit tracepoint comes before
 * exit_mm(), so a victim running elsewhere may pass it in between, unmarked; it
 * cannot pass exit_mm() (task_lock again), hence this still is before any
 * pidfd wakes. Not everyone marked was killed for it: task_will_free_mem() also
 * marks what is dying already, so ask for the SIGKILL.
 */
SEC("tp_btf/mark_victim")
int on_victim(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct signal_struct *sig = task->signal;
	struct proc p;
	struct slot *s;

	if (!(sig->flags & SIGNAL_GROUP_EXIT) || (sig->group_exit_code & 0x7f) != SIGKILL)
		return 0;
	count_oom(task);
	if (!identify(task, &p))
		return 0;
	s = find(&p);
	if (!s)
		s = bpf_map_lookup_elem(&recent, &p);
	if (s)
		__sync_fetch_and_or(&s->flags, EXIT_OOM);
	return 0;
}

/*
 * Run once by Open through BPF_PROG_TEST_RUN, in the daemon's own context, if
 * its pid namespace is not the initial one: nothing else tells it how deep that
 * is. Pids end at 2^22 (PID_MAX_LIMIT), levels at 32 (MAX_PID_NS_LEVEL).
 */
SEC("raw_tp/sched_process_exit")
int whoami(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return (task->thread_pid->level << 24) | task->tgid;
}
