/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * <stdatomic.h>, and for GCC 4.7 and 4.8 (EL7), which have neither it nor
 * _Atomic, what we use of it: there an atomic variable is a volatile one, read
 * and written in one instruction. `make check-portability` compiles both ways.
 */
#ifndef FSOCKET_ATOMICS_H
#define FSOCKET_ATOMICS_H

#if !defined(FSOCKET_OLD_ATOMICS) && (defined(__clang__) || __GNUC__ * 100 + __GNUC_MINOR__ >= 409)
#include <stdatomic.h>
#else

#define _Atomic volatile

#define memory_order_relaxed __ATOMIC_RELAXED
#define memory_order_acquire __ATOMIC_ACQUIRE
#define memory_order_release __ATOMIC_RELEASE
#define memory_order_acq_rel __ATOMIC_ACQ_REL
#define memory_order_seq_cst __ATOMIC_SEQ_CST

/* By a temporary, for structs too; the cast takes volatile from its address. */
#define atomic_load_explicit(at, order) \
	__extension__ ({ __typeof__(*(at)) value_; __atomic_load(at, (char (*)[sizeof(value_)])&value_, order); value_; })
#define atomic_store_explicit(at, value, order) \
	__extension__ ({ __typeof__(*(at)) value_ = (value); __atomic_store(at, (char (*)[sizeof(value_)])&value_, order); })
#define atomic_exchange_explicit(at, value, order) __atomic_exchange_n(at, value, order)
#define atomic_fetch_add_explicit(at, value, order) __atomic_fetch_add(at, value, order)
#define atomic_fetch_sub_explicit(at, value, order) __atomic_fetch_sub(at, value, order)
#define atomic_compare_exchange_strong_explicit(at, expected, value, good, bad) \
	__atomic_compare_exchange_n(at, expected, value, 0, good, bad)
#define atomic_compare_exchange_weak_explicit atomic_compare_exchange_strong_explicit

#define atomic_load(at) atomic_load_explicit(at, memory_order_seq_cst)
#define atomic_store(at, value) atomic_store_explicit(at, value, memory_order_seq_cst)
#define atomic_exchange(at, value) atomic_exchange_explicit(at, value, memory_order_seq_cst)
#define atomic_fetch_add(at, value) atomic_fetch_add_explicit(at, value, memory_order_seq_cst)
#define atomic_fetch_sub(at, value) atomic_fetch_sub_explicit(at, value, memory_order_seq_cst)
#define atomic_compare_exchange_strong(at, expected, value) \
	atomic_compare_exchange_strong_explicit(at, expected, value, memory_order_seq_cst, memory_order_seq_cst)

typedef volatile char atomic_flag;
#define ATOMIC_FLAG_INIT 0
#define atomic_flag_test_and_set_explicit(at, order) __atomic_test_and_set(at, order)
#define atomic_flag_clear_explicit(at, order) __atomic_clear(at, order)

#endif
#endif
