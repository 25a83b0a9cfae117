/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any text as DIR/rss: what is taken is whole, and a port that is found for a CPU leads there. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "rss.h"

#define FIRST 32768
#define COUNT 512

/* No port of the range leads to the CPU, or the one that is found does. */
static void search(const struct rss_nic *nic, int six, uint32_t base, unsigned int cpu)
{
	int found = rss_port(nic, six, base, cpu, FIRST, COUNT, base % COUNT);

	if (found >= 0) {
		MUST(found >= FIRST && found < FIRST + COUNT);
		MUST(rss_cpu(nic, base ^ rss_port_term(nic, six, (uint16_t)found)) == cpu);
		return;
	}
	for (int port = FIRST; port < FIRST + COUNT; port++)
		MUST(rss_cpu(nic, base ^ rss_port_term(nic, six, (uint16_t)port)) != cpu);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rss_nic nics[RSS_NICS];
	/* No NUL behind it: ASan sees who looks for one. */
	char *text = malloc(size ? size : 1);
	int count;

	MUST(text);
	if (size)
		memcpy(text, data, size);
	count = rss_parse(text, size, nics, RSS_NICS);
	free(text);
	MUST(count >= 0 && count <= RSS_NICS);
	for (int i = 0; i < count; i++) {
		const struct rss_nic *nic = &nics[i];

		MUST(*nic->name && strnlen(nic->name, sizeof(nic->name)) < sizeof(nic->name));
		MUST(nic->four || nic->six);
		MUST(nic->entries && nic->entries <= RSS_TABLE && !(nic->entries & (nic->entries - 1)));
		MUST(nic->addresses >= 0 && nic->addresses <= RSS_ADDRESSES);
		if (nic->cpu[0] != RSS_NO_CPU)
			search(nic, !nic->four, (uint32_t)size * 2654435761u, nic->cpu[0]);
	}
	return 0;
}
