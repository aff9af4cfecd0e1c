/*
 * The floor: what the kernel charges for the work of one cycle when a C program asks for it.
 *
 *   floor FILES NAMESPACES
 *
 * FILES lists paths, one a line; NAMESPACES lists network namespaces (/proc/PID/ns/net), one a line. For every line
 * on standard input it makes one pass and answers with one line `CPU_NS WALL_NS DONE FAILED`:
 *
 *   files   opens, reads to the end and closes every file, by its absolute path
 *   kept    reads every file once by pread from a descriptor that was opened before
 *   dumps   enters every namespace, dumps its TCP sockets (inet_diag, both families in one walk), goes home
 *   held    dumps them by sockets that were made inside before
 *
 * CPU_NS is CLOCK_PROCESS_CPUTIME_ID, user and system.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* TCP states but TIME_WAIT (6), as the agent asks for them. */
#define STATES (0xffe & ~(1 << 6))

struct list {
	char **lines;
	int *descriptors;
	size_t count;
};

static char buffer[65536];

static struct list read_list(const char *path)
{
	struct list list = {0};
	char *line = NULL;
	size_t size = 0;
	ssize_t length;
	FILE *file = fopen(path, "r");

	if (!file) {
		fprintf(stderr, "cannot open %s: %s\n", path, strerror(errno));
		exit(1);
	}
	while ((length = getline(&line, &size, file)) > 0) {
		line[strcspn(line, "\n")] = 0;
		list.lines = realloc(list.lines, (list.count + 1) * sizeof *list.lines);
		list.lines[list.count++] = strdup(line);
	}
	free(line);
	fclose(file);
	return list;
}

static long long now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int pass_files(struct list *files)
{
	int done = 0;

	for (size_t i = 0; i < files->count; i++) {
		int fd = open(files->lines[i], O_RDONLY | O_CLOEXEC);
		ssize_t got;

		if (fd < 0)
			continue;
		while ((got = read(fd, buffer, sizeof buffer)) > 0)
			;
		close(fd);
		done += got == 0;
	}
	return done;
}

static void keep_files(struct list *files)
{
	if (files->descriptors)
		return;
	files->descriptors = calloc(files->count, sizeof *files->descriptors);
	for (size_t i = 0; i < files->count; i++)
		files->descriptors[i] = open(files->lines[i], O_RDONLY | O_CLOEXEC);
}

static int pass_kept(struct list *files)
{
	int done = 0;

	for (size_t i = 0; i < files->count; i++)
		done += pread(files->descriptors[i], buffer, sizeof buffer, 0) >= 0;
	return done;
}

static int dump(int fd)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req body;
	} request = {
		.header = {
			.nlmsg_len = sizeof request,
			.nlmsg_type = TCPDIAG_GETSOCK,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
			.nlmsg_seq = 1,
		},
		.body = {.idiag_states = STATES},
	};
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	volatile int sockets = 0;

	if (sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
		return 0;
	for (;;) {
		ssize_t got = recv(fd, buffer, sizeof buffer, 0);
		struct nlmsghdr *header = (struct nlmsghdr *)buffer;

		if (got <= 0)
			return 0;
		for (; NLMSG_OK(header, got); header = NLMSG_NEXT(header, got)) {
			if (header->nlmsg_type == NLMSG_DONE)
				return 1;
			if (header->nlmsg_type == NLMSG_ERROR)
				return 0;
			sockets++;
		}
	}
}

static int enter(const char *namespace)
{
	int fd = open(namespace, O_RDONLY | O_CLOEXEC);
	int entered;

	if (fd < 0)
		return -1;
	entered = setns(fd, CLONE_NEWNET);
	close(fd);
	return entered;
}

static int pass_dumps(struct list *namespaces, int home)
{
	int done = 0;

	for (size_t i = 0; i < namespaces->count; i++) {
		int fd;

		if (enter(namespaces->lines[i]))
			continue;
		fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
		done += dump(fd);
		close(fd);
		setns(home, CLONE_NEWNET);
	}
	return done;
}

static void hold(struct list *namespaces, int home)
{
	if (namespaces->descriptors)
		return;
	namespaces->descriptors = calloc(namespaces->count, sizeof *namespaces->descriptors);
	for (size_t i = 0; i < namespaces->count; i++) {
		namespaces->descriptors[i] = -1;
		if (enter(namespaces->lines[i]))
			continue;
		namespaces->descriptors[i] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
		setns(home, CLONE_NEWNET);
	}
}

static int pass_held(struct list *namespaces)
{
	int done = 0;

	for (size_t i = 0; i < namespaces->count; i++)
		done += dump(namespaces->descriptors[i]);
	return done;
}

int main(int argc, char **argv)
{
	struct rlimit limit;
	struct list files, namespaces;
	char order[32];
	int home;

	if (argc != 3) {
		fprintf(stderr, "usage: floor FILES NAMESPACES\n");
		return 2;
	}
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	files = read_list(argv[1]);
	namespaces = read_list(argv[2]);
	home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	while (fgets(order, sizeof order, stdin)) {
		long long cpu, wall;
		int done, all;

		order[strcspn(order, "\n")] = 0;
		if (!strcmp(order, "kept"))
			keep_files(&files);
		if (!strcmp(order, "held"))
			hold(&namespaces, home);
		cpu = now(CLOCK_PROCESS_CPUTIME_ID);
		wall = now(CLOCK_MONOTONIC);
		if (!strcmp(order, "files"))
			done = pass_files(&files), all = files.count;
		else if (!strcmp(order, "kept"))
			done = pass_kept(&files), all = files.count;
		else if (!strcmp(order, "dumps"))
			done = pass_dumps(&namespaces, home), all = namespaces.count;
		else if (!strcmp(order, "held"))
			done = pass_held(&namespaces), all = namespaces.count;
		else
			return 2;
		cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		wall = now(CLOCK_MONOTONIC) - wall;
		printf("%lld %lld %d %d\n", cpu, wall, done, all - done);
		fflush(stdout);
	}
	return 0;
}
