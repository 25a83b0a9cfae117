/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "rss.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "real.h"
#include "settings.h"

/* ---- the hash ---------------------------------------------------------- */

/* A packet's input: source and destination address, source and destination port. */
enum { INPUT_FOUR = 12, INPUT_SIX = 36 };

/* The 32 bits of the key from a bit on: what one bit of the input adds to the hash. */
static uint32_t window(const uint8_t *key, size_t bit)
{
	uint64_t bits = 0;

	for (size_t i = 0; i < 5; i++)
		bits = bits << 8 | (bit / 8 + i < RSS_KEY_BYTES ? key[bit / 8 + i] : 0);
	return (uint32_t)(bits >> (8 - bit % 8));
}

uint32_t rss_hash(const uint8_t key[RSS_KEY_BYTES], const uint8_t *input, size_t length)
{
	uint32_t hash = 0;

	for (size_t bit = 0; bit < length * 8; bit++)
		if (input[bit / 8] >> (7 - bit % 8) & 1)
			hash ^= window(key, bit);
	return hash;
}

int rss_address(const struct sockaddr *address, struct in6_addr *result, in_port_t *port)
{
	const struct sockaddr_in6 *six = (const void *)address;
	const struct sockaddr_in *four = (const void *)address;

	if (address->sa_family == AF_INET6) {
		*result = six->sin6_addr;
		*port = six->sin6_port;
		return 1;
	}
	if (address->sa_family != AF_INET)
		return 0;
	memset(result, 0, sizeof(*result));
	result->s6_addr[10] = result->s6_addr[11] = 0xff;
	memcpy(&result->s6_addr[12], &four->sin_addr, 4);
	*port = four->sin_port;
	return 1;
}

uint32_t rss_base(const struct rss_nic *nic, const struct rss_flow *flow)
{
	size_t size = IN6_IS_ADDR_V4MAPPED(&flow->remote) ? 4 : 16, skip = 16 - size;
	uint8_t input[INPUT_SIX] = { 0 };

	memcpy(input, &flow->remote.s6_addr[skip], size);
	memcpy(input + size, &flow->local.s6_addr[skip], size);
	memcpy(input + 2 * size, &flow->remote_port, 2);
	return rss_hash(nic->key, input, 2 * size + 4);
}

uint32_t rss_port_term(const struct rss_nic *nic, int six, uint16_t port)
{
	return nic->high[six][port >> 8] ^ nic->low[six][port & 0xff];
}

/* Each byte's term is that of its lowest bit and that of the byte without it. */
static void port_terms(struct rss_nic *nic)
{
	for (int six = 0; six < 2; six++) {
		size_t end = 8 * (six ? INPUT_SIX : INPUT_FOUR);

		for (int byte = 1; byte < 256; byte++) {
			size_t low = (size_t)__builtin_ctz((unsigned int)byte);

			nic->low[six][byte] = nic->low[six][byte & (byte - 1)] ^ window(nic->key, end - 1 - low);
			nic->high[six][byte] = nic->high[six][byte & (byte - 1)] ^ window(nic->key, end - 9 - low);
		}
	}
}

int rss_port(const struct rss_nic *nic, int six, uint32_t base, unsigned int cpu, unsigned int first,
	     unsigned int count, unsigned int offset)
{
	unsigned int port = first + (count ? offset % count : 0);

	for (unsigned int i = 0; i < count; i++) {
		if (rss_cpu(nic, base ^ rss_port_term(nic, six, (uint16_t)port)) == cpu)
			return (int)port;
		if (++port == first + count)
			port = first;
	}
	return -1;
}

static int serves(const struct rss_nic *nic, int cpu)
{
	for (uint32_t i = 0; i < nic->entries; i++)
		if (nic->cpu[i] == cpu)
			return 1;
	return 0;
}

const struct rss_nic *rss_find(const struct rss_nic *nics, int count, const struct in6_addr *local, int cpu)
{
	for (const struct rss_nic *nic = nics; nic < nics + count; nic++) {
		int found = !nic->addresses;

		for (int i = 0; i < nic->addresses && !found; i++)
			found = IN6_ARE_ADDR_EQUAL(&nic->address[i], local);
		if (found)
			return (IN6_IS_ADDR_V4MAPPED(local) ? nic->four : nic->six) && serves(nic, cpu) ? nic : NULL;
	}
	return NULL;
}

/* ---- the file ---------------------------------------------------------- */

/* A word of a line that is being read: [at, at + length). */
struct word {
	const char *at;
	size_t length;
};

/* The next word before end, or an empty one. */
static struct word next_word(const char **from, const char *end)
{
	struct word w;

	while (*from < end && (**from == ' ' || **from == '\t'))
		++*from;
	w.at = *from;
	while (*from < end && **from != ' ' && **from != '\t')
		++*from;
	w.length = (size_t)(*from - w.at);
	return w;
}

static int is(struct word w, const char *text)
{
	return w.length == strlen(text) && !memcmp(w.at, text, w.length);
}

static int read_name(struct rss_nic *nic, struct word w)
{
	if (!w.length || w.length >= sizeof(nic->name) || memchr(w.at, '\0', w.length))
		return 0;
	memcpy(nic->name, w.at, w.length);
	return 1;
}

