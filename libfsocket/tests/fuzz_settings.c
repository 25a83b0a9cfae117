/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any environment: every setting ends within its range, the first entry of its name if that is, else its default. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "settings.h"

static const size_t offsets[] = {
#define SETTING(field, name, type, fallback, low, high, doc) offsetof(struct settings, field),
#include "settings.def"
#undef SETTING
};

static const char *first(char **entries, const char *name)
{
	size_t length = strlen(name);

	for (; *entries; entries++)
		if (!strncmp(*entries, name, length) && (*entries)[length] == '=')
			return *entries + length + 1;
	return NULL;
}

/* A whole number in decimal; the second opinion on strtol(). */
static int number(const char *text, int low, int high, int *value)
{
	long long sum = 0;
	int negative;

	text += strspn(text, " \t\n\v\f\r");
	negative = *text == '-';
	text += *text == '-' || *text == '+';
	if (!*text)
		return 0;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return 0;
		sum = sum > 1000000 ? sum : sum * 10 + (*text - '0');
	}
	*value = (int)(negative ? -sum : sum);
	return *value >= low && *value <= high;
}

static void check(const struct setting_row *row, const void *field, const char *given)
{
	int want = 0;

	if (row->type == SETTING_TEXT) {
		const char *text = *(const char *const *)field;
		size_t length = strlen(text);
		int fits = given && strlen(given) >= (size_t)row->low && strlen(given) <= (size_t)row->high;

		MUST(length >= (size_t)row->low && length <= (size_t)row->high);
		MUST(!strcmp(text, fits ? given : row->fallback));
		return;
	}
	if (!given || !number(given, row->low, row->high, &want))
		want = atoi(row->fallback);
	MUST(*(const int *)field == want);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *entries[FUZZ_ENTRIES + 1];

	fuzz_environment(data, size, entries);
	settings_read(entries);
	for (int i = 0; i < setting_count; i++)
		check(&setting_rows[i], (const char *)&settings + offsets[i], first(entries, setting_rows[i].name));
	/* The texts are in the environment, which goes now. */
	settings_read(NULL);
	fuzz_free(entries);
	return 0;
}
