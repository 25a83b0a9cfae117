/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "settings.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct setting_row setting_rows[] = {
#define SETTING(field, name, type, fallback, low, high, doc) \
	{ name, SETTING_##type, fallback, low, high, doc },
#include "settings.def"
#undef SETTING
};
const int setting_count = sizeof(setting_rows) / sizeof(setting_rows[0]);

struct settings settings = { .log = 1 };

/* All libfsocket variables start so; others are none of our business. */
static const char prefix[] = "FSOCKET_";

void say(int level, const char *format, ...)
{
	char line[256] = "libfsocket: ";
	int keep = errno, at = (int)strlen(line);
	va_list list;

	if (level > settings.log)
		return;
	va_start(list, format);
	vsnprintf(line + at, sizeof(line) - (size_t)at - 1, format, list);
	va_end(list);
	strcat(line, "\n");
	/* One write(2), so that lines of several workers do not mix. */
	if (write(STDERR_FILENO, line, strlen(line)) < 0)
		errno = keep;	/* nobody listens: nothing to do about it */
	errno = keep;
}

/* 1 when text is a whole number in low..high. */
static int whole(const char *text, int low, int high, int *value)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || end == text || *end || n < low || n > high)
		return 0;
	*value = (int)n;
	return 1;
}

static int store(const struct setting_row *row, void *field, const char *text)
{
	size_t length = strlen(text);

	if (row->type != SETTING_TEXT)
		return whole(text, row->low, row->high, field);
	if (length < (size_t)row->low || length > (size_t)row->high)
		return 0;
	*(const char **)field = text;
	return 1;
}

static const char *lookup(char **environment, const char *name)
{
	size_t length = strlen(name);

	for (; *environment; environment++)
		if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

static void read_one(const struct setting_row *row, void *field, char **environment)
{
	const char *text = lookup(environment, row->name);

	store(row, field, row->fallback);
	if (!text || store(row, field, text))
		return;
	if (row->type == SETTING_TEXT)
		say(1, "%s: needs %d to %d characters; taking \"%s\"", row->name, row->low,
		    row->high, row->fallback);
	else
		say(1, "%s=%.40s: needs a whole number from %d to %d; taking %s", row->name, text,
		    row->low, row->high, row->fallback);
}

static int known(const char *entry)
{
	for (int i = 0; i < setting_count; i++) {
		size_t length = strlen(setting_rows[i].name);

		if (!strncmp(entry, setting_rows[i].name, length) && entry[length] == '=')
			return 1;
	}
	return 0;
}

void settings_read(char **environment)
{
	static char *nothing[] = { NULL };
	const struct setting_row *row = setting_rows;

	if (!environment)
		environment = nothing;
#define SETTING(field, name, type, fallback, low, high, doc) \
	read_one(row++, &settings.field, environment);
#include "settings.def"
#undef SETTING
	for (char **e = environment; *e; e++)
		if (!strncmp(*e, prefix, sizeof(prefix) - 1) && !known(*e))
			say(1, "%.*s: no such setting, see libfsocket(7)",
			    (int)strcspn(*e, "="), *e);
}
