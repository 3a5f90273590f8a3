/*
 * launch runs lib/nft beside itself by the dynamic linker that is there too, so that
 * neither the host's C library nor its linker matters: a program can name its linker only
 * by an absolute path, and the payload's depends on the data directory.
 *
 * It has no C library itself, for the same reason and to be small. nft finds its libraries
 * by its own DT_RPATH.
 */
#include "../freestanding.h"

#if defined(__x86_64__)
enum { SYS_write = 1, SYS_execve = 59, SYS_exit_group = 231, SYS_readlinkat = 267 };
#elif defined(__aarch64__)
enum { SYS_write = 64, SYS_execve = 221, SYS_exit_group = 94, SYS_readlinkat = 78 };
#elif defined(__arm__)
enum { SYS_write = 4, SYS_execve = 11, SYS_exit_group = 248, SYS_readlinkat = 332 };
#endif

enum { AT_FDCWD = -100, PATH_MAX = 4096, OWN_ARGS = 3 };

static void fail(const char *why)
{
	long size = 0;

	while (why[size])
		size++;
	call(SYS_write, 2, (long)why, size, 0);
	call(SYS_exit_group, 1, 0, 0, 0);
}

/* append puts text at end, which is moved behind it. */
static char *append(char *end, const char *text)
{
	while ((*end = *text++))
		end++;
	return end;
}

/* directory puts the directory of this program into path and returns its end. */
static char *directory(char *path)
{
	long size = call(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)path, PATH_MAX);

	if (size <= 0 || size >= PATH_MAX)
		fail("nft: its own place cannot be read from /proc/self/exe: mount /proc\n");
	while (size > 0 && path[size - 1] != '/')
		size--;
	path[size] = 0;
	return path + size;
}

/*
 * forget drops the variables LD_..., by which a shell tells its own programs which
 * libraries to take.
 */
static void forget(char **env)
{
	char **kept = env;

	for (; *env; env++)
		if ((*env)[0] != 'L' || (*env)[1] != 'D' || (*env)[2] != '_')
			*kept++ = *env;
	*kept = 0;
}

/* At entry the stack has the number of arguments, they and a 0, the environment and a 0. */
__attribute__((noreturn, used)) static void run(word *stack)
{
	long argc = (long)stack[0];
	char **argv = (char **)(stack + 1), **env = argv + argc + 1;
	char linker[PATH_MAX + sizeof("lib/" LINKER)], program[PATH_MAX + sizeof("lib/nft")];
	char *args[argc + OWN_ARGS + 1];
	int n = 0;

	append(directory(linker), "lib/" LINKER);
	append(directory(program), "lib/nft");
	args[n++] = linker;
	args[n++] = "--inhibit-cache";
	args[n++] = program;
	for (long i = 1; i < argc; i++)
		args[n++] = argv[i];
	args[n] = 0;
	forget(env);
	call(SYS_execve, (long)linker, (long)args, (long)env, 0);
	fail("nft: its dynamic linker " LINKER " cannot be run: the directory lib beside it is damaged, or mounted noexec\n");
	__builtin_unreachable();
}

__asm__(".globl _start\n"
#if defined(__x86_64__)
	"_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n"
#elif defined(__aarch64__)
	"_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tmov x0, sp\n\tbl run\n"
#elif defined(__arm__)
	".type _start, %function\n_start:\n\tmov r11, #0\n\tmov lr, #0\n\tmov r0, sp\n\tbl run\n"
#endif
);