static int read_families(struct rss_nic *nic, struct word w)
{
	nic->four = is(w, "4") || is(w, "46");
	nic->six = is(w, "6") || is(w, "46");
	return nic->four || nic->six;
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_key(struct rss_nic *nic, struct word w)
{
	if (w.length % 2 || w.length < 2 * RSS_KEY_BYTES)
		return 0;
	for (size_t i = 0; i < w.length; i++) {
		int value = digit(w.at[i]);

		if (value < 0)
			return 0;
		if (i < 2 * RSS_KEY_BYTES)
			nic->key[i / 2] = (uint8_t)(nic->key[i / 2] << 4 | value);
	}
	return 1;
}

static int read_cpus(struct rss_nic *nic, struct word w)
{
	const char *at = w.at, *end = w.at + w.length;

	while (nic->entries < RSS_TABLE) {
		unsigned int cpu = RSS_NO_CPU, digits = 0;

		if (at < end && *at == '-')
			at++, digits++;
		else
			for (cpu = 0; at < end && *at >= '0' && *at <= '9' && digits < 5; at++, digits++)
				cpu = cpu * 10 + (unsigned int)(*at - '0');
		if (!digits || cpu > RSS_NO_CPU)
			return 0;
		nic->cpu[nic->entries++] = (uint16_t)cpu;
		if (at == end)
			return !(nic->entries & (nic->entries - 1));
		if (*at++ != ',')
			return 0;
	}
	return 0;
}

static int read_address(struct rss_nic *nic, struct word w)
{
	struct in6_addr *to = &nic->address[nic->addresses];
	char text[INET6_ADDRSTRLEN] = "::ffff:", *at = text;

	if (nic->addresses == RSS_ADDRESSES)
		return 0;
	if (!memchr(w.at, ':', w.length))
		at += strlen(text);
	if (w.length >= sizeof(text) - (size_t)(at - text))
		return 0;
	memcpy(at, w.at, w.length);
	at[w.length] = 0;
	nic->addresses++;
	return inet_pton(AF_INET6, text, to) == 1;
}

static int (*const readers[])(struct rss_nic *, struct word) = { read_name, read_families, read_key, read_cpus };

/* 1: a NIC, 0: nothing in it, -1: wrong. */
static int read_line(const char *at, const char *end, struct rss_nic *nic)
{
	size_t field = 0, fields = sizeof(readers) / sizeof(*readers);

	memset(nic, 0, sizeof(*nic));
	for (struct word w = next_word(&at, end); w.length; w = next_word(&at, end), field++)
		if (!(field < fields ? readers[field] : read_address)(nic, w))
			return -1;
	if (field && field < fields)
		return -1;
	port_terms(nic);
	return field > 0;
}

int rss_parse(const char *text, size_t length, struct rss_nic *nics, int most)
{
	const char *end = text + length;
	int count = 0;

	for (int line = 1; text < end && count < most; line++) {
		const char *next = memchr(text, '\n', (size_t)(end - text)), *stop = next ? next : end;
		const char *comment = memchr(text, '#', (size_t)(stop - text));
		int good = read_line(text, comment ? comment : stop, &nics[count]);

		if (good < 0)
			say(1, "%s/rss: line %d is wrong and left out, see rss.h", settings.dir, line);
		count += good > 0;
		text = stop + 1;
	}
	return count;
}

/* What one reading gave. Made anew for each: who still looks at the former one may do so for ever. */
struct reading {
	int count;
	struct rss_nic nics[];
};

static struct reading *_Atomic current;
/* Of the file that was read; all 0: none. Touched by one thread at a time (see ports.c). */
static struct stat seen;

/* Returns NULL when there is nothing (any more) to go by. */
static struct reading *read_file(const char *path)
{
	size_t room = sizeof(struct reading) + RSS_NICS * sizeof(struct rss_nic);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct reading *fresh;
	char *text;
	ssize_t length;

	if (fd < 0)
		return NULL;
	/* Pages, not malloc(): ours are never given back, and nobody's allocator is held up. */
	text = mmap(NULL, RSS_FILE + room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (text == MAP_FAILED) {
		real.close(fd);
		return NULL;
	}
	length = read(fd, text, RSS_FILE);
	real.close(fd);
	fresh = (struct reading *)(void *)(text + RSS_FILE);
	if (length > 0 && length < RSS_FILE)
		fresh->count = rss_parse(text, (size_t)length, fresh->nics, RSS_NICS);
	munmap(text, RSS_FILE);
	return fresh;
}

void rss_look(void)
{
	char path[120];
	struct stat now;

	snprintf(path, sizeof(path), "%s/rss", settings.dir);
	if (stat(path, &now)) {
		/* After a chroot it only seems to be gone; what was read holds. */
		if (errno != ENOENT || access(settings.dir, F_OK))
			return;
		memset(&now, 0, sizeof(now));
	}
	if (now.st_ino == seen.st_ino && now.st_dev == seen.st_dev && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
	    now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && now.st_size == seen.st_size)
		return;
	seen = now;
	atomic_store_explicit(&current, now.st_ino ? read_file(path) : NULL, memory_order_release);
}

const struct rss_nic *rss_now(int *count)
{
	const struct reading *r = atomic_load_explicit(&current, memory_order_acquire);

	*count = r ? r->count : 0;
	return r ? r->nics : NULL;
}
