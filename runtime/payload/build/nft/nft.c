/*
 * SPDX-License-Identifier: MIT
 * Copyright the brink authors
 *
 * nft is a command line for libnftables, with what kube-proxy, brink and a person who
 * looks at rules need of the program of that name. brink carries it for machines without
 * one. It is a program of its own, linked with Debian's libraries at run time: libnftables
 * is under the GPL 2, brink under the Apache licence.
 *
 * Nothing but its own files decides what it does:
 *   - Protocols are known without /etc/protocols. Where that file is missing nft prints
 *     numbers, and kube-proxy, which looks for names, deletes what it has just added.
 *   - Standard input is read without /dev/stdin, which libnftables would open.
 *   - The host's iptables extensions are not loaded: they are of another C library.
 */
#include <getopt.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nftables/libnftables.h>

static const struct protoent protocols[] = {
	{ .p_name = "ip", .p_proto = 0 },	 { .p_name = "icmp", .p_proto = 1 },
	{ .p_name = "igmp", .p_proto = 2 },	 { .p_name = "ipencap", .p_proto = 4 },
	{ .p_name = "tcp", .p_proto = 6 },	 { .p_name = "udp", .p_proto = 17 },
	{ .p_name = "dccp", .p_proto = 33 },	 { .p_name = "ipv6", .p_proto = 41 },
	{ .p_name = "gre", .p_proto = 47 },	 { .p_name = "esp", .p_proto = 50 },
	{ .p_name = "ah", .p_proto = 51 },	 { .p_name = "ipv6-icmp", .p_proto = 58 },
	{ .p_name = "ospf", .p_proto = 89 },	 { .p_name = "pim", .p_proto = 103 },
	{ .p_name = "ipcomp", .p_proto = 108 },	 { .p_name = "vrrp", .p_proto = 112 },
	{ .p_name = "sctp", .p_proto = 132 },	 { .p_name = "udplite", .p_proto = 136 },
};

enum { PROTOCOLS = sizeof(protocols) / sizeof(protocols[0]) };

/* The libraries find this function and the next before those of the C library. */
struct protoent *getprotobynumber(int number)
{
	for (int i = 0; i < PROTOCOLS; i++)
		if (protocols[i].p_proto == number)
			return (struct protoent *)&protocols[i];
	return NULL;
}

struct protoent *getprotobyname(const char *name)
{
	for (int i = 0; i < PROTOCOLS; i++)
		if (strcmp(protocols[i].p_name, name) == 0)
			return (struct protoent *)&protocols[i];
	return NULL;
}

static const char usage[] =
	"Usage: nft [OPTION]... COMMAND...\n"
	"       nft [OPTION]... -f FILE\n"
	"  -c, --check      only check the commands\n"
	"  -f, --file FILE  read commands from FILE, - for standard input\n"
	"  -j, --json       print JSON\n"
	"  -a, --handle     print handles\n"
	"  -n, --numeric    print numbers instead of names\n"
	"  -s, --stateless  leave out counters and the like\n"
	"  -t, --terse      leave out what is in sets\n"
	"  -e, --echo       print what was added\n"
	"  -v, --version    print the version of libnftables\n"
	"  -h, --help       print this\n"
	"This is brink's own nft, with fewer options than that of the package nftables.\n";

static const struct option options[] = {
	{ "check", no_argument, NULL, 'c' },	 { "file", required_argument, NULL, 'f' },
	{ "json", no_argument, NULL, 'j' },	 { "handle", no_argument, NULL, 'a' },
	{ "numeric", no_argument, NULL, 'n' },	 { "stateless", no_argument, NULL, 's' },
	{ "terse", no_argument, NULL, 't' },	 { "echo", no_argument, NULL, 'e' },
	{ "version", no_argument, NULL, 'v' },	 { "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct request {
	unsigned int output;
	bool check;
	const char *file;
};

/* parse returns the place of the command in argv. */
static int parse(int argc, char **argv, struct request *r)
{
	int option;

	while ((option = getopt_long(argc, argv, "+cf:janstevh", options, NULL)) != -1) {
		switch (option) {
		case 'c': r->check = true; break;
		case 'f': r->file = optarg; break;
		case 'j': r->output |= NFT_CTX_OUTPUT_JSON; break;
		case 'a': r->output |= NFT_CTX_OUTPUT_HANDLE; break;
		case 'n': r->output |= NFT_CTX_OUTPUT_NUMERIC_ALL; break;
		case 's': r->output |= NFT_CTX_OUTPUT_STATELESS; break;
		case 't': r->output |= NFT_CTX_OUTPUT_TERSE; break;
		case 'e': r->output |= NFT_CTX_OUTPUT_ECHO; break;
		case 'v':
			puts("nftables v" NFT_VERSION " (brink)");
			exit(EXIT_SUCCESS);
		case 'h':
			fputs(usage, stdout);
			exit(EXIT_SUCCESS);
		default:
			exit(EXIT_FAILURE);
		}
	}
	return optind;
}

/* joined is the command of several arguments as one text. */
static char *joined(char **words)
{
	size_t size = 1;
	char *text;

	for (char **w = words; *w; w++)
		size += strlen(*w) + 1;
	text = calloc(1, size);
	if (!text)
		return NULL;
	for (char **w = words; *w; w++) {
		strcat(text, *w);
		if (w[1])
			strcat(text, " ");
	}
	return text;
}

/* standard_input is all of it as one text. */
static char *standard_input(void)
{
	size_t size = 1 << 16, used = 0, got;
	char *text = malloc(size);

	while (text && (got = fread(text + used, 1, size - used - 1, stdin)) > 0) {
		char *larger = text;

		used += got;
		if (size - used < 2)
			larger = realloc(text, size *= 2);
		if (!larger)
			free(text);
		text = larger;
	}
	if (text)
		text[used] = 0;
	return text;
}

/* run_text runs a text that was allocated, or not. */
static int run_text(struct nft_ctx *nft, char *text)
{
	int failed;

	if (!text) {
		fputs("nft: out of memory\n", stderr);
		return -1;
	}
	failed = nft_run_cmd_from_buffer(nft, text);
	free(text);
	return failed;
}

int main(int argc, char **argv)
{
	struct request r = { 0 };
	int first = parse(argc, argv, &r), failed;
	struct nft_ctx *nft;

	if (!r.file == (first == argc)) {
		fputs(usage, stderr);
		return EXIT_FAILURE;
	}
	setenv("XTABLES_LIBDIR", "/nonexistent", 1);
	nft = nft_ctx_new(NFT_CTX_DEFAULT);
	if (!nft) {
		fputs("nft: out of memory\n", stderr);
		return EXIT_FAILURE;
	}
	nft_ctx_output_set_flags(nft, r.output);
	nft_ctx_set_dry_run(nft, r.check);
	if (!r.file)
		failed = run_text(nft, joined(argv + first));
	else if (strcmp(r.file, "-") == 0)
		failed = run_text(nft, standard_input());
	else
		failed = nft_run_cmd_from_filename(nft, r.file);
	nft_ctx_free(nft);
	return failed || fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
