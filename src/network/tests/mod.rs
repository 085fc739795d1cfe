//! Tests of the network: pure ones of state and rules, and real ones in network namespaces of their own.

mod lab;
mod pods;
mod services;
mod state;
