/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the fuzzers share: an environment out of any bytes, and how they say that something is wrong. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_ENTRIES 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stdout, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			fflush(stdout); \
			abort(); \
		} \
	} while (0)

/* The bytes are entries with a NUL after each. Each is a block of its own, so that ASan sees one byte too many. */
static inline size_t fuzz_environment(const uint8_t *data, size_t size, char *entries[FUZZ_ENTRIES + 1])
{
	size_t count = 0;

	while (size && count < FUZZ_ENTRIES) {
		size_t length = strnlen((const char *)data, size);

		entries[count] = malloc(length + 1);
		MUST(entries[count]);
		memcpy(entries[count], data, length);
		entries[count++][length] = '\0';
		length += length < size;
		data += length;
		size -= length;
	}
	entries[count] = NULL;
	return count;
}

static inline void fuzz_free(char **entries)
{
	for (; *entries; entries++)
		free(*entries);
}

#endif
