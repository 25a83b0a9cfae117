/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "leave.h"

#include <string.h>

#include "shared.h"

static const char preload[] = "LD_PRELOAD=";
static const char ours[] = "libfsocket.so";
static const char own_prefix[] = "FSOCKET_";

static int is_preload(const char *entry)
{
	return !strncmp(entry, preload, sizeof(preload) - 1);
}

/* An entry of the list is ours by its last path component: libfsocket.so, libfsocket.so.0.1.0 */
static int is_ours(const char *item, size_t length)
{
	const char *slash = memrchr(item, '/', length);
	size_t rest = slash ? length - (size_t)(slash + 1 - item) : length;
	const char *base = slash ? slash + 1 : item;

	return rest >= sizeof(ours) - 1 && !strncmp(base, ours, sizeof(ours) - 1);
}

size_t leave_size(char *const *environment)
{
	size_t size = sizeof(char *);
	int found = 0;

	if (!shared.header || !environment || switch_at(coarse_ms()) != FSOCKET_SWITCH_LEAVE)
		return 0;
	for (; *environment; environment++) {
		size += sizeof(char *);
		if (is_preload(*environment)) {
			found |= strstr(*environment, ours) != NULL;
			size += strlen(*environment) + 1;
		}
	}
	return found ? size : 0;
}

/* entry without our library; the empty string when nothing is left. */
static void strip(const char *entry, char *out)
{
	const char *at = entry + sizeof(preload) - 1;
	char *start = out, *first = out + sizeof(preload) - 1;

	memcpy(out, preload, sizeof(preload) - 1);
	out = first;
	while (*at) {
		/* ld.so(8): separated by spaces or colons. */
		size_t length = strcspn(at, " :");

		if (length && !is_ours(at, length)) {
			if (out != first)
				*out++ = ':';
			memcpy(out, at, length);
			out += length;
		}
		at += length;
		at += strspn(at, " :");
	}
	*out = '\0';
	if (out == first)
		*start = '\0';
}

char *const *leave_clean(char *const *environment, void *memory)
{
	char **list = memory, *text;
	size_t count = 0, kept = 0;

	while (environment[count])
		count++;
	text = (char *)(list + count + 1);
	for (size_t i = 0; i < count; i++) {
		if (!strncmp(environment[i], own_prefix, sizeof(own_prefix) - 1))
			continue;
		if (!is_preload(environment[i])) {
			list[kept++] = environment[i];
			continue;
		}
		strip(environment[i], text);
		if (*text)
			list[kept++] = text;
		text += strlen(environment[i]) + 1;
	}
	list[kept] = NULL;
	return list;
}
