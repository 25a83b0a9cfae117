/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rss.h"
#include "settings.h"
#include "tap.h"

/* The key of the published verification suite ("Verifying the RSS Hash Calculation", Windows driver documentation). */
#define KEY "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"

/* Its packets: receiver, sender, hash of the addresses, hash of addresses and ports. */
static const struct {
	const char *to;
	uint16_t to_port;
	const char *from;
	uint16_t from_port;
	uint32_t addresses, ports;
} published[] = {
	{ "161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e8fc2, 0x51ccc178 },
	{ "65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718262a, 0xc626b0ea },
	{ "12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0a5de, 0x5c2b394a },
	{ "209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xafc7327f },
	{ "202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d1809c5, 0x10e828a2 },
	{ "3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc18cd5, 0x40207d3d },
	{ "ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c461c, 0xdde51bbf },
	{ "fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, 0x4b61e985, 0x02d1feef },
};

static struct rss_nic nics[RSS_NICS];
static uint32_t state = 7;

static uint32_t any(void)
{
	state = state * 1664525u + 1013904223u;
	return state >> 8 ^ state << 13;
}

static int parse(const char *text)
{
	return rss_parse(text, strlen(text), nics, RSS_NICS);
}

static struct in6_addr address(const char *text)
{
	struct in6_addr a;
	char mapped[INET6_ADDRSTRLEN + 8];

	snprintf(mapped, sizeof(mapped), "%s%s", strchr(text, ':') ? "" : "::ffff:", text);
	if (inet_pton(AF_INET6, mapped, &a) != 1)
		abort();
	return a;
}

static void vectors(void)
{
	parse("nic 46 " KEY " 0,1,2,3");
	for (size_t i = 0; i < sizeof(published) / sizeof(*published); i++) {
		struct rss_flow flow = { address(published[i].from), address(published[i].to), htons(published[i].from_port) };
		int six = strchr(published[i].to, ':') != NULL;
		size_t size = six ? 16 : 4;
		uint16_t ports[2] = { flow.remote_port, htons(published[i].to_port) };
		uint8_t input[36];
		uint32_t sum;

		memcpy(input, &flow.remote.s6_addr[16 - size], size);
		memcpy(input + size, &flow.local.s6_addr[16 - size], size);
		memcpy(input + 2 * size, ports, 4);
		CHECK(rss_hash(nics->key, input, 2 * size) == published[i].addresses, "to %s: hash of the addresses is %08x",
		      published[i].to, published[i].addresses);
		CHECK(rss_hash(nics->key, input, 2 * size + 4) == published[i].ports, "to %s: with ports it is %08x",
		      published[i].to, published[i].ports);
		sum = rss_base(nics, &flow) ^ rss_port_term(nics, six, published[i].to_port);
		CHECK(sum == published[i].ports, "to %s: so it is by XOR of base and port, %08x", published[i].to, sum);
	}
}

static void random_nic(void)
{
	char line[1024], *at = line;
	unsigned int entries = 1u << any() % 8, cpus = 1 + any() % 6;

	at += sprintf(at, "nic 46 ");
	for (int i = 0; i < RSS_KEY_BYTES; i++)
		at += sprintf(at, "%02x", (unsigned int)any() & 0xff);
	for (unsigned int i = 0; i < entries; i++)
		at += sprintf(at, "%c%u", i ? ',' : ' ', any() % cpus);
	if (parse(line) != 1 || nics->entries != entries)
		abort();
}

/* Keys, addresses, tables, ranges of any kind: composed by XOR and searched, against the definition. */
static void properties(void)
{
	int linear = 0, composed = 0, first = 0, none = 0, count = 3000;

	for (int turn = 0; turn < count; turn++) {
		uint8_t a[36], b[36], c[36];
		unsigned int low = 1 + any() % 60000, size = 1 + any() % 300, offset = any() % 100000, cpu = any() % 7;
		struct rss_flow flow;
		int six = turn % 2, port, wanted = -1;
		size_t length = six ? 36 : 12;

		random_nic();
		for (size_t i = 0; i < sizeof(a); i++) {
			a[i] = (uint8_t)any();
			b[i] = (uint8_t)any();
			c[i] = a[i] ^ b[i];
		}
		linear += rss_hash(nics->key, c, length) != (rss_hash(nics->key, a, length) ^ rss_hash(nics->key, b, length));

		flow = (struct rss_flow){ address("::ffff:0.0.0.0"), address("::ffff:0.0.0.0"), 0 };
		memcpy(&flow.remote.s6_addr[six ? 0 : 12], a, six ? 16 : 4);
		memcpy(&flow.local.s6_addr[six ? 0 : 12], a + (six ? 16 : 4), six ? 16 : 4);
		memcpy(&flow.remote_port, a + length - 4, 2);
		composed += (rss_base(nics, &flow) ^ rss_port_term(nics, six, (uint16_t)(a[length - 2] << 8 | a[length - 1]))) !=
			    rss_hash(nics->key, a, length);

		for (unsigned int i = 0; i < size && wanted < 0; i++) {
			unsigned int p = low + (offset + i) % size;

			a[length - 2] = (uint8_t)(p >> 8);
			a[length - 1] = (uint8_t)p;
			if (rss_cpu(nics, rss_hash(nics->key, a, length)) == cpu)
				wanted = (int)p;
		}
		port = rss_port(nics, six, rss_base(nics, &flow), cpu, low, size, offset);
		first += port != wanted;
		none += port < 0;
	}
	CHECK(!linear, "%d inputs: the hash is linear (%d wrong)", count, linear);
	CHECK(!composed, "%d packets: base and port by XOR are the hash (%d wrong)", count, composed);
	CHECK(!first, "%d searches: the port is the first from there on that comes to the CPU (%d wrong)", count, first);
	CHECK(none > 100 && none < count - 100, "some ranges have one, %d have none", none);
	CHECK(rss_port(nics, 0, 0, 0, 5, 0, 9) == -1, "a range of no ports has none");
}

static const struct {
	const char *text, *why;
	int nics;
} lines[] = {
	{ "", "nothing", 0 },
	{ "\n# a comment\n \t\n", "comments and blanks", 0 },
	{ "eth0 4 " KEY " 0", "one entry", 1 },
	{ "eth0\t46  " KEY "0011 0,-,65534,3  192.0.2.7 2001:db8::7 # mine", "a longer key, blanks, addresses, a comment", 1 },
	{ "a 4 " KEY " 0,1\nb 6 " KEY " 1,0\r", "no carriage returns", 1 },
	{ "a 4 " KEY " 0,1\nb 5 " KEY " 1,0\nc 6 " KEY " 1,0\n", "a wrong line among good ones", 2 },
	{ "interface-names-end 4 " KEY " 0", "a name too long", 0 },
	{ "eth0 44 " KEY " 0", "families", 0 },
	{ "eth0 4 6d5a 0", "a short key", 0 },
	{ "eth0 4 " KEY "0 0", "half a byte", 0 },
	{ "eth0 4 6D" KEY " 0", "capitals", 0 },
	{ "eth0 4 " KEY " 0,1,2", "three entries", 0 },
	{ "eth0 4 " KEY " 0,", "an empty entry", 0 },
	{ "eth0 4 " KEY " 0,x", "a letter", 0 },
	{ "eth0 4 " KEY " 65536,1", "a CPU too high", 0 },
	{ "eth0 4 " KEY " 000001,1", "a number too long", 0 },
	{ "eth0 4 " KEY " --,1", "two signs", 0 },
	{ "eth0 4 " KEY, "no table", 0 },
	{ "eth0", "a name only", 0 },
	{ "eth0 4 " KEY " 0 192.0.2.256", "no address", 0 },
	{ "eth0 4 " KEY " 0 2001:db8::12345", "no IPv6 address", 0 },
	{ "eth0 4 " KEY " 0 1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20.21.22", "an address too long", 0 },
	{ "eth0 4 " KEY " 0 a::1 a::2 a::3 a::4 a::5 a::6 a::7 a::8 a::9 a::a a::b a::c a::d a::e a::f a::10", "16 addresses", 1 },
	{ "eth0 4 " KEY " 0 a::1 a::2 a::3 a::4 a::5 a::6 a::7 a::8 a::9 a::a a::b a::c a::d a::e a::f a::10 a::11", "17", 0 },
	{ "1 4 " KEY " 0\n2 4 " KEY " 0\n3 4 " KEY " 0\n4 4 " KEY " 0\n5 4 " KEY " 0\n6 4 " KEY " 0\n7 4 " KEY " 0\n"
	  "8 4 " KEY " 0\n9 4 " KEY " 0\n", "nine NICs, eight are read", 8 },
};

static void files(void)
{
	static char table[7 * 2 * RSS_TABLE];
	static const char good[] = "eth0 46 " KEY " 0,1,2,3 192.0.2.7\n#\neth1 4 " KEY " 1,0";
	char *at = table;
	int wrong = 0, count = 40000;

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
		CHECK(parse(lines[i].text) == lines[i].nics, "%s: %d NICs", lines[i].why, lines[i].nics);
	for (int entries = 1; entries <= 2 * RSS_TABLE; entries *= 2) {
		at = table + sprintf(table, "eth0 4 " KEY " ");
		for (int i = 0; i < entries; i++)
			at += sprintf(at, "%d,", i % 64);
		at[-1] = 0;
		CHECK(parse(table) == (entries <= RSS_TABLE), "a table of %d entries", entries);
	}
	/* Bytes of a good file changed, left out and doubled; the sanitizers watch. */
	for (int turn = 0; turn < count; turn++) {
		char *text = malloc(2 * sizeof(good));
		size_t length = 0;
		int found;

		for (size_t i = 0; i < sizeof(good) - 1; i++) {
			unsigned int what = any() % 400;

			if (what != 0)
				text[length++] = what == 1 ? (char)any() : good[any() % 300 ? i : any() % sizeof(good)];
			if (what == 2)
				text[length++] = good[i];
		}
		text = realloc(text, length);
		found = rss_parse(text, length, nics, 2);
		wrong += found < 0 || found > 2;
		for (int i = 0; i < found; i++)
			wrong += !nics[i].entries || (nics[i].entries & (nics[i].entries - 1)) || nics[i].name[15] ||
				 nics[i].addresses > RSS_ADDRESSES || !(nics[i].four || nics[i].six);
		free(text);
	}
	CHECK(!wrong, "%d damaged files: what is read is whole (%d wrong)", count, wrong);
}

static void choice(void)
{
	struct in6_addr mine = address("192.0.2.7"), six = address("2001:db8::7"), other = address("192.0.2.8");
	int count = parse("a 4 " KEY " 0,1 192.0.2.7\nb 46 " KEY " 2,3 2001:db8::7 192.0.2.7\nc 4 " KEY " 4,-");

	CHECK(count == 3 && rss_find(nics, count, &mine, 1) == nics, "the first NIC with the address");
	CHECK(!rss_find(nics, count, &mine, 2), "not another one because it has the CPU");
	CHECK(rss_find(nics, count, &six, 2) == nics + 1, "an IPv6 address");
	CHECK(rss_find(nics, count, &other, 4) == nics + 2, "a NIC without addresses has all");
	CHECK(!rss_find(nics, count, &other, 5), "a CPU that no entry leads to");
	other = address("2001:db8::8");
	CHECK(!rss_find(nics, count, &other, 4), "a family it does not hash");
	CHECK(!rss_find(nics, 0, &mine, 1), "no NICs");
}

static void put(const char *path, const char *text)
{
	char fresh[160];
	FILE *file;

	snprintf(fresh, sizeof(fresh), "%s.new", path);
	file = fopen(fresh, "w");
	fputs(text, file);
	fclose(file);
	rename(fresh, path);
}

/* DIR/rss comes, changes, is wrong, is no file, goes. */
static void looking(void)
{
	const struct rss_nic *former;
	char path[120];
	int count;

	snprintf(path, sizeof(path), "%s/rss", settings.dir);
	rss_look();
	rss_now(&count);
	CHECK(count == 0, "no file: no NICs");
	put(path, "a 4 " KEY " 0,1\n");
	rss_now(&count);
	CHECK(count == 0, "nothing is read before it is looked at");
	rss_look();
	former = rss_now(&count);
	CHECK(count == 1 && former->cpu[1] == 1, "it comes");
	rss_look();
	CHECK(rss_now(&count) == former, "the same file is not read again");
	put(path, "a 4 " KEY " 5,6\nb 4 " KEY " 0\n");
	rss_look();
	CHECK(rss_now(&count)->cpu[1] == 6 && count == 2, "it changes");
	CHECK(former->cpu[1] == 1, "and who still looks at the former one sees that");
	put(path, "nonsense\n");
	rss_look();
	rss_now(&count);
	CHECK(count == 0, "it is wrong");
	unlink(path);
	CHECK(!mkfifo(path, 0600), "a FIFO in its place");
	rss_look();
	rss_now(&count);
	CHECK(count == 0, "is not waited for");
	put(path, "a 4 " KEY " 0,1\n");
	rss_look();
	rss_now(&count);
	CHECK(count == 1, "it comes back");
	unlink(path);
	rss_look();
	rss_now(&count);
	CHECK(count == 0, "it goes");
}

void unit_rss(void)
{
	int log = settings.log;

	settings.log = 0;
	vectors();
	properties();
	files();
	choice();
	looking();
	settings.log = log;
}
