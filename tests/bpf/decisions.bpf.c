// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* bpf/lib as SEC("syscall") programs: the test sets the arguments, runs, reads the answer. */
#include "lib/addr.h"
#include "lib/agent.h"
#include "lib/capture.h"
#include "lib/lookup.h"

struct address_args {
	struct fl_address address;
	__u32 mapped, loopback, unspecified, stays_here;
};

struct endpoint_args {
	struct fl_endpoint original, agent;
	__u32 port4, bound;
};

struct decide_args {
	struct fl_pod pod;
	__u32 flags, has_pod, excluded;
	__u32 verdict;
};

struct captured_args {
	struct fl_captured captured;
	struct fl_address address;
	__u32 port;
	__u32 answer;
};

struct number_args {
	__u32 a, b;
	__u32 answer;
};

struct own_args {
	struct fl_address remote, local;
	__u32 answer;
};

struct range_args {
	__u64 cookie;
	struct fl_address address;
	struct fl_excluded_range key;
};

SEC("syscall")
int test_address(struct address_args *args)
{
	struct fl_address address = args->address;

	args->mapped = fl_addr_is_mapped(&address);
	args->loopback = fl_addr_is_loopback(&address);
	args->unspecified = fl_addr_is_unspecified(&address);
	args->stays_here = fl_addr_stays_here(&address);
	return 0;
}

SEC("syscall")
int test_agent_endpoint(struct endpoint_args *args)
{
	struct fl_endpoint original = args->original, agent = {};

	fl_agent_endpoint(&agent, &original, args->port4, args->bound);
	args->agent = agent;
	return 0;
}

SEC("syscall")
int test_decide(struct decide_args *args)
{
	struct fl_pod pod = args->pod;

	args->verdict = fl_decide(args->flags, args->has_pod ? &pod : 0, args->excluded);
	return 0;
}

SEC("syscall")
int test_captured(struct captured_args *args)
{
	struct fl_captured captured = args->captured;
	struct fl_address address = args->address;

	args->answer = fl_is_captured(&captured, &address, args->port);
	return 0;
}

SEC("syscall")
int test_is_tcp(struct number_args *args)
{
	args->answer = fl_is_tcp(args->a, args->b);
	return 0;
}

SEC("syscall")
int test_lookup_concerns(struct number_args *args)
{
	args->answer = fl_lookup_concerns(args->a, args->b);
	return 0;
}

SEC("syscall")
int test_lookup_is_own(struct own_args *args)
{
	struct fl_address remote = args->remote, local = args->local;

	args->answer = fl_lookup_is_own(&remote, &local);
	return 0;
}

SEC("syscall")
int test_range_key(struct range_args *args)
{
	struct fl_address address = args->address;
	struct fl_excluded_range key;

	fl_range_key(&key, args->cookie, &address);
	args->key = key;
	return 0;
}

/* So that the type is in the BTF of an object: programs only ever have it behind a pointer of the ring. */
SEC("syscall")
int test_event(struct fl_event *event)
{
	return event->end;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
