//! The parts of the harness: the generator (`drive`, `loads`, `fanout`, on `pool` and `connection`), the sides (`servers`,
//! `serve`, `stub`), what they cost (`usage`), and the loads by name (`harness`, `growth` with its `plot`).

mod connection;
pub mod drive;
mod fanout;
mod growth;
pub mod harness;
mod histogram;
mod loads;
mod plot;
mod pool;
mod proto;
pub mod serve;
pub mod servers;
pub mod stub;
mod usage;
