/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Where a kernel helper can fail: index of fl_errors, a per-CPU array of counts. X(NAME, name): the name is what user
 * space shows behind "error.".
 */
#ifndef FAIRLEAD_ABI_SITES_H
#define FAIRLEAD_ABI_SITES_H

#define FL_SITES(X)                                                                        \
	X(CONNECT_STORAGE, connect_storage) /* no memory for socket storage: denied */     \
	X(CONNECT_RETVAL, connect_retval)   /* errno not set: EPERM instead */             \
	X(SOCKOPS_PUBLISH, sockops_publish) /* fl_origdst not written: the agent refuses */ \
	X(SOCKOPS_FLAGS, sockops_flags)	    /* no state callback: a stale entry may stay */ \
	X(LOOKUP_ASSIGN, lookup_assign)	    /* listener not assigned: dropped */
enum fl_site {
#define FL_SITE_ENUM(id, name) FL_SITE_##id,
	FL_SITES(FL_SITE_ENUM)
#undef FL_SITE_ENUM
	FL_SITE_MAX
};

#endif
