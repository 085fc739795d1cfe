//! The real binary, as its users run it: the demo, kubectl, faults, bad input. Needs root; each cluster has a network
//! namespace of its own.

#![allow(clippy::disallowed_methods, reason = "the bans are for the product; tests run programs")]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod demo;
mod disk_full;
mod faults;
mod kubectl;
mod lab;
mod nodes;
mod store_port;
