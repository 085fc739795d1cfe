//! Pod links and addresses, Service rules, over netlink. May import: meta, kinds, env.
