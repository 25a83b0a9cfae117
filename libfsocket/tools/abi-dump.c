/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fsocket_abi.h as JSON, for readers in other languages and their tests:
 * {"constants": {NAME: number or text},
 *  "structs": {NAME: {"size": bytes, "fields": {NAME: {"offset": bytes, "size": bytes of one,
 *                     "count": how many, "kind": "uint" | "int" | "text"}}}}}
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "fsocket_abi.h"

#define FIELD(owner, field, count, kind) \
	{ #owner, sizeof(struct owner), #field, offsetof(struct owner, field), \
	  sizeof(((struct owner *)0)->field) / (count), count, kind }
#define U(owner, field) FIELD(owner, field, 1, "uint")
#define I(owner, field) FIELD(owner, field, 1, "int")
#define T(owner, field) FIELD(owner, field, 1, "text")
#define N(name) { #name, (long)(name) }

static const struct {
	const char *owner;
	size_t owner_size;
	const char *name;
	size_t offset, size, count;
	const char *kind;
} fields[] = {
	T(fsocket_header, magic), U(fsocket_header, version), U(fsocket_header, header_size),
	U(fsocket_header, cpu_count), U(fsocket_header, cpu_offset), U(fsocket_header, cpu_size),
	U(fsocket_header, listener_count), U(fsocket_header, listener_offset),
	U(fsocket_header, listener_size), U(fsocket_header, slot_count), U(fsocket_header, slot_offset),
	U(fsocket_header, slot_size), U(fsocket_header, capabilities), U(fsocket_header, port_first),
	U(fsocket_header, port_block), U(fsocket_header, created),
	FIELD(fsocket_header, errors, FSOCKET_ERR_COUNT, "uint"),
	U(fsocket_header, lock), U(fsocket_header, reserved), T(fsocket_header, library),

	U(fsocket_cpu, accepts),
	U(fsocket_cpu, accepts_local), U(fsocket_cpu, accepts_remote), U(fsocket_cpu, accepts_global),
	U(fsocket_cpu, connects_local), U(fsocket_cpu, connects_remote), U(fsocket_cpu, connects_steered),
	U(fsocket_cpu, connects_unsteered), U(fsocket_cpu, spills), U(fsocket_cpu, accepts_helped),
	FIELD(fsocket_cpu, reserved, 6, "uint"),

	U(fsocket_listener, cookie), U(fsocket_listener, mode), U(fsocket_listener, orphans),
	I(fsocket_listener, pid), U(fsocket_listener, port), U(fsocket_listener, sole),
	T(fsocket_listener, address),

	U(fsocket_slot, listener), U(fsocket_slot, cookie), U(fsocket_slot, state), I(fsocket_slot, cpu),
	I(fsocket_slot, pid), I(fsocket_slot, tid), U(fsocket_slot, queue), U(fsocket_slot, backlog),
	U(fsocket_slot, accepts), I(fsocket_slot, fd), I(fsocket_slot, taken),
	FIELD(fsocket_slot, reserved, 1, "uint"),
};

static const struct {
	const char *name;
	long value;
} constants[] = {
	N(FSOCKET_ABI_VERSION), N(FSOCKET_SWITCH_MS), N(FSOCKET_TICK_MS), N(FSOCKET_LOOKS),
	N(FSOCKET_SWITCH_ON), N(FSOCKET_SWITCH_OFF), N(FSOCKET_SWITCH_LEAVE),
	N(FSOCKET_ERR_PREPARE), N(FSOCKET_ERR_CLAIM), N(FSOCKET_ERR_UNPINNED), N(FSOCKET_ERR_TAKEN),
	N(FSOCKET_ERR_ACCEPT), N(FSOCKET_ERR_MODE), N(FSOCKET_ERR_PORTS), N(FSOCKET_ERR_TABLE),
	N(FSOCKET_ERR_COUNT),
	N(FSOCKET_CAP_INCOMING_CPU), N(FSOCKET_CAP_PORT_RANGE), N(FSOCKET_CAP_MIGRATE),
	N(FSOCKET_CAP_PROBED), N(FSOCKET_CAP_CBPF), N(FSOCKET_CAP_LOCAL_LISTEN),
	N(FSOCKET_MODE_UNKNOWN), N(FSOCKET_MODE_SLOTS), N(FSOCKET_MODE_GLOBAL),
	N(FSOCKET_MODE_SHARDED),
	N(FSOCKET_SLOT_FREE), N(FSOCKET_SLOT_ON), N(FSOCKET_SLOT_OFF), N(FSOCKET_SLOT_SPILLING),
	N(FSOCKET_SLOT_ORPHAN),
};

int main(void)
{
	const char *owner = "";

	printf("{\"constants\": {\"FSOCKET_MAGIC\": \"FSOCKET\\n\"");
	for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++)
		printf(", \"%s\": %ld", constants[i].name, constants[i].value);
	printf("},\n\"structs\": {");
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (strcmp(owner, fields[i].owner))
			printf("%s\n\"%s\": {\"size\": %zu, \"fields\": {\n", i ? "}}," : "",
			       fields[i].owner, fields[i].owner_size);
		else
			printf(",\n");
		owner = fields[i].owner;
		printf(" \"%s\": {\"offset\": %zu, \"size\": %zu, \"count\": %zu, \"kind\": \"%s\"}",
		       fields[i].name, fields[i].offset, fields[i].size, fields[i].count, fields[i].kind);
	}
	printf("}}}}\n");
	return 0;
}
