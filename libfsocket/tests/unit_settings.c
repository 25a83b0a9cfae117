/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "settings.h"
#include "tap.h"

static const size_t offsets[] = {
#define SETTING(field, name, type, fallback, low, high, doc) offsetof(struct settings, field),
#include "settings.def"
#undef SETTING
};

/* Read entries (NULL-terminated); what was said on stderr is the result. */
static char *read_settings(char **entries)
{
	static char text[4096];
	int old = dup(STDERR_FILENO), ends[2];
	ssize_t length;

	if (old < 0 || pipe(ends))
		abort();
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	settings_read(entries);
	dup2(old, STDERR_FILENO);
	close(old);
	length = read(ends[0], text, sizeof(text) - 1);
	close(ends[0]);
	text[length > 0 ? length : 0] = '\0';
	return text;
}

static int lines(const char *text)
{
	int n = 0;

	while ((text = strchr(text, '\n'))) {
		text++;
		n++;
	}
	return n;
}

static char *one(const char *name, const char *value)
{
	static char entry[512], *list[] = { entry, NULL };

	snprintf(entry, sizeof(entry), "%s=%s", name, value);
	return read_settings(list);
}

/* The value of row i as text. */
static const char *value(int i)
{
	static char text[16];
	const char *field = (const char *)&settings + offsets[i];

	if (setting_rows[i].type == SETTING_TEXT)
		return *(char *const *)(const void *)field;
	snprintf(text, sizeof(text), "%d", *(const int *)(const void *)field);
	return text;
}

static void number_row(int i)
{
	static const char *const never[] = { "", " ", "x", "1x", "0x1", "1.0", "99999999999999999999", "-" };
	const struct setting_row *row = &setting_rows[i];
	char text[16];

	for (int at = row->low; at <= row->high; at++) {
		snprintf(text, sizeof(text), "%d", at);
		if (*one(row->name, text) || strcmp(value(i), text))
			break;
		if (at == row->high)
			CHECK(1, "%s takes %d..%d in silence", row->name, row->low, row->high);
	}
	CHECK(!strcmp(value(i), text) && atoi(text) == row->high, "%s: the last one taken is %s", row->name, text);
	for (int side = 0; side < 2; side++) {
		snprintf(text, sizeof(text), "%d", side ? row->high + 1 : row->low - 1);
		CHECK(lines(one(row->name, text)) == 1 && !strcmp(value(i), row->fallback),
		      "%s=%s: one warning, and the default", row->name, text);
	}
	for (unsigned int k = 0; k < sizeof(never) / sizeof(never[0]); k++) {
		const char *said = one(row->name, never[k]);

		CHECK(lines(said) == 1 && strstr(said, row->name) && !strcmp(value(i), row->fallback),
		      "%s=\"%s\": one warning that names it, and the default", row->name, never[k]);
	}
}

static void text_row(int i)
{
	const struct setting_row *row = &setting_rows[i];
	char text[256];

	memset(text, 'a', sizeof(text));
	text[row->high] = '\0';
	CHECK(!*one(row->name, text) && !strcmp(value(i), text), "%s takes %d characters", row->name, row->high);
	text[row->high] = 'a';
	text[row->high + 1] = '\0';
	CHECK(lines(one(row->name, text)) == 1 && !strcmp(value(i), row->fallback),
	      "%s: %d characters are too many", row->name, row->high + 1);
	if (row->low)
		CHECK(lines(one(row->name, "")) == 1 && !strcmp(value(i), row->fallback),
		      "%s: no character is too few", row->name);
}

void unit_settings(void)
{
	static char *nothing[] = { NULL };
	static char *strangers[] = { "FSOCKET_SPIL=5", "FSOCKETS=1", "PATH=/bin", "FSOCKET_=", "FSOCKET_SPILL", NULL };
	static char *quiet[] = { "FSOCKET_LOG=0", "FSOCKET_SPIL=5", NULL };
	static char *first[] = { "FSOCKET_SPILL=7", "FSOCKET_SPILL=8", NULL };
	char *said;

	for (int i = 0; i < setting_count; i++) {
		const struct setting_row *row = &setting_rows[i];
		int same = 0;

		for (int k = 0; k < i; k++)
			same += !strcmp(row->name, setting_rows[k].name);
		CHECK(!strncmp(row->name, "FSOCKET_", 8) && *row->doc && row->low <= row->high && !same,
		      "row %s: prefix, text, range, no twin", row->name);
		CHECK(!*read_settings(nothing) && !strcmp(value(i), row->fallback), "%s: default \"%s\"", row->name,
		      row->fallback);
		CHECK(!*one(row->name, row->fallback), "%s: its default is in its range", row->name);
		if (row->type == SETTING_TEXT)
			text_row(i);
		else
			number_row(i);
	}
	CHECK(!*read_settings(NULL) && settings.log == 1, "no environment at all gives the defaults");
	said = read_settings(strangers);
	CHECK(lines(said) == 3 && strstr(said, "FSOCKET_SPIL:") && !strstr(said, "FSOCKETS"),
	      "each unknown FSOCKET_ name gives one line, others none");
	CHECK(!*read_settings(quiet), "FSOCKET_LOG=0 keeps the warnings back");
	read_settings(first);
	CHECK(settings.spill == 7, "of two entries the first counts, as with getenv()");
	settings_read(environ);
}
