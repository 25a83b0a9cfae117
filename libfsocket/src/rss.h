/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Receive side scaling: to which CPU the NIC brings a packet. The NIC hashes addresses
 * and ports with its key (Toeplitz) and looks the low bits of the hash up in a table of
 * queues. Knowing key and table, the one who chooses the source port of a connection
 * chooses the CPU of its replies.
 *
 * DIR/rss says what the NICs do. Root writes it (`fsctl nic apply`); without the file
 * nothing here is used. It is text, one NIC a line, words separated by blanks:
 *
 *     NAME FAMILIES KEY CPUS [ADDRESS...]
 *     eth0 46 6d5a56da...01fa 0,1,2,3,0,1,2,- 192.0.2.7 2001:db8::7
 *
 * FAMILIES  4, 6 or 46: the IP versions whose TCP packets are hashed with their ports
 * KEY       hexadecimal, RSS_KEY_BYTES or more
 * CPUS      for each entry of the table the CPU that serves its queue, "-": no one CPU; a power of two of entries
 * ADDRESS   the local addresses whose packets this NIC receives; none: all
 *
 * '#' begins a comment. A line that is not so is left out, with a warning. Of several lines
 * that fit an address the first counts. The toeplitz hash is linear: the hash of a
 * whole input is the XOR of the hashes of its parts, so a port costs two look-ups.
 */
#ifndef FSOCKET_RSS_H
#define FSOCKET_RSS_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
	RSS_KEY_BYTES = 40,	/* what two IPv6 addresses and ports need */
	RSS_TABLE = 4096,	/* entries */
	RSS_ADDRESSES = 16,
	RSS_NICS = 8,
	RSS_FILE = 256 << 10,	/* longer files are not read */
	RSS_NO_CPU = 0xffff,
};

struct rss_nic {
	char name[16];
	int four, six;			/* families hashed with their ports */
	uint8_t key[RSS_KEY_BYTES];
	uint32_t entries;		/* a power of two */
	uint16_t cpu[RSS_TABLE];
	int addresses;			/* 0: any */
	struct in6_addr address[RSS_ADDRESSES];	/* IPv4 mapped into IPv6 */
	/* Terms of the destination port of an IPv4 and of an IPv6 packet: high and low byte. */
	uint32_t high[2][256], low[2][256];
};

/* Two ends of a connection as a reply's packet has them; IPv4 mapped into IPv6. */
struct rss_flow {
	struct in6_addr remote, local;
	in_port_t remote_port;		/* network byte order */
};

/* An address with its port, as an rss_flow has it; 0 when it is neither IPv4 nor IPv6. */
int rss_address(const struct sockaddr *address, struct in6_addr *result, in_port_t *port);

/* The Toeplitz hash of length bytes, at most RSS_KEY_BYTES - 4. */
uint32_t rss_hash(const uint8_t key[RSS_KEY_BYTES], const uint8_t *input, size_t length);

/* Lines of text into nics; returns how many. */
int rss_parse(const char *text, size_t length, struct rss_nic *nics, int most);

/* The NIC that receives for a local address and has cpu in its table, or NULL. */
const struct rss_nic *rss_find(const struct rss_nic *nics, int count, const struct in6_addr *local, int cpu);

/* The reply's hash without our port: XOR the port's term for the hash of the packet. */
uint32_t rss_base(const struct rss_nic *nic, const struct rss_flow *flow);
uint32_t rss_port_term(const struct rss_nic *nic, int six, uint16_t port);

/* The CPU a hash leads to, or RSS_NO_CPU. */
static inline unsigned int rss_cpu(const struct rss_nic *nic, uint32_t hash)
{
	return nic->cpu[hash & (nic->entries - 1)];
}

/*
 * The first port of first .. first + count - 1 whose replies come to cpu, looked for
 * from first + offset on and round the end; -1: none.
 */
int rss_port(const struct rss_nic *nic, int six, uint32_t base, unsigned int cpu, unsigned int first,
	     unsigned int count, unsigned int offset);

/* Read DIR/rss again if it is another file than before. Cheap when it is not: one stat(2). */
void rss_look(void);
/* What was read last; *count NICs. The memory stays as it is for ever. */
const struct rss_nic *rss_now(int *count);

#endif
