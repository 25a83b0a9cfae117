/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any environment, cleaned: nothing of ours is left, and of the rest nothing is missing, in its order. Wants
 * FSOCKET_DIR and FSOCKET_NAME with a switch that says LEAVE.
 */
#define _GNU_SOURCE
#include "fuzz.h"
#include "leave.h"
#include "shared.h"

#define PRELOAD "LD_PRELOAD="

static int begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* The next item of a list of libraries that is not ours; its length, 0 at the end. */
static size_t item(const char **list)
{
	for (;;) {
		size_t length;
		const char *base;

		*list += strspn(*list, " :");
		length = strcspn(*list, " :");
		base = *list + length;
		while (base > *list && base[-1] != '/')
			base--;
		if (!length || strncmp(base, "libfsocket.so", strlen("libfsocket.so")))
			return length;
		*list += length;
	}
}

/* The same foreign libraries in both. */
static void same_list(const char *before, const char *after)
{
	for (;;) {
		size_t length = item(&before);

		MUST(strcspn(after, " :") == length && !strncmp(before, after, length));
		if (!length)
			break;
		before += length;
		after += length;
		MUST(*after == ':' || !*after);
		after += *after == ':';
	}
	MUST(!*after);
}

static void compare(char **before, char *const *after)
{
	for (; *before; before++) {
		const char *list = *before + strlen(PRELOAD);

		if (begins(*before, "FSOCKET_"))
			continue;
		if (!begins(*before, PRELOAD)) {
			MUST(*after == *before);
			after++;
		} else if (item(&list)) {
			MUST(*after && begins(*after, PRELOAD));
			same_list(*before + strlen(PRELOAD), *after + strlen(PRELOAD));
			after++;
		}
	}
	MUST(!*after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *entries[FUZZ_ENTRIES + 1];
	size_t needs;
	int ours = 0;

	MUST(shared.header && switch_at(coarse_ms()) == FSOCKET_SWITCH_LEAVE);
	fuzz_environment(data, size, entries);
	for (char **e = entries; *e; e++)
		ours |= begins(*e, PRELOAD) && strstr(*e, "libfsocket.so");
	needs = leave_size(entries);
	MUST(!!needs == ours);
	if (needs) {
		/* Exactly so much: ASan sees one byte more. */
		void *memory = malloc(needs);

		MUST(memory);
		compare(entries, leave_clean(entries, memory));
		free(memory);
	}
	fuzz_free(entries);
	return 0;
}
