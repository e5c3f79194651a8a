// SPDX-License-Identifier: Apache-2.0
/*
 * Ways to die, one function each. Every one begins by reading a character from
 * stdin: the test has watched it by then. See cases_test.go.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void line(void)
{
	char c = 0;
	while (read(0, &c, 1) == 1 && c != '\n')
		;
}

static void *exits_later(void *status)
{
	line();
	exit((int)(long)status);
}

/* The first thread leaves, the process lives on until another exits with 23. */
static void leader_first(void)
{
	pthread_t t;
	pthread_create(&t, NULL, exits_later, (void *)23);
	pthread_exit(NULL);
}

static void *returns_later(void *unused)
{
	line();
	return unused;
}

/* The first thread leaves, the last one just ends: 0. */
static void last_thread(void)
{
	pthread_t t;
	pthread_create(&t, NULL, returns_later, NULL);
	pthread_exit(NULL);
}

static void *execs(void *unused)
{
	execl("/bin/sh", "execd", "-c", "read x; exit 31", NULL);
	return unused;
}

/* A thread that is not the first calls execve: same process, another task_struct. */
static void thread_exec(void)
{
	pthread_t t;
	pthread_create(&t, NULL, execs, NULL);
	pause();
}

/* A vfork child dies first and must not be taken for its parent. */
static void vforks(void)
{
	pid_t p = vfork();
	if (!p)
		execl("/bin/false", "false", NULL);
	waitpid(p, NULL, 0);
	_exit(5);
}

static pthread_barrier_t together;

static void *group_exit(void *i)
{
	pthread_barrier_wait(&together);
	syscall(SYS_exit_group, (int)(long)i);
	return NULL;
}

/* A hundred threads call exit_group at once, each with another code. */
static void hundred(void)
{
	pthread_barrier_init(&together, NULL, 100);
	for (long i = 1; i <= 100; i++) {
		pthread_t t;
		pthread_create(&t, NULL, group_exit, (void *)i);
	}
	pause();
}

/* Dumps core, if the system lets it. */
static void core(void)
{
	struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	setrlimit(RLIMIT_CORE, &all);
	abort();
}

static void segv(void)
{
	volatile int *volatile p = NULL;
	*p = 1;
}

static void sigpipe(void)
{
	int fd[2];
	if (pipe(fd))
		_exit(1);
	close(fd[0]);
	if (write(fd[1], "x", 1))
		_exit(2);
}

static void alarms(void)
{
	alarm(1);
	pause();
	_exit(1);
}

static void handler(int sig) { (void)sig; }

/* Survives one SIGTERM, then waits for one it does not survive. The first is blocked until it is waited for: it may come at once. */
static void second_term(void)
{
	sigset_t term, before;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, &before);
	signal(SIGTERM, handler);
	printf("ready\n");
	fflush(stdout);
	sigsuspend(&before);
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	printf("ready\n");
	fflush(stdout);
	pause();
}

/* Leaves its session and its parents; prints its pid. */
static void daemonizes(void)
{
	if (fork())
		_exit(0);
	setsid();
	if (fork())
		_exit(0);
	printf("%d\n", getpid());
	fflush(stdout);
	line();
	_exit(17);
}

static void eat(void)
{
	for (;;) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			_exit(1);
		memset(p, 1, 1 << 20);
	}
}

static void eats(void) { eat(); }

/* A child is killed for memory; the process itself ends well. */
static void child_eats(void)
{
	int status;
	pid_t p = fork();
	if (!p)
		eat();
	waitpid(p, &status, 0);
	_exit(WIFSIGNALED(status) ? 6 : 1);
}

static void waits(void) { pause(); }

/* Kills its own child the watched way: the target's pid is the argument. */
static void tracer(pid_t pid)
{
	int status;
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT))
		_exit(1);
	printf("seized\n");
	fflush(stdout);
	waitpid(pid, &status, __WALL); /* the stop at its exit */
	ptrace(PTRACE_CONT, pid, 0, 0);
	printf("released\n");
	fflush(stdout);
	line(); /* the corpse is ours until we look at it */
	line();
	waitpid(pid, &status, __WALL);
	_exit(0);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"leader_first", leader_first}, {"last_thread", last_thread}, {"thread_exec", thread_exec},
	{"vforks", vforks}, {"hundred", hundred}, {"core", core}, {"segv", segv}, {"sigpipe", sigpipe},
	{"alarms", alarms}, {"second_term", second_term}, {"daemonizes", daemonizes}, {"eats", eats},
	{"child_eats", child_eats}, {"waits", waits},
};

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "tracer"))
		tracer(atoi(argv[2]));
	for (unsigned i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (strcmp(argv[1], cases[i].name))
			continue;
		if (cases[i].run != daemonizes)
			line();
		cases[i].run();
		_exit(0);
	}
	return 2;
}
