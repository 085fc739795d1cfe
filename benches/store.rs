//! Store throughput, beside etcd: the harness that issue 4 asks for.
//!
//! `cargo bench --bench store` runs every load; `-- put-3 txn-3` those named, `--quick` each for a moment, `--only etcd,stub`
//! some sides. Prints `figure <name> <value> <unit>` lines. The servers, and the generator, are processes of their own:
//! this program runs itself.

#![allow(clippy::disallowed_methods, reason = "it runs servers, and looks whether they serve")]

#[path = "support/figures.rs"]
mod figures;
#[path = "store/mod.rs"]
mod store;

use store::drive::Ask;
use store::harness::{Harness, Size};
use store::servers::Side;

/// orchd's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--drive") => store::drive::run(&Ask::parse(&args[1..])),
        Some("--serve-store") => runtime().block_on(store::serve::serve(&args[1..])),
        Some("--serve-stub") => {
            let (listen, value_bytes) = (args[1].parse().expect("an address"), args[2].parse().expect("bytes"));
            runtime().block_on(store::stub::serve(listen, value_bytes));
        }
        _ => measure(&args),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn measure(args: &[String]) {
    let size = if args.iter().any(|arg| arg == "--quick") { Size::QUICK } else { Size::FULL };
    let mut only = Vec::new();
    let mut names = Vec::new();
    let mut words = args.iter().filter(|arg| *arg != "--quick");
    while let Some(word) = words.next() {
        if word == "--only" {
            let sides = words.next().expect("--only SIDE,…");
            only.extend([Side::Etcd, Side::Orchd, Side::Stub].into_iter().filter(|side| sides.split(',').any(|s| s == side.name())));
        } else {
            names.push(word.clone());
        }
    }
    Harness::new(size, &only).run(&names);
}
