/*
 * pause holds a pod's namespaces open. There is one for every pod, so it is
 * written without a C library: no heap, no data segment, one page of code and
 * one of stack. When it is PID 1 of the pod (always, unless the pod shares the
 * host's PID namespace) the kernel hands it every orphan, and it reaps them.
 *
 * The signals are blocked and fetched rather than handled: PID 1 ignores
 * signals it has no handler for, but a blocked signal always stays pending, and
 * then no signal can arrive between a check and a sleep.
 */

#include "../freestanding.h"

/* Numbers that are the same in every architecture's kernel ABI. */
enum { SIGINT = 2, SIGTERM = 15, SIGCHLD = 17, SIG_BLOCK = 0, WNOHANG = 1, WALL = 0x40000000 };

#if defined(__x86_64__)
enum { SYS_rt_sigprocmask = 14, SYS_wait4 = 61, SYS_rt_sigtimedwait = 128, SYS_exit_group = 231 };
#elif defined(__aarch64__)
enum { SYS_rt_sigprocmask = 135, SYS_wait4 = 260, SYS_rt_sigtimedwait = 137, SYS_exit_group = 94 };
#elif defined(__arm__)
enum { SYS_rt_sigprocmask = 175, SYS_wait4 = 114, SYS_rt_sigtimedwait = 177, SYS_exit_group = 248 };
#endif

#define BIT(signal) ((word)1 << ((signal)-1))

/* The kernel's signal set has 64 bits everywhere, whatever a word is. */
enum { SET_SIZE = 8, SET_WORDS = SET_SIZE / sizeof(word) };

static void reap(void)
{
	while (call(SYS_wait4, -1, 0, WNOHANG | WALL, 0) > 0)
		;
}

__attribute__((noreturn, used)) static void run(void)
{
	word awaited[SET_WORDS];

	for (unsigned i = 1; i < SET_WORDS; i++)
		awaited[i] = 0;
	awaited[0] = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);
	call(SYS_rt_sigprocmask, SIG_BLOCK, (long)awaited, 0, SET_SIZE);
	for (;;) {
		long got = call(SYS_rt_sigtimedwait, (long)awaited, 0, 0, SET_SIZE);
		if (got == SIGTERM || got == SIGINT)
			call(SYS_exit_group, 0, 0, 0, 0);
		if (got == SIGCHLD)
			reap();
	}
}

/* At entry the stack is aligned as for a jump, not as after a call. */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall run\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tbl run\n");
#else
__asm__(".globl _start\n_start:\n\tmov r11, #0\n\tmov lr, #0\n\tbl run\n");
#endif
