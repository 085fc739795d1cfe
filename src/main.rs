use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // A shim forks: it must run before anything starts a thread.
    if args.first().is_some_and(|verb| verb == orchd_runtime::SHIM_VERB) {
        return ExitCode::from(u8::try_from(orchd_runtime::shim_main(&args[1..])).unwrap_or(1));
    }
    ExitCode::SUCCESS
}
