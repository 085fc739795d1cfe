use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    // A shim forks: it must run before anything starts a thread.
    if args.next().is_some_and(|verb| verb == orchd_runtime::SHIM_VERB) {
        let rest: Vec<String> = args.collect();
        return ExitCode::from(u8::try_from(orchd_runtime::shim_main(&rest)).unwrap_or(1));
    }
    orchd::cli::run()
}
