// SPDX-License-Identifier: Apache-2.0
/*
 * Forks children by the batch and tells what wait4 says about each.
 *
 * stdin, a line each:              stdout:
 *   fork N SEED HOLD               "pid P" for each child, then "forked"
 *                                  (HOLD 1: they wait; 0: they die at once and stay zombies)
 *   go                             lets them die
 *   wait                           "exit P STATUS NS" for each child, then "waited"
 *   bench N COLD                   makes and waits for N children one by one: "bench NS", what one takes
 * NS: CLOCK_REALTIME when the child was about to die, 0 if it has not said.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX 4096

static struct { pid_t pid; } child[MAX];
static volatile int64_t *stamp; /* shared with the children */
static int n, barrier[2] = {-1, -1};

static int64_t now(clockid_t c)
{
	struct timespec ts;
	clock_gettime(c, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void *last_words(void *status)
{
	syscall(SYS_exit_group, (int)(long)status);
	return NULL;
}

/*
 * Whoever runs the tests may ignore signals, and that is inherited: SIGHUP under nohup, 32 and 33 under make (posix_spawn of
 * glibc ignores those two of its own). signal(3) refuses to touch 32 and 33, so it is the system call.
 */
static void to_default(int sig)
{
	char action[64] = {0}; /* struct sigaction of the kernel, with SIG_DFL */

	syscall(SYS_rt_sigaction, sig, action, NULL, 8);
}

static void die(int i, unsigned r)
{
	pthread_t t;
	int sig;

	stamp[i] = now(CLOCK_REALTIME);
	switch (r % 8) {
	case 0: case 1: case 2: /* a signal */
		for (sig = 1 + (r >> 8) % 64; (sig >= 17 && sig <= 23) || sig == 28; sig = sig % 64 + 1)
			;
		to_default(sig);
		syscall(SYS_kill, getpid(), sig);
		pause();
		break;
	case 3: /* from another thread */
		if (!pthread_create(&t, NULL, last_words, (void *)(long)((r >> 8) & 0xff)))
			syscall(SYS_exit, 99); /* the leader only */
		break;
	}
	_exit((r >> 8) & 0xff);
}

static void do_fork(int count, unsigned seed, int hold)
{
	srand(seed);
	if (pipe(barrier))
		exit(1);
	for (n = 0; n < count && n < MAX; n++) {
		unsigned r = rand();
		pid_t p;

		stamp[n] = 0;
		p = fork();
		if (p < 0)
			exit(1);
		if (!p) {
			char c;

			close(barrier[1]);
			if (hold && read(barrier[0], &c, 1) < 0)
				_exit(1);
			die(n, r);
		}
		child[n].pid = p;
	}
	for (int i = 0; i < n; i++) {
		siginfo_t si;

		if (!hold)
			waitid(P_PID, child[i].pid, &si, WEXITED | WNOWAIT);
		printf("pid %d\n", child[i].pid);
	}
	puts("forked");
}

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

/*
 * vfork, _exit, waitpid. On one CPU and before whatever else wants it, so that neither a wake-up across CPUs nor another
 * process is in it; the lower quartile, so that no interrupt is. Cold: everything that is in the caches is thrown out before.
 */
static void do_bench(int count, int cold)
{
	enum { JUNK = 8 << 20, LINE = 64 };
	static volatile char *junk;
	int64_t *took = calloc(count, sizeof(*took));
	struct sched_param first = {.sched_priority = 1};
	cpu_set_t one;

	if (!junk)
		memset((void *)(junk = malloc(JUNK)), 1, JUNK);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	sched_setscheduler(0, SCHED_FIFO, &first);
	for (int i = 0; i < count; i++) {
		int64_t t;
		pid_t p;

		for (int j = 0; cold && j < JUNK; j += LINE)
			(void)junk[j];
		t = now(CLOCK_MONOTONIC);
		p = vfork();
		if (!p)
			_exit(0);
		waitpid(p, NULL, 0);
		took[i] = now(CLOCK_MONOTONIC) - t;
	}
	qsort(took, count, sizeof(*took), by_size);
	printf("bench %lld\n", (long long)took[count / 4]);
	free(took);
}

int main(void)
{
	struct rlimit none = {0, 0};
	char line[128];
	int a, c;
	unsigned b;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &none);
	stamp = mmap(NULL, MAX * sizeof(*stamp), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "fork %d %u %d", &a, &b, &c) == 3) {
			fflush(stdout);
			do_fork(a, b, c);
		} else if (sscanf(line, "bench %d %d", &a, &c) == 2) {
			do_bench(a, c);
		} else if (!strncmp(line, "go", 2)) {
			close(barrier[1]);
			close(barrier[0]);
		} else if (!strncmp(line, "wait", 4)) {
			for (int i = 0; i < n; i++) {
				int status = -1;
				struct rusage ru;

				if (wait4(child[i].pid, &status, 0, &ru) != child[i].pid)
					exit(1);
				printf("exit %d %d %lld\n", child[i].pid, status, (long long)stamp[i]);
			}
			puts("waited");
		}
		fflush(stdout);
	}
	return 0;
}
